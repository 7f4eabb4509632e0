"""Damage to a run's folder is seen; the newest copy that is good is used, or the run says in a sentence why not."""

import json
import shutil

import pytest
import torch
from safetensors.torch import save_file

from advantageflow.config import load_config
from advantageflow.errors import ConfigError, NonFiniteError
from advantageflow.run.changes import changed, flat
from advantageflow.run.checkpoint import MANIFEST, load_state, save_state
from advantageflow.run.directory import RunDirectory
from advantageflow.run.keeping import best, kept, saved
from advantageflow.run.resuming import resume
from advantageflow.run.stored import DamagedError

CONFIG = load_config("scenes")
SECONDS = {"sampling": 1.0, "scoring": 1.0, "learning": 1.0, "evaluating": 1.0}
EXPECTED = {role: {"a": torch.zeros(2), "b": torch.zeros(3)} for role in ("learner", "rollout", "average")}


def tensors(value):
    roles = {
        role: {name: part + value + i for name, part in group.items()}
        for i, (role, group) in enumerate(EXPECTED.items())
    }
    return {**roles, "optimizer": {"0.exp_avg": torch.full((2,), value), "0.step": torch.tensor(value)}}


def add_row(run, iteration):
    run.append_metrics(
        {
            "iteration": iteration,
            "reward/mean": 0.5,
            "diversity": 1.0,
            "seconds/training": 3.0,
            "zero_variance_groups": 0,
        }
    )


def save(run, iteration, config=CONFIG, evaluation=None, keep=3):
    record = {
        "iteration": iteration, "optimizer_step": iteration, "before": {"strict": 0.1, "tasks": {}}, "seconds": SECONDS,
        "evaluation": evaluation, "settings": flat(config),
    }  # fmt: skip
    settings = config.run.model_copy(update={"keep": keep})
    run.save_checkpoint(iteration, tensors(float(iteration)), record, settings=settings, score="strict")


@pytest.fixture
def run(tmp_path):
    """Checkpoints 1, 2 and 3, each with a row of metrics more."""
    run = RunDirectory.create(tmp_path / "run", CONFIG)
    for iteration in (1, 2, 3):
        add_row(run, iteration - 1)
        save(run, iteration)
    return run


def go_on(run, config=CONFIG):
    return resume(run, flat(config), EXPECTED, [tensor.shape for tensor in EXPECTED["learner"].values()])


def test_a_checkpoint_goes_round(run):
    found = go_on(run)
    assert found.record["iteration"] == 3
    assert found.said == []
    assert all(torch.equal(found.tensors["average"][name], tensors(3.0)["average"][name]) for name in ("a", "b"))


def cut(file):
    file.write_bytes(file.read_bytes()[:-5])


def flip(file):
    content = bytearray(file.read_bytes())
    content[-3] ^= 4
    file.write_bytes(bytes(content))


def older(file):
    shutil.copy(file.parent.parent / "000002" / file.name, file)


def swap(folder, one="learner.safetensors", other="average.safetensors"):
    (folder / one).rename(folder / "aside")
    (folder / other).rename(folder / one)
    (folder / "aside").rename(folder / other)


def rewrite(file, value):
    file.write_text(json.dumps(value))


def resave(folder, change):
    """A whole checkpoint with a true manifest, but of something else."""
    found, record = load_state(folder)
    change(found, record)
    shutil.rmtree(folder)
    save_state(folder, found, record)


