"""What a run says: at once, in bars that fit the terminal, and in lines with the time of day where there is none."""

import io
import os
import re
import subprocess
import sys

import pytest
from rich.cells import cell_len
from rich.console import Console

from advantageflow.config import check_config
from advantageflow.run import progress
from advantageflow.run.pace import Pace, duration, images_after
from advantageflow.run.progress import Bars, Display, change, number, say

# A process that ends at the first import of anything heavy
STOPS = """
import os, sys
class Heavy:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "numpy", "scipy", "diffusers", "transformers"):
            os._exit(7)
sys.meta_path.insert(0, Heavy())
from advantageflow.cli import main
sys.argv = ["advantageflow", *sys.argv[1:]]
main()
"""


def config(**sections):
    return check_config({"evaluation": {"rewards": {"strict": "scenes_strict"}}, **sections})


def terminal(width):
    """A terminal, and what is written to it."""
    file = io.StringIO()
    return Console(file=file, width=width, force_terminal=True, force_interactive=True), file


def log_file():
    file = io.StringIO()
    return Console(file=file, force_terminal=False), file


def row(iteration, reward=0.4123, seconds=(1.0, 0.5, 2.5)):
    sampling, scoring, learning = seconds
    return {
        "iteration": iteration, "reward/mean": reward, "seconds/sampling": sampling, "seconds/scoring": scoring,
        "seconds/learning": learning, "seconds/training": (iteration + 1) * sum(seconds),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["scenes", "--output", "runs/mine"], "AdvantageFlow: scenes, run folder runs/mine"),
        (["learn.t_draws=2"], r"AdvantageFlow: scenes, run folder runs/scenes-\d{8}-\d{6}"),
        (["scenes-nft"], r"AdvantageFlow: scenes-nft, run folder runs/scenes-nft-\d{8}-\d{6}"),
        (["--resume", "runs/mine"], "AdvantageFlow: going on with run folder runs/mine"),
    ],
)
def test_a_run_speaks_before_it_imports_anything_heavy(arguments, line, tmp_path):
    command = [sys.executable, "-c", STOPS, "train", *arguments]
    found = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert found.returncode == 7, found.stderr
    assert re.fullmatch(rf"\d\d:\d\d:\d\d {line}\n", found.stdout)


@pytest.mark.parametrize(("width", "shown"), [(40, "count, left"), (60, "count, spent, left"), (80, "all")])
def test_bars_lose_columns_and_no_line_wraps(width, shown):
    console, file = terminal(width)
    bars = Bars(console)
    bars.add("training, reward 0.412", 150, 3)
    bars.add("evaluating a model with quite a long name, such as scenes+runs/mine/lora, guidance 4.5", 480)
    console.print(bars._progress)
    lines = re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", file.getvalue()).splitlines()
    assert len(lines) == 2
    assert all(cell_len(line) <= width for line in lines)
    assert "3/150" in lines[0]
    assert "training, reward 0.412" in lines[0]
    assert lines[0].count(":") == {"count, left": 2, "count, spent, left": 4, "all": 4}[shown]  # of the times
    assert ("━" in lines[0]) is (shown == "all")
    assert "…" in lines[1]


def test_a_log_file_has_a_line_for_each_iteration_with_the_time_of_day():
    console, file = log_file()
    with Display(console, config(run={"iterations": 150})) as display:
        for stage, total in (("sampling", 192), ("learning", 1728)):
            display.stage(stage, total)
            display.advance(total)
        for iteration in range(3):
            display.iteration_done(row(iteration))
    lines = file.getvalue().splitlines()
    assert all(re.match(r"\d\d:\d\d:\d\d \S", line) for line in lines)
    assert [line[9:] for line in lines] == [
        "iteration 1 of 150: reward 0.412, sampling 1.0 s, learning 2.5 s",
        "about 10 min left: 149 iterations of 4.0 s, evaluations aside",
        "iteration 2 of 150: reward 0.412, sampling 1.0 s, learning 2.5 s, about 10 min left",
        "iteration 3 of 150: reward 0.412, sampling 1.0 s, learning 2.5 s, about 10 min left",
    ]


def test_a_terminal_has_bars_and_lines_about_evaluations_alone():
    console, file = terminal(80)
    with Display(console, config(run={"iterations": 1})) as display:
        display.evaluated(0, {"strict": 0.344}, None)
        display.iteration_done(row(0))
        display.evaluated(1, {"strict": 0.381}, {"strict": {"value": 0.037, "low": 0.017, "high": 0.057}})
    text = file.getvalue()
    assert "base model: strict .344\n" in text
    assert "iteration 1: strict .381 (+.037 ± .020)\n" in text
    assert "iteration 1 of" not in text
    assert "━" in text


