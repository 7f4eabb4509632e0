"""Trackers: each is told every step once, whatever stops the run, and none can stop a run or change its result."""

import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
from command_line import command_line
from test_trainer import make_config, make_trainer, stop_after

from advantageflow import trackers
from advantageflow.config import RunSettings, load_config
from advantageflow.config_errors import ALLOWED
from advantageflow.errors import ConfigError
from advantageflow.run import tracking
from advantageflow.run.bystander import Bystander
from advantageflow.run.directory import RunDirectory
from advantageflow.run.stored import read_object
from advantageflow.run.tracking import Tracking
from advantageflow.trackers.base import Opening, Tracker


class Recorder(Tracker):
    """A tracker that remembers what it is told, in place of a client; `faults` are raised by the calls so named."""

    def __init__(self, log, last, faults, opening):
        self.log, self.last, self.faults = log, last, faults
        self.place = "nowhere"
        self._note("open", opening.id, opening.step)

    def _note(self, name, *told):
        fault = self.faults.get(name)
        self.log.append((name, *told))
        if callable(fault):
            fault()
        elif fault:
            raise fault

    def picture(self, step, name, file):
        assert Path(file).read_bytes().startswith(b"\x89PNG")
        self._note("picture", step, name)

    def scalars(self, step, values):
        self._note("scalars", step, values)

    def close(self, finished):
        self._note("close", finished)


def told(log, name):
    return [entry[1:] for entry in log if entry[0] == name]


@pytest.fixture
def recorded(monkeypatch):
    """A recorder in place of every tracker, and what it is told."""

    def make(faults=None, last=None):
        log = []
        monkeypatch.setattr(tracking, "find", lambda name: lambda opening: Recorder(log, last, faults or {}, opening))
        return log

    return make


@pytest.fixture
def train(tmp_path, tiny_pipeline_folder, recorded):
    """The trainer of a run with a tracker, and what that is told; called again, the run goes on."""

    def make(**changes):
        settings = {"iterations": 2, "samples_every": 1, "probe_every": 0, "trackers": ["wandb"], **changes}
        config = make_config(run=settings, evaluation={"every": 1, "num_images": 3})
        return make_trainer(config, tmp_path / "run", tiny_pipeline_folder), recorded()

    return make


def test_a_tracker_is_told_every_step_with_scores_and_pictures(train):
    trainer, log = train()
    trainer.run()
    (first, a), (second, b) = told(log, "scalars")
    assert (first, second) == (1, 2)
    rows, summary = trainer.directory.metrics(), trainer.directory.summary()
    assert a["reward/mean"] == rows[0]["reward/mean"]
    assert a["held_out/strict"] == rows[0]["evaluation"]["strict"]
    assert b["held_out/strict"] == summary["after"]["strict"]
    assert b["held_out_base/strict"] == summary["before"]["strict"]
    assert b["held_out_difference/graded"] == summary["difference"]["graded"]["value"]
    assert "iteration" not in a
    assert told(log, "picture") == [(1, "samples"), (1, "base"), (2, "samples"), (2, "before_after")]
    assert told(log, "close") == [(True,)]


def test_a_run_that_goes_on_has_its_id_and_no_step_twice(train):
    """After it was stopped, and after a kill before its last scores."""
    trainer, log = train()
    stop_after(1, trainer)
    assert trainer.run() is None
    assert [step for step, _ in told(log, "scalars")] == [1]
    assert told(log, "close") == [(False,)]
    trainer, again = train()
    trainer._finish = lambda: None
    trainer.run()
    assert told(again, "scalars") == []
    trainer, last = train()
    trainer.run()
    assert [step for step, _ in told(last, "scalars")] == [2]
    (name,) = {opened for opened, _ in (told(each, "open")[0] for each in (log, again, last))}
    assert name == read_object(trainer.directory.path / "tracking.json")["id"]
    assert [step for each in (log, again, last) for _, step in told(each, "open")] == [0, 1, 1]