FILES = (
    "learner.safetensors",
    "rollout.safetensors",
    "average.safetensors",
    "optimizer.safetensors",
    "state.json",
    MANIFEST,
)
DAMAGES = {
    **{f"{name} cut": lambda folder, name=name: cut(folder / name) for name in FILES},
    **{f"{name} flipped": lambda folder, name=name: flip(folder / name) for name in FILES},
    **{f"{name} missing": lambda folder, name=name: (folder / name).unlink() for name in FILES},
    **{f"{name} empty": lambda folder, name=name: (folder / name).write_bytes(b"") for name in FILES},
    **{f"{name} of the one before": lambda folder, name=name: older(folder / name) for name in FILES},
    "two files swapped": swap,
    "a further file": lambda folder: (folder / "more.safetensors").write_bytes(b"x"),
    "state.json a list": lambda folder: rewrite(folder / "state.json", []),
    "state.json a number": lambda folder: rewrite(folder / "state.json", 3),
    "manifest a list": lambda folder: rewrite(folder / MANIFEST, []),
    "manifest without files": lambda folder: rewrite(folder / MANIFEST, {}),
    "manifest of wrong types": lambda folder: rewrite(folder / MANIFEST, {"files": [1]}),
    "all files missing": lambda folder: [file.unlink() for file in folder.iterdir()],
    "state.json without iteration": lambda folder: resave(folder, lambda _, record: record.pop("iteration")),
    "state.json of wrong types": lambda folder: resave(folder, lambda _, record: record.update(seconds=[1])),
    "state.json with seconds of text": lambda folder: resave(folder, lambda _, it: it["seconds"].update(sampling="1")),
    "another iteration": lambda folder: resave(folder, lambda _, record: record.update(iteration=7)),
    "other shapes": lambda folder: resave(folder, lambda found, _: found["learner"].update(a=torch.zeros(5))),
    "a tensor missing": lambda folder: resave(folder, lambda found, _: found["average"].pop("a")),
    "another seed's": lambda folder: resave(folder, lambda _, record: record["settings"].update(seed=9)),
    "another run's rows": lambda folder: resave(folder, lambda _, record: record["rows"].update(sha256="0" * 64)),
    "rows of no type": lambda folder: resave(folder, lambda _, record: record.update(rows=5)),
    "a file in its place": lambda folder: (shutil.rmtree(folder), folder.mkdir()),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_set_aside_by_name_and_the_one_before_is_used(damage, run):
    DAMAGES[damage](run.checkpoints / "000003")
    found = go_on(run)
    assert found.record["iteration"] == 2
    (line,) = found.said
    assert "checkpoint 3 is set aside as" in line
    assert str(run.checkpoints / "damaged-000003") in line
    assert (run.checkpoints / "damaged-000003").is_dir()
    assert saved(run.checkpoints) == [1, 2]


def test_where_all_are_damaged_nothing_is_moved_and_one_sentence_says_so(run):
    for iteration in (1, 2, 3):
        flip(run.checkpoints / f"{iteration:06d}" / "learner.safetensors")
    with pytest.raises(
        ConfigError, match=r"no checkpoint of .*run can be used \(.*000003/learner.safetensors changed"
    ) as caught:
        go_on(run)
    assert "\n" not in str(caught.value)
    assert saved(run.checkpoints) == [1, 2, 3]


def test_a_second_damaged_one_of_the_same_name_is_kept_too(run):
    (run.checkpoints / "damaged-000003").mkdir()
    flip(run.checkpoints / "000003" / "state.json")
    go_on(run)
    assert (run.checkpoints / "damaged-000003-2" / "state.json").is_file()


def test_only_folders_of_digits_are_checkpoints_and_they_count_as_numbers(run):
    for name in ("best", "notes", "000004-copy", "damaged-000009", "4", "0000005", "٠٠٠٠٠٩"):
        (run.checkpoints / name).mkdir()
        (run.checkpoints / name / "mine").write_text("mine")
    (run.checkpoints / "000008").write_text("a file")
    assert saved(run.checkpoints) == [1, 2, 3]
    shutil.copytree(run.checkpoints / "000003", run.checkpoints / "1000000")
    assert saved(run.checkpoints) == [1, 2, 3, 1000000]
    shutil.rmtree(run.checkpoints / "1000000")
    for iteration in (4, 5, 6):
        add_row(run, iteration - 1)
        save(run, iteration, keep=2)
    assert saved(run.checkpoints) == [5, 6]
    assert (run.checkpoints / "best" / "mine").read_text() == "mine"


def test_checkpoints_of_early_versions_are_read_and_that_is_said(run):
    for iteration in (2, 3):
        folder = run.checkpoints / f"{iteration:06d}"
        (folder / MANIFEST).unlink()
        record = json.loads((folder / "state.json").read_text())
        rewrite(
            folder / "state.json", {key: record[key] for key in ("iteration", "optimizer_step", "before", "seconds")}
        )
    found = go_on(run)
    assert found.record["iteration"] == 3
    assert "has no manifest.json" in found.said[0]
    save_file(tensors(float("nan"))["learner"], run.checkpoints / "000003" / "learner.safetensors")
    assert "holds NaN or infinity" in go_on(run).said[0]


ROWS = {
    "the last row missing": (2, lambda lines: lines[:-1]),
    "two rows missing": (1, lambda lines: lines[:1]),
    "a row twice": (2, lambda lines: [*lines[:2], *lines[1:]]),
    "a row changed": (2, lambda lines: [*lines[:2], lines[2].replace("0.5", "0.6")]),
    "a row damaged": (2, lambda lines: [*lines[:2], lines[2][:-4] + "}}}\n"]),
    "a cut row": (2, lambda lines: [*lines[:2], lines[2][:-4]]),
    "the first row changed": (None, lambda lines: [lines[0].replace("0.5", "0.6"), *lines[1:]]),
    "the first row missing": (None, lambda lines: lines[1:]),
}


@pytest.mark.parametrize("change", ROWS)
def test_rows_of_metrics_are_counted_at_resume(change, run):
    expected, damage = ROWS[change]
    run.metrics_file.write_text("".join(damage(run.metrics_file.read_text().splitlines(keepends=True))))
    if expected is None:
        with pytest.raises(ConfigError, match=r"metrics\.jsonl"):
            go_on(run)
    else:
        found = go_on(run)
        assert found.record["iteration"] == expected
        assert all("metrics.jsonl" in line for line in found.said)


def test_without_its_rows_no_checkpoint_is_used(run):
    run.metrics_file.write_text("")
    with pytest.raises(ConfigError, match=r"metrics.jsonl has 0 rows, of 3 that the checkpoint counted"):
        go_on(run)
    run.metrics_file.unlink()
    with pytest.raises(ConfigError, match="has 0 rows"):
        go_on(run)
    assert saved(run.checkpoints) == [1, 2, 3]


def test_rows_without_a_checkpoint_are_not_overwritten(run):
    shutil.rmtree(run.checkpoints)
    with pytest.raises(ConfigError, match="rows of metrics but no checkpoint"):
        go_on(run)


def test_a_kill_between_two_renames_loses_nothing(run):
    (run.checkpoints / "000003").rename(run.checkpoints / ".000003.retired")
    (run.checkpoints / ".000003.partial").mkdir()
    assert go_on(run).record["iteration"] == 3
    assert sorted(path.name for path in run.checkpoints.iterdir()) == ["000001", "000002", "000003"]


@pytest.mark.parametrize("group", ["learner", "average", "optimizer"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_is_not_saved(group, value, run):
    bad = tensors(4.0)
    next(iter(bad[group].values()))[0] = value
    with pytest.raises(NonFiniteError, match=f"{group} .* holds NaN or infinity and is not saved"):
        save_state(run.checkpoints / "000004", bad, {})
    assert saved(run.checkpoints) == [1, 2, 3]


def test_kept_are_the_newest_the_best_and_the_last_before_a_collapse():
    assert kept([0, 10, 20, 30, 40], 2, best=10, collapse=25) == {10, 20, 30, 40}
    assert kept([0, 10, 20], 2, best=None, collapse=None) == {10, 20}
    assert kept([10, 20], 5, best=20, collapse=5) == {10, 20}
    assert best({10: 0.5, 20: 0.7, 30: 0.7}) == 20
    assert best({}) is None


def test_the_best_checkpoint_stays(run):
    for iteration, score in ((4, 0.3), (5, 0.9), (6, 0.5), (7, 0.8), (8, 0.1)):
        add_row(run, iteration - 1)
        save(run, iteration, evaluation={"strict": score, "tasks": {}}, keep=2)
    assert saved(run.checkpoints) == [5, 7, 8]


def test_what_cannot_rewrite_the_past_may_be_changed():
    config = changed(
        CONFIG, ["run.iterations=7", "learn.learning_rate=0.1", "evaluation.num_images=9", "model.device=cpu"]
    )
    assert (config.run.iterations, config.learn.learning_rate, config.evaluation.num_images) == (7, 0.1, 9)
    for wrong in (
        "seed=3",
        "reward=jpeg_compressibility",
        "objective=nft",
        "policy.lora_rank=3",
        "rollout.images_per_prompt=8",
    ):
        with pytest.raises(ConfigError, match=rf"{wrong.split('=')[0]}.* cannot be changed with --resume.*run\.\*"):
            changed(CONFIG, ["run.iterations=7", wrong])


def test_a_damaged_config_is_one_sentence(run):
    file = run.path / "config.yaml"
    for text in ("a: [", "- 1", "", "seed: many\n", "\x00", "learn: {learning_rate: -1}"):
        file.write_text(text)
        with pytest.raises(ConfigError, match=r"config\.yaml") as caught:
            RunDirectory.open(run.path)
        assert "\n" not in str(caught.value)
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(DamagedError, match="is not UTF-8"):
        RunDirectory.open(run.path)
