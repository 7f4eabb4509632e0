"""The report: what it says of known runs, that it needs nothing but itself, and that it works in a browser."""

import os
import shutil
import sys
from html.parser import HTMLParser

import pytest
import torch
from PIL import Image
from test_cli import run

from advantageflow.config import ConfigError, load_config
from advantageflow.evaluation import Evaluation
from advantageflow.pictures import to_pil
from advantageflow.reports.colors import color_of, palette
from advantageflow.reports.comparison_page import side_by_side, write_comparison
from advantageflow.reports.page import duration, number, render, signed
from advantageflow.reports.page_pictures import extremes, read_pictures
from advantageflow.reports.reported_run import load_run
from advantageflow.reports.run_page import write_report
from advantageflow.reports.run_tables import settings_table
from advantageflow.run.checkpoint import save_state
from advantageflow.run.directory import RunDirectory
from advantageflow.run.samples import read_samples
from advantageflow.studies.compare import analyse
from advantageflow.studies.record import Record

NASTY = '<script>alert("x")</script> & </script>'
TASKS = ("single", "two")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def scores(value):
    return {"strict": value, "graded": value + 0.25, "tasks": {"single": value + 0.1, "two": value - 0.1}}


def evaluation(step, side=8, count=24):
    """Image i is grey; its brightness and its strict score tell i and the step."""
    values = torch.arange(count) / count + step / 100
    images = values.view(-1, 1, 1, 1).repeat(1, 3, side, side)
    prompts = [NASTY, *(f"prompt {i}" for i in range(1, count))]
    return Evaluation(prompts, [TASKS[i % 2] for i in range(count)], images, {"strict": values})


def make_run(folder, changes=(), iterations=4, finished=True, sets=3, diversity=lambda i: 0.7, differences=True):
    """A run as training leaves it, its held-out strict score rising from 0.2 by 0.1 per iteration."""
    config = load_config("scenes", [f"run.iterations={iterations}", *changes])
    directory = RunDirectory.create(folder, config)
    for i in range(iterations):
        row = {
            "iteration": i, "reward/mean": 0.3 + i / 10, "loss": 0.0, "loss/positive_advantage": 0.1,
            "loss/negative_advantage": -0.1, "grad_norm": 0.5, "distance/to_rollout": 0.01,
            "distance/to_reference": 0.02 * i, "diversity": diversity(i),
            "seconds/sampling": 1.0, "seconds/scoring": 0.1, "seconds/learning": 2.0, "seconds/training": 3.1 * (i + 1),
        }  # fmt: skip
        if i == 1:
            row |= {"evaluation": scores(0.4), "difference": {"strict": {"value": 0.2, "low": 0.15, "high": 0.25}}}
        directory.append_metrics(row)
    for step in range(sets):
        directory.write_samples(step, evaluation(step))
    if finished:
        ends = {"before": scores(0.2), "after": scores(0.2 + iterations / 10)}
        seconds = {"sampling": 4.0, "scoring": 0.4, "learning": 8.0, "evaluating": 1.0, "training": 3.1 * iterations}
        ends |= {"difference": {"strict": {"value": 0.4, "low": 0.35, "high": 0.45}}} if differences else {}
        directory.write_summary({**ends, "iterations": iterations, "seconds": seconds, "peak_memory": 3 * 2**29})
    else:
        save_state(directory.checkpoints / "000000", {}, {"before": scores(0.2)})
    return folder


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("runs") / "first")


@pytest.fixture(scope="module")
def page(finished, tmp_path_factory):
    other = make_run(finished.parent / "second", ["objective=nft"], iterations=2, finished=False)
    return write_report([finished, other], tmp_path_factory.mktemp("page") / "deep" / "report.html")


@pytest.fixture(scope="module")
def comparison_page(tmp_path_factory):
    config = {"rollout": {"prompts_per_iteration": 2, "images_per_prompt": 5}, "learn": {"optimizer_steps": 1}}

    def record(label, seed, rate):
        found = {name: [0.1 * rate] * 4 for name in ("diversity", "grad_norm", "distance/to_reference", "reward/mean")}
        losses = {f"loss/{sign}_advantage": [0.1] * 4 for sign in ("positive", "negative")}
        seconds = {f"seconds/{stage}": [1.0] * 4 for stage in ("sampling", "scoring", "learning")}
        times = {"seconds/training": [3.0, 6.0, 9.0, 12.0]}
        points = [(i, scores(0.2 + rate * (0.1 * i + 0.01 * i * seed))) for i in (0, 2, 4)]
        memory = 2**30 if label == "slow" else None
        return Record(label, seed, config, False, points, {**found, **losses, **seconds, **times}, memory, {})

    records = [record(label, seed, rate) for seed in range(3) for label, rate in (("slow", 0.5), (NASTY, 1.0))]
    folder = tmp_path_factory.mktemp("comparison")
    runs = {"slow": make_run(folder / "a"), NASTY: make_run(folder / "b", sets=2)}
    return write_comparison(analyse(records, "slow"), folder / "report.html", runs)