@pytest.fixture
def follow(tmp_path, recorded):
    """A run's trackers without the run: steps told as it would, and what is said."""

    def make(faults=None, last=None, begun=0, known=True):
        if known:
            (tmp_path / "tracking.json").write_text('{"id": "ab12"}')
        log, lines = recorded(faults, last), []
        display = SimpleNamespace(say=lines.append, warn=lines.append)
        config, directory = make_config(run={"trackers": ["wandb"]}), RunDirectory(tmp_path)
        rows = [{"iteration": iteration, "reward/mean": 0.5, "grad_norm": None} for iteration in range(4)]
        directory.samples.mkdir(exist_ok=True)
        (directory.samples / "000002.png").write_bytes(b"\x89PNG")
        found = Tracking(config, directory, display)
        found.begin(begun, rows, None)
        return found, log, lines

    return make


@pytest.mark.parametrize(("last", "steps"), [(None, [3, 4]), (3, [4]), (1, [2, 3, 4]), (9, [])])
def test_a_tracker_that_knows_its_last_step_is_told_what_it_lacks(follow, last, steps):
    """Of a run that goes on after two iterations."""
    with (made := follow(last=last, begun=2))[0] as found:
        found.tell(4, None)
    assert told(made[1], "scalars") == [(step, {"reward/mean": 0.5}) for step in steps]
    assert made[2] == ["wandb: nowhere"]


def test_a_run_that_gets_trackers_on_the_way_tells_all_it_has_done(follow):
    made, log, _ = follow(begun=2, known=False)
    with made:
        made.tell(3, None)
    assert [step for step, _ in told(log, "scalars")] == [1, 2, 3]
    ((name, step),) = told(log, "open")
    assert name.isalnum()
    assert step == 0


def test_a_tracker_that_fails_is_spoken_of_once_and_the_run_goes_on(follow):
    failing = dict.fromkeys(("picture", "scalars", "close"), RuntimeError("no route to\nhttp://me:secret@host"))
    made, log, lines = follow(failing)
    with made:
        for step in (1, 2, 3, 4):
            made.tell(step, None)
            until(lambda step=step: len(told(log, "scalars")) >= 1)
    assert {step for step, _ in told(log, "scalars")} == {1}
    assert sum("no route" in line for line in lines) == 1
    line = next(line for line in lines if "no route" in line)
    assert "metrics.jsonl" in line
    assert "http://host" in line
    assert "secret" not in line
    assert "wandb was not told of 4 iterations and 0 pictures" in lines[-1]


def test_a_picture_that_is_not_taken_holds_up_no_number(follow):
    made, log, lines = follow({"picture": RuntimeError("too large")})
    with made:
        made.tell(4, None)
    assert [step for step, _ in told(log, "scalars")] == [1, 2, 3, 4]
    assert "wandb was not told of 0 iterations and 1 pictures" in lines[-1]
    assert told(log, "close") == [(False,)]


def test_what_a_tracker_missed_it_is_told_when_it_is_back(follow):
    faults = {"open": ConnectionError("away")}
    made, log, lines = follow(faults)
    with made:
        made.tell(2, None)
        until(lambda: told(log, "open"))
        faults.clear()
        made.tell(3, None)
    assert [step for step, _ in told(log, "scalars")] == [1, 2, 3]
    assert not any("was not told" in line for line in lines)


def test_a_tracker_that_hangs_does_not_hold_up_the_run(follow, monkeypatch):
    monkeypatch.setattr(tracking, "CLOSE_SECONDS", 0.05)
    monkeypatch.setattr(tracking, "SLOW_SECONDS", 0.0)
    never = threading.Event()
    made, log, lines = follow({"open": never.wait})
    with made:
        until(lambda: told(log, "open"))
        for step in (1, 2):
            made.tell(step, None)
    never.set()
    assert sum("has not answered" in line for line in lines) == 1
    assert "wandb was not told of 2 iterations" in lines[-1]


