"""A prompt file is read as what it is, or refused with its line and the reason."""

import gzip
import io
import json
import string
import zipfile

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from advantageflow.config import ConfigError, PromptSettings
from advantageflow.prompts import PromptSet, describe_sets, load_prompt_sets, load_prompts
from advantageflow.prompts.files import FORMATS

TWO = ("a red circle, on a white table", "two dogs")


def load(folder, name, content, **options):
    file = folder / name
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return load_prompts(str(file), **options)


def zipped():
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(zipfile.ZipInfo("prompts.txt"), "a cat")  # of no time, for tests are named by their content
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("p.txt", "\n".join(TWO)),
        ("p", "\r\n".join(TWO) + "\r\n\r\n"),
        ("p.TXT", "\r".join(TWO)),
        ("p.txt", "\n".join(TWO).encode("utf-8-sig")),
        ("p.txt", "\n".join(TWO).encode("utf-16")),
        ("p.txt", b"\xfe\xff" + "\n".join(TWO).encode("utf-16-be")),
        ("p.txt", "\n".join(TWO).encode("utf-32")),
        ("p.json", json.dumps(TWO)),
        ("p.json", json.dumps([{"prompt": text} for text in TWO], indent=2).encode("utf-8-sig")),
        ("p.json", "".join(json.dumps({"prompt": text}) + "\n" for text in TWO)),
        ("p.jsonl", "\n\n".join(json.dumps({"prompt": text}) for text in TWO).encode("utf-8-sig")),
        ("p.ndjson", "\n".join(map(json.dumps, TWO))),
        ("p.yaml", "".join(f"- {text}\n" for text in TWO)),
        ("p.yml", "".join(f"- prompt: {text}\n" for text in TWO)),
        ("p.csv", f'prompt\n"{TWO[0]}"\n{TWO[1]}\n'),
        ("p.csv", f'id,prompt\r\n1,"{TWO[0]}"\r\n\r\n2,{TWO[1]}\r\n'.encode("utf-8-sig")),
        ("p.csv", f"prompt;id\n{TWO[0]};1\n{TWO[1]};2\n"),
        ("p.csv", f'id, prompt\n1, "{TWO[0]}"\n2, {TWO[1]}\n'),
        ("p.tsv", f"prompt\tid\n{TWO[0]}\t1\n{TWO[1]}\t2\n"),
    ],
)
def test_well_formed_files_are_read(name, content, tmp_path):
    assert load(tmp_path, name, content).texts == TWO


def test_a_text_keeps_what_belongs_to_it(tmp_path):
    texts = ('a "HELLO" sign', "(masterpiece:1.2), {red|blue} [[cat]]", "\N{CAT FACE}", "# 1 fan", "猫", "2 cats, 4k")
    assert load(tmp_path, "p.json", json.dumps([*texts, "a cat\nin two lines"])).texts == (
        *texts,
        "a cat\nin two lines",
    )
    lines = [text for text in texts if not text.startswith("#")]
    assert load(tmp_path, "p.txt", "\n".join(lines)).texts == tuple(lines)


