"""`advantageflow rewards score`: pictures, folders with captions and tables, by the command and as data."""

import csv
import io
import json

import pytest
from command_line import command_line
from PIL import Image

from advantageflow.studies import scored_files
from advantageflow.studies.scored_files import pictures_of, scored

SIZES = {"a": 40, "b": 40, "c": 24, "d": 40}


@pytest.fixture
def folder(tmp_path):
    """Four red pictures of growing redness, of two sizes, with captions."""
    for number, (name, size) in enumerate(SIZES.items(), 1):
        Image.new("RGB", (size, size), (50 * number, 0, 0)).save(tmp_path / f"{name}.png")
        (tmp_path / f"{name}.txt").write_text(f"a circle, {name}\n")
    (tmp_path / "notes.md").write_text("no picture")
    return tmp_path


def redness(images, prompts, metadata):
    assert len(images) <= 2
    return [image[0].mean().item() + row.get("bonus", 0) for image, row in zip(images, metadata, strict=True)]


def test_batches_are_small_and_rows_stay_in_order(folder, monkeypatch):
    monkeypatch.setattr(scored_files, "AT_ONCE", 2)
    done = []
    rows = list(scored(pictures_of([folder], None), {"red": redness}, done.append))
    assert [row["prompt"] for row in rows] == [f"a circle, {name}" for name in "abcd"]
    assert [row["red"] for row in rows] == pytest.approx([50 / 255, 100 / 255, 150 / 255, 200 / 255])
    assert sum(done) == 4


def test_a_table_names_pictures_prompts_and_what_a_reward_may_read(folder):
    table = folder / "mine.jsonl"
    table.write_text(json.dumps({"image": "b.png", "text": "a ring", "bonus": 2}) + "\n")
    (found,) = scored(pictures_of([table], None, "text"), {"red": redness}, lambda _: None)
    assert found == {"image": str(folder / "b.png"), "prompt": "a ring", "red": pytest.approx(2 + 100 / 255)}


def test_the_command_writes_csv_json_and_a_table_with_means(folder):
    (folder / "mine.csv").write_text("image,prompt\na.png,a circle\nc.png,a red circle\n")
    arguments = [
        "rewards",
        "score",
        folder / "mine.csv",
        "--reward",
        "jpeg_incompressibility",
        "--reward",
        "jpeg_compressibility",
    ]
    code, told, error = command_line(*arguments, "--format", "csv")
    assert code == 0, error
    rows = list(csv.DictReader(io.StringIO(told)))
    assert [row["prompt"] for row in rows] == ["a circle", "a red circle"]
    assert float(rows[0]["jpeg_incompressibility"]) > 0
    assert [row["image"] for row in json.loads(command_line(*arguments, "--format", "json")[1])] == [
        str(folder / name) for name in ("a.png", "c.png")
    ]
    output = folder / "scores.txt"
    output.write_text("an earlier one")
    code, told, error = command_line(*arguments, "--output", output)
    assert (code, told) == (0, "")
    assert f"wrote {output}, in place of what was there" in error
    assert "mean of 2" in output.read_text()
    assert not list(folder.glob("*.partial"))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("e.png", None, "e.png does not exist"),
        ("e.png", b"no picture", "e.png is no whole picture"),
        ("mine.csv", b"image,text\na.png,a circle\n", "'prompt'"),
        (
            "mine.csv",
            b"image,prompt\na.png,a cat on a mat\n",
            "mine.csv line 2: the reward 'scenes_graded' cannot score",
        ),
        ("mine.csv", b"image,prompt\nz.png,a circle\n", "mine.csv line 2: "),
    ],
)
def test_what_cannot_be_scored_is_one_sentence(name, content, message, folder):
    if content is not None:
        (folder / name).write_bytes(content)
    prompt = [] if name.endswith(".csv") else ["--prompt", "a circle"]
    code, told, error = command_line("rewards", "score", folder / name, *prompt, "--reward", "scenes_graded")
    assert (code, told) == (2, "")
    assert message in error
    assert error.splitlines()[-1].startswith("error: ")


def test_a_picture_needs_a_prompt(folder):
    (folder / "a.txt").unlink()
    code, _, error = command_line("rewards", "score", folder, "--reward", "scenes_graded")
    assert code == 2
    assert "a.png has no prompt; give --prompt TEXT, write a.txt beside it" in error
