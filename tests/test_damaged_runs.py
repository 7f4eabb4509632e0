"""Files that a run left and that were damaged since: whoever reads them says which one, in one sentence."""

import json
import shutil

import pytest
from PIL import Image
from test_report import make_run

from advantageflow.errors import ConfigError
from advantageflow.reports.comparison_page import side_by_side
from advantageflow.reports.reported_run import load_run
from advantageflow.studies.record import Record, read_run


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("runs") / "run", iterations=3, sets=2)


def edited(change):
    def damage(file):
        content = json.loads(file.read_text())
        file.write_text(json.dumps(change(content) or content))

    return damage


def row(change):
    def damage(file):
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        change(lines)
        file.write_text("".join(json.dumps(line) + "\n" for line in lines))

    return damage


ANY = {
    "empty": lambda file: file.write_bytes(b""),
    "no text": lambda file: file.write_bytes(b"\x00\xff\xfe"),
    "a list": lambda file: file.write_text("[]\n"),
    "a number": lambda file: file.write_text("3\n"),
    "brackets": lambda file: file.write_text("[" * 100_000 + "\n"),
}
OWN = {
    "metrics.jsonl": {
        "a row missing": row(lambda rows: rows.pop(1)),
        "a row twice": row(lambda rows: rows.insert(1, rows[1])),
        "a value missing": row(lambda rows: rows[1].pop("diversity")),
        "a loss missing": row(lambda rows: rows[2].pop("loss")),
        "text for a number": row(lambda rows: rows[2].update({"loss": "low"})),
        "scores of no kind": row(lambda rows: rows[1].update(evaluation=[1])),
        "a difference of no kind": row(lambda rows: rows[1].update(difference=[1])),
        "a difference of text": row(lambda rows: rows[1].update(difference={"strict": {"value": "much"}})),
        "the last row lost": row(lambda rows: rows.pop()),
    },
    "summary.json": {
        "no scores": edited(lambda content: content.pop("after") and None),
        "scores of no kind": edited(lambda content: content.update(before={"strict": 1})),
        "a score of text": edited(lambda content: content["after"].update(strict="high")),
        "other iterations": edited(lambda content: content.update(iterations=9)),
    },
    "config.yaml": {
        "an unknown value": lambda file: file.write_text("seed: many\n"),
        "cut": lambda file: file.write_text(file.read_text()[:-40] + "{"),
    },
    "environment.json": {},
}
CASES = [(name, damage, change) for name, own in OWN.items() for damage, change in {**ANY, **own}.items()]


@pytest.mark.parametrize(("name", "damage", "change"), CASES, ids=[f"{name}: {damage}" for name, damage, _ in CASES])
def test_reports_and_comparisons_name_the_damaged_file(name, damage, change, finished, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    change(run / name)
    for read in (lambda: load_run(run, "run"), lambda: read_run(run, "arm", 0)):
        with pytest.raises(ConfigError) as caught:
            read()
        text = str(caught.value)
        assert name in text or "has no finished iteration" in text
        assert "\n" not in text
        assert len(text) < 600


PICTURES = {
    **{f"000001.json {name}": ("000001.json", change) for name, change in ANY.items() if name != "a list"},
    "an entry without scores": ("000001.json", edited(lambda entries: entries[0].pop("scores") and None)),
    "a score of text": ("000001.json", edited(lambda entries: entries[0]["scores"].update(strict="high"))),
    "03.webp empty": ("000001/03.webp", ANY["empty"]),
    "03.webp no picture": ("000001/03.webp", ANY["no text"]),
    "03.webp cut": ("000001/03.webp", lambda file: file.write_bytes(file.read_bytes()[:-8])),
    "03.webp missing": ("000001/03.webp", lambda file: file.unlink()),
}


@pytest.mark.parametrize("damage", PICTURES)
def test_reports_name_the_damaged_picture(damage, finished, tmp_path):
    name, change = PICTURES[damage]
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    change(run / "samples" / name)
    for read in (lambda: load_run(run, "run"), lambda: side_by_side({"arm": run})):
        with pytest.raises(ConfigError, match=name.replace(".", r"\.")):
            read()


@pytest.mark.parametrize(
    "entry", ['{"iteration": 1, "settings": 3}', '{"iteration": 1, "settings": {"seed": 1}}', "{}", "3"]
)
def test_damaged_changes_are_named(entry, finished, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    (run / "changes.jsonl").write_text('{"iteration": 0, "settings": {"name": ["a", "b"]}}\n' + entry + "\n")
    with pytest.raises(ConfigError, match=r"changes\.jsonl line 2 is damaged"):
        load_run(run, "run")


@pytest.mark.parametrize("damage", ["empty", "too narrow"])
def test_a_damaged_strip_of_an_early_version_is_named(damage, finished, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    shutil.rmtree(run / "samples" / "000001")
    Image.new("RGB", (5, 8)).save(run / "samples" / "000001.webp")
    if damage == "empty":
        (run / "samples" / "000001.webp").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"000001\.webp is damaged"):
        load_run(run, "run")


@pytest.mark.parametrize("damage", [*ANY, "a key missing", "evaluations of no kind"])
def test_a_damaged_record_is_named(damage, finished, tmp_path):
    file = tmp_path / "record.json"
    record = read_run(finished, "arm", 0)
    assert "threads" in record.environment
    assert "command" not in record.environment  # which has folders of this machine
    record.save(file)
    assert Record.load(file).iterations == 3
    own = {
        "a key missing": edited(lambda content: {key: content[key] for key in content if key != "seed"}),
        "evaluations of no kind": edited(lambda content: content.update(evaluations=[3])),
    }
    {**ANY, **own}[damage](file)
    with pytest.raises(ConfigError, match=r"record\.json"):
        Record.load(file)