@pytest.mark.parametrize(
    ("name", "content", "line", "reason"),
    [
        # text that is something else
        ("p.txt", '[\n  "a cat",\n  "two dogs"\n]', 1, "punctuation alone"),
        ("p.txt", '["a cat", "two dogs"]', 1, "name the file .json"),
        ("p.txt", '{"prompt": "a cat"}\n', 1, "name the file .jsonl"),
        ("p.txt", "- a cat\n- two dogs", 1, "an entry of a list"),
        ("p.txt", "prompts:\n  - a cat", 2, "an entry of a list"),
        ("p.txt", "1. a cat\n2. two dogs", 1, "a number of a list"),
        ("p.txt", '"a cat"\n"two dogs"', 1, "in quotes"),
        ("p.txt", "prompt\na cat", 1, "a table's header"),
        ("p.txt", "id,Prompt\n1,a cat", 1, "a table's header"),
        ("p.txt", "a cat\na dog\t3", 2, "a tab"),
        ("p.txt", "a cat\n# two dogs", 2, "a heading or comment"),
        ("p.txt", "| a cat | 1 |", 1, "an entry of a list or table"),
        ("p.txt", "prompt: a cat\nprompt: b", 1, "a key and its value"),
        ("p.txt", "ï»¿a cat", 1, "taken for letters"),
        ("p.txt", "<html>a cat</html>", 1, "HTML"),
        ("p.txt", "version https://git-lfs.github.com/spec/v1\n", 1, "git lfs pull"),
        ("p.txt", "a cat\n\u200b\n", 2, "the prompt is empty"),
        # bytes that are no text
        ("p.txt", "a\ncafé".encode("latin-1"), 2, "not UTF-8"),
        ("p.csv", "prompt\n红色的猫".encode("gbk"), 2, "not UTF-8"),
        ("p.txt", "猫".encode("iso-2022-jp"), 1, "control character U+001B"),
        ("p.txt", "a\nb".encode("utf-16-le"), 1, "UTF-16 without"),
        ("p.jsonl", b'{"prompt": "a\0"}', 1, "NUL"),
        ("p.txt", "a\n\ufeffb", 2, "a byte-order mark in its middle"),
        ("p.txt", "a\n\ufffd", 2, "letters were lost"),
        ("p.txt", gzip.compress(b"a cat", mtime=0), 1, "gzip"),
        ("p.csv", zipped(), 1, "zip"),
        ("p.json", b"PAR1 and so on", 1, "name it .parquet"),
        # JSON
        ("p.json", '{"prompts": ["a cat"]}', 1, "does not begin a JSON array"),
        ("p.json", '["a cat",\n"two dogs"\n"three"]', 3, "is missing"),
        ("p.json", '["a cat",\n]', 2, "not JSON"),
        ("p.json", '["a cat"]\n["two dogs"]', 2, "after the array's end"),
        ("p.json", '["a cat",\n3]', 2, "is 3"),
        ("p.json", '["a cat",\nnull]', 2, "is None"),
        ("p.json", '["a cat",\n{"prompt": "a", "prompt": "b"}]', 2, "written twice"),
        ("p.json", '[{"prompt": "a", "s": 1e999}]', 1, "'1e999' is no number"),
        pytest.param("p.json", "[" * 100_000, 1, "nested too deep", id="deep JSON"),
        ("p.json", '["\\ud800"]', 1, "U+D800"),
        ("p.json", '["a\\u0000b"]', 1, "U+0000"),
        ("p.jsonl", '[\n{"prompt": "a cat"}\n]', 1, "not JSON"),
        ("p.jsonl", '{"prompt": "a cat", "s": NaN}', 1, "'NaN' is no number"),
        ("p.jsonl", '{"prompt": "a cat"}\n{"prompt": 3}', 2, "3, no text"),
        ("p.jsonl", '{"prompt": "a cat"}\n{"caption": "b"}', 2, "no text in the column 'prompt' (it has caption)"),
        ("p.jsonl", '{"prompt": "a cat", "m": "\\ud800"}', 1, "in the column 'm'"),
        # YAML
        ("p.yaml", "prompts:\n- a cat", 1, "does not begin a YAML list"),
        ("p.yaml", "- a cat\n- yes", 2, "is True"),
        ("p.yaml", "- a cat\n- a sign: OPEN", 2, "it has a sign"),
        ("p.yaml", "- a cat\n-", 2, "is None"),
        ("p.yaml", "- &a [x, x]\n- *a", 2, "an alias"),
        ("p.yaml", "- a cat\n- !!binary aGk=", 2, "a tag"),
        ("p.yaml", "- a cat\n---\n- b", 2, "another document"),
        ("p.yaml", "- {prompt: a, prompt: b}", 1, "written twice"),
        pytest.param("p.yaml", "[" * 100_000, 1, "nested too deep", id="deep YAML"),
        # tables
        ("p.csv", "prompt\na red circle, on a white table\n", 2, "2 fields and the header 1"),
        ("p.csv", "prompt,tag\na,x\na red circle, on a white table\n", 3, "begins with a space"),
        ("p.csv", "prompt,tag\na cat\n", 2, "1 fields and the header 2"),
        ("p.csv", 'prompt,tag\nb,y\n"a cat,x\nc,z\n', 3, "unexpected end of data"),
        ("p.csv", 'prompt\n"a "b" c"\n', 2, "no row of a table"),
        ("p.csv", "prompt,prompt\na,b\n", 1, "names a column twice"),
        ("p.csv", "prompt\na\tb\n", 2, "a tab within a field"),
        ("p.csv", 'prompt,tag\n"",x\n', 2, "the prompt is empty"),
        ("p.csv", "a cat\ntwo dogs\n", 1, "has no text in the column 'prompt'"),
        ("p.csv", '["a cat", "b"]', 1, "no row of a table"),
        ("p.tsv", "prompt,tag\na cat,x\n", 1, "has no text in the column 'prompt'"),
        ("p.tsv", "prompt\ttag\na cat\n", 2, "1 fields and the header 2"),
    ],
)
def test_what_cannot_be_read_is_refused_with_its_line(name, content, line, reason, tmp_path):
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, name, content)
    message = str(caught.value)
    assert f"{name} line {line}" in message.replace(f"{name} row 1", f"{name} line 1")
    assert reason in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("p.md", "a cat", "ends in '.md'; it should end in one of .txt"),
        ("p.txt.gz", b"x", "ends in '.gz'"),
        ("p.parquet", "prompt\na cat", "named as a Parquet file, but is none"),
        ("p.parquet", b"PAR1 and no more", "no whole Parquet file"),
        ("p.csv", "prompt,tag\n", "holds no prompt"),
        ("p.txt", "", "holds no prompt"),
        ("p.json", "[]", "holds no prompt"),
        ("p.yaml", "# nothing", "holds no prompt"),
    ],
)
def test_files_that_hold_nothing_or_pretend_are_refused(name, content, reason, tmp_path):
    with pytest.raises(ConfigError, match=reason):
        load(tmp_path, name, content)