class Elements(HTMLParser):
    """Start tags with their attributes, and the text outside scripts and styles."""

    def __init__(self, text):
        super().__init__()
        self.found, self.text, self.inside = [], "", ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.inside = tag
        self.found.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        self.inside = ""

    def handle_data(self, data):
        if self.inside not in ("script", "style"):
            self.text += data

    def named(self, *tags):
        return [attributes for tag, attributes in self.found if tag in tags]


def test_a_sentence_tells_what_was_done_and_what_came_of_it(page):
    text = " ".join(Elements(page.read_text()).text.split())
    assert (
        "AdvantageFlow (γ = 1.1) trained the model scenes on the reward scenes_graded for 4 iterations and "
        "12 seconds of training. Held-out strict rose from 0.200 to 0.600; graded rose from 0.450 to 0.850." in text
    )
    assert (
        "DiffusionNFT trained the model scenes on the reward scenes_graded for 2 iterations and 6 seconds of "
        "training. It has not finished; at iteration 2, held-out strict rose from 0.200 to 0.400" in text
    )


def test_the_headline_has_the_paired_difference_with_its_interval_where_it_was_recorded(finished, tmp_path):
    def told(folder):
        return " ".join(Elements(write_report([folder], tmp_path / "report.html").read_text()).text.split())

    assert "held-out strict 0.200 → 0.600 +0.400 [+0.350, +0.450], paired, 95 %" in told(finished)
    early = told(make_run(tmp_path / "early", differences=False))
    assert "held-out strict 0.200 → 0.600 AdvantageFlow" in early


def test_what_was_changed_by_continuing_a_run_is_told(finished, tmp_path):
    folder = make_run(tmp_path / "run")
    change = {"settings": {"learn.learning_rate": [0.002, 0.001]}, "inputs": {"reward": ["aa", "bb"]}}
    RunDirectory(folder).note_changes(2, change)
    text = Elements(write_report([folder], tmp_path / "report.html").read_text()).text
    assert "\n2learn.learning_rate0.0020.001\n2rewardanother by content\n" in text
    page = write_report([finished], tmp_path / "report.html").read_text()
    assert "Changed on the way" not in page


def test_a_method_has_one_colour_whatever_stands_beside_it():
    assert color_of("advantageflow-0.2") == color_of("AdvantageFlow(0.2)")
    assert palette(["nft", "advantageflow-1.1"]) == palette(["advantageflow-1.1", "nft"])[::-1]
    assert palette(["nft", "nft", "nft"])[0] == color_of("nft")
    assert len(set(palette(["nft"] * 5))) == 5


def test_a_score_bought_with_variety_is_told_as_such(tmp_path):
    folder = make_run(tmp_path / "run", diversity=lambda i: 0.6 / 3**i)
    text = " ".join(Elements(write_report([folder], tmp_path / "report.html").read_text()).text.split())
    assert "The images of a prompt became alike: diversity fell from 0.600 to 0.022." in text


def test_a_run_without_an_evaluation_yet_says_so(tmp_path):
    folder = make_run(tmp_path / "run", iterations=1, finished=False, sets=0)
    text = Elements(write_report([folder], tmp_path / "report.html").read_text()).text
    assert "not evaluated on held-out prompts yet" in text
    assert "This run stored no pictures" in text


def test_nothing_is_asked_of_a_network(page, comparison_page):
    for file in (page, comparison_page):
        elements = Elements(file.read_text())
        for _, attributes in elements.found:
            for name in ("src", "href", "srcset", "data", "poster", "action", "background", "style"):
                value = attributes.get(name) or ""
                assert value.startswith(("data:image/webp;base64,", "#")) or "/" not in value
        for forbidden in ("http:", "https:"):
            assert forbidden not in elements.text
        style = file.read_text().split("<style>")[1].split("</style>")[0]
        assert "url(" not in style
        assert "@import" not in style


def test_prompts_and_names_are_text_whatever_they_hold(page, comparison_page):
    for file in (page, comparison_page):
        content = file.read_text()
        assert NASTY in Elements(content).text
        assert "<script>alert" not in content.replace("\\u003cscript", "")