def test_long_work_in_a_log_file_says_a_line_now_and_then(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    console, file = log_file()
    with Bars(console) as bars:
        task = bars.add("a [bold] model", 100)
        for _ in range(100):
            clock[0] += 1.0
            bars.advance(task)
    assert [line[9:] for line in file.getvalue().splitlines()] == [
        f"a [bold] model: {done} of 100" for done in (30, 60, 90, 100)
    ]


def test_a_line_is_written_as_it_is_and_is_not_folded():
    console, file = log_file()
    text = "[red] :smile: " + "x" * 200
    say(console, text)
    assert file.getvalue()[9:] == text + "\n"


@pytest.mark.parametrize(
    ("value", "text"), [(0.381, ".381"), (1.0, "1.000"), (21.25, "21.250"), (-0.02, "-.020"), (0.0, ".000")]
)
def test_scores_are_short(value, text):
    assert number(value) == text


def test_a_difference_has_half_its_interval_but_for_one_image():
    assert change({"value": 0.037, "low": 0.017, "high": 0.057}) == "+.037 ± .020"
    assert change({"value": -0.5, "low": None, "high": None}) == "-.500"


def test_a_difference_that_is_small_beside_its_score_is_not_rounded_away():
    """As of a reward whose values lie close together: this one is more than its interval."""
    assert change({"value": 0.000328, "low": 0.000184, "high": 0.000472}) == "+.0003 ± .0001"
    assert change({"value": 0.0, "low": 0.0, "high": 0.0}) == "+.000 ± .000"


def test_the_time_left_counts_iterations_and_evaluations():
    settings = config(
        run={"iterations": 10, "samples_every": 100}, evaluation={"num_images": 52, "every": 4, "rewards": {"a": "x:y"}}
    )
    # after 3: evaluations after 4 and 8, and the last one, whose first images are the pictures; and perhaps of the base
    assert images_after(settings, 3, 10, True) == 3 * 52
    assert images_after(settings, 3, 10, False) == 4 * 52
    assert images_after(settings, 4, 10, True) == 2 * 52
    pace = Pace(settings)
    pace.iterated(9.0)
    assert pace.expected(1, 10) == "about 81 s left: 9 iterations of 9.0 s, evaluations aside"
    pace.iterated(2.0)
    pace.iterated(4.0)
    pace.evaluated(50, 5.0)
    assert pace.left(3, 10) == pytest.approx(7 * 3.0 + 208 * 0.1)  # the first iteration warmed up


@pytest.mark.parametrize(
    ("shown", "pictures"),
    # after 5 of 10, with samples every 2 and evaluations every 4: at 6; at 6, 8 and the end
    [(24, 24), (60, 3 * 60), (["a", "b"], 3 * 2)],
)
def test_pictures_that_are_drawn_on_their_own_are_counted(shown, pictures):
    settings = config(
        run={"iterations": 10, "samples_every": 2},
        evaluation={"num_images": 52, "every": 4, "rewards": {"a": "x:y"}, "prompts_shown": shown},
    )
    assert images_after(settings, 5, 10, True) == 2 * 52 + pictures


def test_with_a_budget_in_time_the_end_is_foreseen():
    pace = Pace(config(run={"iterations": 1_000_000, "max_seconds": 60}))
    pace.iterated(4.0)
    assert pace.last(1, 4.0) == 15
    assert pace.told(15) == "about 15"
    assert pace.last(15, 61.0) == 15


@pytest.mark.parametrize(
    ("seconds", "text"), [(2.64, "2.6 s"), (40, "40 s"), (200, "3 min"), (5000, "83 min"), (9000, "2.5 h")]
)
def test_durations(seconds, text):
    assert duration(seconds) == text


def test_of_what_transformers_warns_only_the_fallback_of_image_processors_is_left_out():
    code = """
import logging, os, sys
from advantageflow.models import adapter_of
adapter_of("StableDiffusion3Pipeline")
logging.getLogger("transformers.utils.import_utils").warning("another matter")
sys.stderr.flush()
os._exit(0)
"""
    environment = {name: value for name, value in os.environ.items() if name != "TRANSFORMERS_VERBOSITY"}
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert found.stderr.splitlines() == ["[transformers] another matter"]