def test_a_folder_is_no_prompt_file(tmp_path):
    with pytest.raises(ConfigError, match="is no file"):
        load_prompts(str(tmp_path))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    suffix=st.sampled_from(sorted(FORMATS)),
    content=st.one_of(
        st.binary(max_size=200),
        st.text(max_size=100).map(str.encode),
        st.text(alphabet=string.ascii_letters[:4] + "\n\t,;\"'[]{}:-&*!|>#% ", max_size=60).map(str.encode),
        st.tuples(
            st.sampled_from([b"PAR1", b"\xff\xfe", b"\xef\xbb\xbf", b"prompt,x\n", b"- ", b'["']), st.binary()
        ).map(b"".join),
    ),
)
def test_any_bytes_are_prompts_or_one_sentence(suffix, content, tmp_path):
    found, refused = None, ""
    try:
        found = load(tmp_path, f"p{suffix}", content)
    except ConfigError as error:
        refused = str(error)
    assert (found is None) == bool(refused)
    assert "\n" not in refused
    assert len(refused) < 1000
    if found:
        assert all(text == text.strip() != "" for text in found.texts)
        json.dumps(found.metadata, allow_nan=False)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    texts=st.lists(st.text(alphabet="ab,;\"' é猫-#\n", min_size=1).filter(str.strip), min_size=1, unique_by=str.strip)
)
def test_every_format_gives_back_what_was_written(texts, tmp_path):
    import csv

    import yaml

    wanted, rows = tuple(text.strip() for text in texts), [{"prompt": text, "n": 1} for text in texts]
    table = io.StringIO()
    writer = csv.writer(table)
    writer.writerows([["n", "prompt"], *([1, text.strip()] for text in texts)])
    for name, content in {
        "p.json": json.dumps(rows),
        "p.jsonl": "\n".join(json.dumps(row, ensure_ascii=False) for row in rows),
        "p.yaml": yaml.safe_dump(rows, allow_unicode=True),
        "p.csv": table.getvalue(),
    }.items():
        assert load(tmp_path, name, content).texts == wanted


def test_other_columns_are_kept_as_metadata(tmp_path):
    rows = [{"prompt": "two cups", "tag": "counting", "include": [{"class": "cup", "count": 2}]}, {"prompt": "a cup"}]
    found = load(tmp_path, "p.jsonl", "\n".join(map(json.dumps, rows)))
    assert found.metadata == ({"tag": "counting", "include": [{"class": "cup", "count": 2}]}, {})
    assert found.tasks == ("counting", "all")
    assert load(tmp_path, "p.csv", "prompt,level\na cat,3\n").metadata == ({"level": "3"},)
    assert load(tmp_path, "p.yaml", "- {prompt: a, made: 2001-02-03, n: .nan}").metadata == (
        {"made": "2001-02-03", "n": None},
    )
    assert load(tmp_path, "p.txt", "a cat").metadata == load_prompts("scenes:train")._only([0]).metadata == ({},)
    kept, held_out = found.split(0.5, 0)
    assert dict(zip(kept.texts + held_out.texts, kept.metadata + held_out.metadata, strict=True)) == dict(
        zip(found.texts, found.metadata, strict=True)
    )
    assert PromptSet(("a", "b"), ("x", "x")).metadata == ({}, {})