def test_a_folder_whose_name_is_no_text_has_a_page():
    name = os.fsdecode(b"caf\xe9")
    page = {"title": name, "why": "", "live": "", "palette": []}
    assert "caf?" in render("waiting.html.jinja", page, "").encode().decode()


def test_it_can_be_used_without_sight_or_mouse(page, comparison_page):
    for file in (page, comparison_page):
        elements = Elements(file.read_text())
        assert all(image["alt"] for image in elements.named("img"))
        labelled = {label["for"] for label in elements.named("label")}
        assert all(control["id"] in labelled for control in elements.named("input"))
        assert all(header["scope"] for header in elements.named("th"))
        ids = {attributes["id"] for _, attributes in elements.found if "id" in attributes}
        assert all(link["href"][1:] in ids for link in elements.named("a"))
        charts = [attributes for attributes in elements.named("div") if attributes.get("class") == "plot"]
        assert charts
        assert all(chart["role"] == "img" and chart["aria-label"].startswith("Line chart") for chart in charts)


def test_settings_are_told_with_their_defaults(tmp_path):
    folder = make_run(
        tmp_path / "run", ["objective=nft", "learn.learning_rate=0.5", "evaluation.rewards={a: scenes_graded}"]
    )
    rows = {row["key"]: row for row in settings_table([load_run(folder, "run")])}
    assert rows["learn.learning_rate"] == {
        "key": "learn.learning_rate", "cells": [{"value": "0.5", "changed": True}], "default": "0.0003",
    }  # fmt: skip
    assert rows["objective.name"]["default"] == "advantageflow"
    assert rows["evaluation.rewards"]["cells"][0]["value"] == "a: scenes_graded"
    for same in ("advantage.normalize", "objective.adaptive_scale", "model.resolution", "reward"):
        assert not rows[same]["cells"][0]["changed"], same


def test_pictures_are_kept_at_their_own_size_small_ones_exactly(tmp_path):
    directory = RunDirectory.create(tmp_path / "run", load_config("scenes"))
    shown = evaluation(7, count=3)
    shown.images.uniform_()
    directory.write_samples(10, shown)
    drawn = read_samples(directory.samples, 10)
    assert [sample.prompt for sample in drawn] == shown.prompts
    assert [sample.picture.tobytes() for sample in drawn] == [picture.tobytes() for picture in to_pil(shown.images)]
    directory.write_samples(20, evaluation(1, side=512, count=2))
    names = sorted(file.name for file in (directory.samples / "000020").iterdir())
    assert names == ["00.webp", "01.webp"]
    with Image.open(directory.samples / "000020" / "01.webp") as picture:
        assert picture.size == (512, 512)


def test_the_strips_of_early_versions_are_read(tmp_path):
    directory = RunDirectory.create(tmp_path / "run", load_config("scenes"))
    shown = evaluation(0, count=3)
    directory.write_samples(5, shown)
    shutil.rmtree(directory.samples / "000005")
    strip = Image.new("RGB", (24, 8))
    for i, picture in enumerate(to_pil(shown.images)):
        strip.paste(picture, (8 * i, 0))
    strip.save(directory.samples / "000005.webp", lossless=True)
    drawn = read_samples(directory.samples, 5)
    assert [sample.picture.tobytes() for sample in drawn] == [picture.tobytes() for picture in to_pil(shown.images)]


def test_a_page_has_large_pictures_at_their_own_size_where_it_has_room(tmp_path):
    directory = RunDirectory.create(tmp_path / "run", load_config("scenes"))
    for step in range(3):
        directory.write_samples(step, evaluation(step, side=300, count=2))
    sizes = [sum(file.stat().st_size for file in (directory.samples / f"{i:06d}").iterdir()) for i in range(3)]
    found = read_pictures(directory.samples, 288, room=sizes[0] + sizes[2])
    assert [picture.full is not None for i in range(3) for picture in found[i]] == [
        True,
        True,
        False,
        False,
        True,
        True,
    ]
    assert found[1][1].note == "300 × 300 pixels in samples/000001/01.webp, reduced here"


def test_pictures_of_other_prompts_than_the_last_are_left_out(tmp_path):
    directory = RunDirectory.create(tmp_path / "run", load_config("scenes"))
    for step, count in enumerate((24, 24, 5, 5, 5)):
        directory.write_samples(step, evaluation(step, count=count))
    assert sorted(read_pictures(directory.samples, 288)) == [2, 3, 4]
    assert sorted(read_pictures(directory.samples, 10)) == [2, 4]


def test_the_slider_shows_the_first_the_last_and_some_between(tmp_path):
    folder = make_run(tmp_path / "run", sets=30)
    assert sorted(load_run(folder, "run").pictures) == [0, 3, 5, 8, 11, 13, 16, 18, 21, 24, 26, 29]
    assert sorted(load_run(folder, "run", runs=8).pictures) == [0, 29]