def test_of_several_processes_only_the_first_has_trackers(tmp_path, recorded):
    log = recorded()
    with Tracking(make_config(run={"trackers": ["wandb"]}), Bystander(tmp_path), None) as made:
        made.begin(0, [], None)
        made.tell(1, None)
    assert log == []
    assert not (tmp_path / "tracking.json").exists()


def until(true):
    """Wait for another thread, not for long."""
    done = threading.Event()
    for _ in range(500):
        if true():
            return
        done.wait(0.01)
    raise AssertionError("another thread did not come to it")


@pytest.mark.parametrize(
    ("value", "part"),
    [
        ("wandbb", "run.trackers names 'wandbb' (did you mean 'wandb'?); allowed: any of mlflow, tensorboard, trackio"),
        ("[wandb, mlflow, wandb]", "run.trackers names wandb twice"),
        ("[1]", "run.trackers is 1"),
        ("{wandb: 1}", "run.trackers is {'wandb': 1}"),
    ],
)
def test_a_wrong_tracker_is_refused(value, part):
    with pytest.raises(ConfigError) as refused:
        load_config("scenes", [f"run.trackers={value}"])
    assert part in str(refused.value)


def test_trackers_are_named_in_one_list():
    assert RunSettings().trackers == []
    assert load_config("scenes", ["run.trackers=wandb"]).run.trackers == ["wandb"]
    assert load_config("scenes", ["run.trackers=wandb,mlflow"]).run.trackers == ["wandb", "mlflow"]
    assert all(name in ALLOWED["run.trackers"] for name in trackers.names())