def test_columns_of_a_table_that_are_no_data_are_left_out_and_said(tmp_path):
    arrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    table = arrow.table({"prompt": ["a cat", "a dog"], "picture": [b"1", None], "n": [1.5, float("nan")]})
    parquet.write_table(table, tmp_path / "p.parquet")
    found = load_prompts(str(tmp_path / "p.parquet"))
    assert found.metadata == ({"n": 1.5}, {"picture": None, "n": None})
    assert "columns without plain data left out: picture" in found.describe()
    with pytest.raises(ConfigError, match=r"row 1 has no text in the column 'caption' \(it has prompt, picture, n\)"):
        load_prompts(str(tmp_path / "p.parquet"), column="caption")


def test_a_set_of_the_hub_is_read_without_its_pictures(monkeypatch):
    datasets = pytest.importorskip("datasets")
    rows = datasets.Dataset.from_dict({"prompt": ["a cat"], "n": [1], "picture": [None]}).cast_column(
        "picture", datasets.Image()
    )
    monkeypatch.setattr(datasets, "load_dataset", lambda name, split: rows)
    found = load_prompts("hub:someone/pictures")
    assert (found.texts, found.metadata) == (("a cat",), ({"n": 1},))
    assert "left out: picture" in found.describe()
    with pytest.raises(ConfigError, match=r"hub:someone/pictures row 1 has no text in the column 'caption'"):
        load_prompts("hub:someone/pictures", column="caption")


def test_a_set_says_how_many_prompts_came_from_where_and_shows_the_first_two(tmp_path):
    found = load(tmp_path, "p.txt", "a cat\ntwo dogs\na cat\na cup")
    assert found.describe() == (
        f"3 from {tmp_path / 'p.txt'} (1 repeated ones left out), the first: 'a cat' and 'two dogs'"
    )


def prompt_sets(tmp_path, **names):
    return load_prompt_sets(
        PromptSettings(**{key: str(tmp_path / name) if key != "share" else name for key, name in names.items()})
    )


def test_own_prompts_hold_out_a_share_of_their_own(tmp_path):
    for count, held in ((2, 1), (10, 1), (100, 10), (9000, 500)):
        (tmp_path / "p.txt").write_text("\n".join(f"{i} cats" for i in range(count)))
        train, held_out = prompt_sets(tmp_path, train="p.txt")
        assert (len(train.texts), len(held_out.texts)) == (count - held, held)
        assert not set(train.texts) & set(held_out.texts)
    lines = describe_sets(train, held_out)
    assert lines[0].startswith("training prompts: 8500 from ")
    assert lines[1].startswith("held-out prompts: 500 from the held-out share of ")
    (tmp_path / "p.txt").write_text("one cat")
    with pytest.raises(ConfigError, match="of 1 prompts leaves one side empty; name held-out prompts"):
        prompt_sets(tmp_path, train="p.txt")


def test_the_same_prompts_for_both_are_refused_and_common_ones_are_said(tmp_path):
    (tmp_path / "a.txt").write_text("a cat\ntwo dogs\na cup")
    (tmp_path / "same.csv").write_bytes(b"\xef\xbb\xbfprompt\r\nA cup\r\na  cat\r\ntwo dogs\r\n")
    (tmp_path / "b.txt").write_text("a cat\na bus\n")
    for held_out in ("a.txt", "./a.txt", "same.csv"):
        with pytest.raises(ConfigError, match=r"all 3 held-out prompts .* are among the training prompts"):
            prompt_sets(tmp_path, train="a.txt", held_out=held_out)
    assert "1 of them are trained on, too" in prompt_sets(tmp_path, train="a.txt", held_out="b.txt")[1].describe()


def test_a_model_of_ones_own_needs_prompts_of_ones_own():
    with pytest.raises(ConfigError, match=r"prompts.train is not set.*prompts.train=FILE"):
        load_prompt_sets(PromptSettings())