def test_worst_and_best_come_from_the_last_samples(finished):
    found = extremes(load_run(finished, "run").pictures)
    assert [picture.prompt for picture in found["best"]] == [f"prompt {i}" for i in range(23, 17, -1)]
    assert [picture.prompt for picture in found["worst"]] == [NASTY, *(f"prompt {i}" for i in range(1, 6))]
    assert found["worst"][0].scores["strict"] == pytest.approx(0.02)


def test_numbers_are_readable():
    assert [number(value) for value in (0.0, 0.69412, -1.5, 3.2e-7, 21.53, float("nan"), None)] == [
        "0.000", "0.694", "−1.500", "3.2e−07", "21.530", "–", "–",
    ]  # fmt: skip
    assert [signed(change) for change in (0.0411, -0.00833, 3e-7, 0.0)] == ["+0.041", "−0.008", "+3e−07", "±0"]
    assert [duration(seconds) for seconds in (12.3, 306, 7 * 3600)] == [
        "12 seconds of training", "5.1 minutes of training", "7.0 hours of training",
    ]  # fmt: skip


def test_a_comparison_says_who_won_and_by_how_much(comparison_page):
    text = " ".join(Elements(comparison_page.read_text()).text.split())
    assert "2 methods were trained with 3 seeds each." in text
    assert f"{NASTY} ended highest, with a held-out strict of 0.640 [" in text
    assert "reached slow's best in 0.50 of the time slow took" in text
    assert "1.00 GiB" in text
    assert "not recorded" in text


def test_a_comparison_shows_the_same_prompts_by_the_base_model_and_every_method(tmp_path):
    runs = {"first": make_run(tmp_path / "a"), "second": make_run(tmp_path / "b", sets=1)}
    RunDirectory(runs["second"]).write_samples(7, evaluation(7, count=2))
    found = side_by_side(runs | {"none": make_run(tmp_path / "c", sets=0)})
    assert found["columns"] == ["base model", "first", "second"]
    assert found["about"].startswith(
        "Of each method its run with the first seed: first after 2 iterations, second after 7"
    )
    assert [row["prompt"] for row in found["rows"]] == [NASTY, *(f"prompt {i}" for i in range(1, 24))]
    brightness = [round(picture.scores["strict"], 2) for picture in found["rows"][0]["cells"]]
    assert brightness == [0.0, 0.02, 0.07]
    assert [row["cells"][2] is not None for row in found["rows"]] == [True, True] + [False] * 22
    assert side_by_side({"none": tmp_path / "c"}) is None
    assert side_by_side({}) is None


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda run: shutil.rmtree(run), "holds no run: there is no .*; give folders that `advantageflow train` wrote"),
        (lambda run: (run / "metrics.jsonl").unlink(), "no finished iteration to report; .* train --resume"),
        (lambda run: (run.parent / "report.html").mkdir(), "report.html is a folder; give a file"),
        (lambda run: (run / "summary.json").unlink(), "neither a summary nor a checkpoint"),
    ],
)  # fmt: skip
def test_mistakes_are_told_with_their_remedy(break_it, message, tmp_path):
    folder = make_run(tmp_path / "run", sets=0)
    break_it(folder)
    with pytest.raises(ConfigError, match=message):
        write_report([folder], tmp_path / "report.html")


def test_without_plotly_it_says_what_to_install(finished, monkeypatch, tmp_path):
    for name in ("plotly", "plotly.offline"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ConfigError, match=r'needs plotly; install with: pip install "advantageflow\[report\]"'):
        write_report([finished], tmp_path / "report.html")