def test_a_tracker_that_is_not_installed_is_told_before_anything_is_loaded(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    code, out, error = command_line("train", "scenes", "run.trackers=trackio", "--output", tmp_path / "run")
    assert code == 2
    assert error.count("\n") == 1
    assert 'trackio, which is not installed; install with: pip install "advantageflow[trackio]"' in error
    assert "loading" not in out
    assert not (tmp_path / "run").exists()


OPENING = Opening("mine", "ab12", Path("run"), 2, {"run.iterations": 3, "reward": {"a": 1.0}}, "seed: 0\n")


def in_place_of(monkeypatch, **modules):
    """A tracker's class, with modules that stand in for those that it imports."""
    for name, content in modules.items():
        monkeypatch.setitem(sys.modules, name.replace("_", "."), SimpleNamespace(**content))
    name = next(iter(modules))
    monkeypatch.delitem(sys.modules, f"advantageflow.trackers.{name}", raising=False)
    return trackers.find(name)


class Calls:
    """Notes every call, and answers with what is given for it."""

    def __init__(self, **answers):
        self.answers, self.calls = answers, []

    def __getattr__(self, name):
        def call(*args, **options):
            self.calls.append((name, args, options))
            return self.answers.get(name)

        return call

    def of(self, name):
        return [(args, options) for called, args, options in self.calls if called == name]


def test_wandb_is_opened_under_the_runs_id_and_keeps_the_console(monkeypatch, tmp_path):
    run = Calls()
    run.resumed, run.starting_step, run.offline, run.url = True, 8, False, "https://w/ab12"
    client = Calls(init=run)
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    settings = type("Settings", (dict,), {"model_fields": {"finish_timeout": 0}})
    made = in_place_of(
        monkeypatch, wandb={"init": client.init, "Settings": settings, "Image": str, "errors": SimpleNamespace()}
    )(OPENING)
    made.picture(8, "samples", tmp_path / "a.png")
    made.scalars(8, {"loss": 1.0})
    made.close(False)
    ((_, options),) = client.of("init")
    assert (options["id"], options["resume"], options["project"]) == ("ab12", "allow", "advantageflow")
    assert options["config"] == OPENING.settings
    assert (options["settings"]["console"], options["settings"]["x_disable_meta"]) == ("off", True)
    assert (made.last, made.place) == (7, "https://w/ab12")
    assert run.of("log") == [
        (({"samples": str(tmp_path / "a.png")},), {"step": 8}),
        (({"loss": 1.0},), {"step": 8, "commit": True}),
    ]
    assert run.of("finish") == [((), {"exit_code": 1})]


@pytest.mark.parametrize(("mode", "refused"), [("online", True), ("offline", False), ("disabled", False)])
def test_wandb_wants_a_login_where_it_sends_anything(monkeypatch, mode, refused):
    state = SimpleNamespace(settings=SimpleNamespace(mode=mode))
    content = {
        "setup": lambda: state,
        "login": lambda prompt: False,
        "errors": SimpleNamespace(AuthenticationError=OSError),
    }
    tracker = in_place_of(monkeypatch, wandb=content)
    if refused:
        with pytest.raises(ConfigError, match="WANDB_MODE=offline"):
            tracker.check()
    else:
        tracker.check()


def test_trackio_finds_a_run_by_a_name_that_holds_its_id(monkeypatch, tmp_path):
    run = Calls()
    run._next_step = 5
    client = Calls(init=run)
    made = in_place_of(monkeypatch, trackio={"init": client.init, "Image": str})(OPENING)
    made.picture(5, "samples", tmp_path / "a.png")
    made.scalars(5, {"loss": 1.0})
    made.close(True)
    ((_, options),) = client.of("init")
    assert (options["name"], options["resume"], options["config"]) == ("mine-ab12", "allow", OPENING.settings)
    assert made.last == 4
    assert run.of("log")[1] == (({"loss": 1.0},), {"step": 5})
    assert len(run.of("finish")) == 1


@pytest.mark.parametrize("known", [True, False])
def test_mlflow_finds_a_run_by_a_tag(monkeypatch, tmp_path, known):
    from PIL import Image

    there = SimpleNamespace(info=SimpleNamespace(run_id="r1"))
    client = Calls(
        get_experiment_by_name=None,
        create_experiment="7",
        search_runs=[there] if known else [],
        create_run=there,
        get_metric_history=[SimpleNamespace(step=step) for step in ((1, 2) if known else ())],
    )
    entities = {"Metric": lambda *values: values, "Param": lambda *values: values, "Run": object}
    made = in_place_of(monkeypatch, mlflow={"MlflowClient": lambda: client}, mlflow_entities=entities)(OPENING)
    Image.new("RGB", (2, 2)).save(tmp_path / "a.png")
    made.picture(3, "samples", tmp_path / "a.png")
    made.scalars(3, {"held_out/a+b": 1.0})
    made.close(False)
    assert made.last == (2 if known else 0)
    assert len(client.of("create_run")) == (not known)
    assert [batch["params"] for _, batch in client.of("log_batch") if batch] == (
        [] if known else [[("run.iterations", "3"), ("reward", "{'a': 1.0}")]]
    )
    ((name, value, _, step),) = client.of("log_batch")[-1][0][1]
    assert (name, value, step) == ("held_out/a_b", 1.0, 3)
    assert client.of("log_image")[0][1] == {"key": "samples", "step": 3}
    assert client.of("set_terminated") == [(("r1", "KILLED"), {})]


def test_tensorboard_shows_no_step_twice(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    from PIL import Image

    Image.new("RGB", (4, 2), (255, 0, 0)).save(tmp_path / "a.png")
    tracker = trackers.find("tensorboard")
    for begun, steps in ((0, (1, 2, 3)), (2, (3, 4))):
        made = tracker(Opening("mine", "ab12", tmp_path, begun, {}, "seed: 0\n"))
        for step in steps:
            made.picture(step, "samples", tmp_path / "a.png")
            made.scalars(step, {"loss": step + begun / 10})
        made.close(True)
    found = accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    found.Reload()
    assert [(event.step, round(event.value, 4)) for event in found.Scalars("loss")] == [
        (1, 1),
        (2, 2),
        (3, 3.2),
        (4, 4.2),
    ]
    assert found.Images("samples")[-1].width == 4
    assert b"seed: 0" in found.Tensors("settings/text_summary")[0].tensor_proto.string_val[0]