def test_the_command_writes_the_file_or_says_why_not(finished, tmp_path):
    (tmp_path / "report.html").write_text("an earlier one")
    result = run("report", finished, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "wrote report.html, in place of what was there" in result.stdout
    assert (tmp_path / "report.html").stat().st_size < 15e6
    result = run("report", tmp_path / "nowhere", cwd=tmp_path)
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1
    assert "holds no run" in result.stderr


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip("no chromium on PATH: the report was not opened in a browser")
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(
            executable_path=CHROMIUM, args=["--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"]
        )
        yield opened
        opened.close()


def visit(browser, file, **options):
    """The opened page, with what it complained of and what it asked for."""
    tab = browser.new_page(**options)
    complaints, requests = [], []
    tab.on("console", lambda message: complaints.append(message.text))
    tab.on("pageerror", lambda error: complaints.append(str(error)))
    tab.on("request", lambda request: requests.append(request.url))
    tab.goto(file.as_uri())
    tab.wait_for_selector(".plot svg.main-svg")
    return tab, complaints, requests


PHONE = {"width": 390, "height": 844}


@pytest.mark.parametrize("viewport", [{"width": 1280, "height": 900}, PHONE])
def test_it_opens_from_disk_alone(browser, page, comparison_page, viewport):
    for file in (page, comparison_page):
        tab, complaints, requests = visit(browser, file, viewport=viewport)
        assert tab.locator(".plot").count() == tab.locator(".plot:has(svg.main-svg)").count()
        assert tab.evaluate("document.documentElement.scrollWidth") == viewport["width"]  # nothing sticks out
        assert tab.evaluate("[...document.images].every((image) => image.complete && image.naturalWidth > 0)")
        assert complaints == []
        assert [url for url in requests if not url.startswith("data:")] == [file.as_uri()]
        tab.close()


def test_the_slider_turns_pictures_by_key(browser, page):
    tab, complaints, _ = visit(browser, page)
    shown = tab.locator(".through").first.locator("figure").first.locator("img:visible")
    slider = tab.get_by_label("Iteration").first
    seen = [shown.get_attribute("src")]
    slider.focus()
    for key in ("ArrowLeft", "Home"):
        tab.keyboard.press(key)
        seen.append(shown.get_attribute("src"))
    assert len(set(seen)) == 3
    assert slider.get_attribute("aria-valuetext") == "iteration 0"
    assert "after iteration 0" in shown.get_attribute("alt")
    tab.get_by_role("button", name="Last").first.click()
    assert shown.get_attribute("src") == seen[0]
    assert shown.count() == 1
    assert complaints == []
    tab.close()


def test_a_click_opens_a_picture_at_its_own_size(browser, tmp_path):
    folder = make_run(tmp_path / "run", sets=1)
    RunDirectory(folder).write_samples(1, evaluation(1, side=300, count=24))
    tab, complaints, _ = visit(browser, write_report([folder], tmp_path / "report.html"))
    size = "(image) => image.decode().then(() => [image.naturalWidth, image.naturalHeight])"
    small = tab.locator(".picture:visible").nth(1)
    assert small.locator("img").evaluate(size) == [256, 256]
    small.press("Enter")
    viewer = tab.get_by_role("dialog")
    assert viewer.locator("img").evaluate(size) == [300, 300]
    assert "prompt 1 · strict 0.052" in viewer.text_content()
    tab.keyboard.press("Escape")
    assert not viewer.is_visible()
    assert complaints == []
    tab.close()


def test_what_is_folded_is_as_wide_as_the_page_once_it_is_opened(browser, page):
    tab, complaints, _ = visit(browser, page, viewport=PHONE)
    assert not tab.locator("#learning .plot").first.is_visible()
    tab.get_by_role("link", name="How it learned").click()
    plot = tab.locator("#learning .plot").first
    plot.wait_for()
    tab.wait_for_function("document.querySelector('#learning .plot svg').clientWidth < 390")
    assert plot.evaluate("(plot) => plot.querySelector('svg').clientWidth / plot.clientWidth") == pytest.approx(
        1, abs=0.01
    )
    assert tab.evaluate("document.documentElement.scrollWidth") == 390
    assert complaints == []
    tab.close()


def test_curves_can_be_read_against_images_and_hovered(browser, page):
    tab, complaints, _ = visit(browser, page)
    title = tab.locator(".plot .xtitle").first
    assert title.text_content() == "training time (seconds)"
    tab.get_by_role("button", name="images").first.press("Enter")
    assert title.text_content() == "images generated"
    assert set(tab.locator(".plot .xtitle").all_text_contents()) == {"images generated"}
    assert tab.locator("button[data-axis=images][aria-pressed=true]").count() == 2
    ends = tab.evaluate("document.querySelector('.plot').data.map((trace) => trace.x.at(-1))")
    assert ends == [4 * 16 * 12, 2 * 16 * 12]
    tab.locator(".plot").first.hover()
    assert "first" in tab.locator(".plot .hoverlayer").first.text_content()
    assert complaints == []
    tab.close()


def test_it_follows_the_system_into_the_dark(browser, page):
    tab, complaints, _ = visit(browser, page, color_scheme="light")
    colors = "[getComputedStyle(document.body).backgroundColor, document.querySelector('.plot').data[0].line.color]"
    light = tab.evaluate(colors)
    tab.emulate_media(color_scheme="dark")
    tab.wait_for_function(f"(light) => {colors}.every((color, i) => color !== light[i])", arg=light)
    assert complaints == []
    tab.close()
