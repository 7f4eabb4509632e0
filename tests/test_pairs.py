"""Learning from pairs of pictures on disk: what a file may hold, and a run that never draws."""

import json
import re

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from test_trainer import make_config, weights

from advantageflow.cli import main
from advantageflow.config import load_config
from advantageflow.errors import ConfigError
from advantageflow.models import load_model
from advantageflow.pairs import fingerprint, load_pairs, read_picture
from advantageflow.plan import make_plan
from advantageflow.prompts import load_prompts
from advantageflow.rewards import load_reward
from advantageflow.run.directory import RunDirectory
from advantageflow.run.progress import Display
from advantageflow.sources import PairSource
from advantageflow.trainer import Trainer

PROMPTS = ["a red circle", "a blue ring", "two green squares", "a red circle", "a white cross"]


def picture(file, size=(64, 64), color=None, **options):
    rng = np.random.default_rng(sum(file.name.encode()))
    shape = (size[1], size[0], 3)
    pixels = rng.integers(0, 256, shape) if color is None else np.broadcast_to(color, shape)
    Image.fromarray(pixels.astype(np.uint8)).save(file, **options)


@pytest.fixture
def folder(tmp_path):
    """Five pairs: the chosen picture is bright, the rejected one is dark."""
    (tmp_path / "pictures").mkdir()
    rows = []
    for number, prompt in enumerate(PROMPTS):
        for name, value in (("chosen", 200), ("rejected", 40)):
            picture(tmp_path / "pictures" / f"{name}{number}.png", color=[value, value - 8 * number, value])
        files = {name: f"pictures/{name}{number}.png" for name in ("chosen", "rejected")}
        rows.append({"prompt": prompt, **files})
    write(tmp_path, rows)
    return tmp_path


def rows_of(folder):
    return [json.loads(line) for line in (folder / "pairs.jsonl").read_text().splitlines()]


def write(folder, rows):
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(folder / "pairs.jsonl")


def load(folder, **changes):
    """The file with its third line changed; None removes a key."""
    rows = rows_of(folder)
    rows[2] = {name: value for name, value in {**rows[2], **changes}.items() if value is not None}
    return load_pairs(write(folder, rows), (64, 64))


def test_pairs_are_read_with_paths_from_the_files_own_folder(folder):
    pairs = load(folder)
    assert [pair.prompt for pair in pairs] == PROMPTS
    assert pairs[1].pictures == (folder / "pictures/chosen1.png", folder / "pictures/rejected1.png")
    assert {pair.scores for pair in pairs} == {(1.0, 0.0)}
    rows = [{**row, "scores": [0.5 + number, -0.5], "rater": 7} for number, row in enumerate(rows_of(folder))]
    assert load_pairs(write(folder, rows), (64, 64))[2].scores == (2.5, -0.5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompt": None}, r"line 3 has no text under 'prompt' \(it has chosen, rejected\)"),
        ({"prompt": 3}, "line 3 has no text under 'prompt'"),
        ({"rejected": None}, "line 3 has no text under 'rejected'"),
        ({"rejected": "pictures/none.png"}, "line 3: there is no file '.*none.png'; paths start from the folder"),
        ({"rejected": "pictures"}, "line 3: there is no file"),
        ({"rejected": "pictures/chosen2.png"}, "line 3 names 'pictures/chosen2.png' as both chosen and rejected"),
        ({"scores": [1, 0]}, r"line 3 has scores, other than .*line 1; give them in every line or in none"),
        ({"scores": [1]}, r"line 3 has the scores \[1\]; give two numbers"),
        ({"scores": [True, 0]}, "give two numbers"),
        ({"scores": [1e300, 0]}, "give two numbers"),
        ({"scores": "10"}, "give two numbers"),
        ({"scores": [0, 1]}, "by which the chosen picture is not the better one; exchange the pictures"),
        ({"score": [1, 0]}, r"line 3 has 'score' \(did you mean 'scores'\?\); rename or remove it"),
    ],
)
def test_a_line_that_is_no_pair_is_refused_with_its_number(changes, message, folder):
    with pytest.raises(ConfigError, match=message) as caught:
        load(folder, **changes)
    assert "pairs.jsonl line 3" in str(caught.value)


def test_a_picture_that_cannot_be_learned_from_is_refused_with_its_line(folder):
    file = folder / "pictures" / "bad.png"

    def refused(message):
        with pytest.raises(ConfigError, match=rf"pairs.jsonl line 3: .*bad\.png {message}"):
            load(folder, rejected="pictures/bad.png")

    file.write_bytes(b"no picture at all")
    refused("is no whole picture .*; give a PNG, JPEG or WebP file")
    picture(file, format="BMP")
    refused("is no whole picture")
    picture(file, (63, 64))
    refused("has 63 x 64 pixels, but the model draws 64 x 64; give a larger one, or set model.resolution")
    Image.new("RGBA", (64, 64)).save(file)
    refused("is transparent; save it as 8-bit RGB")
    Image.new("I;16", (64, 64)).save(file)
    refused("is of the mode I;16; save it as 8-bit RGB")
    Image.new("1", (20_000, 20_000)).save(file)
    refused("")
    frames = [Image.new("RGB", (64, 64), color) for color in ("red", "blue")]
    frames[0].save(file, format="WEBP", save_all=True, append_images=frames[1:])
    refused("has 2 frames; save one of them")
    with file.open("wb") as large:
        large.truncate(2**26 + 1)
    refused("has more than 64 MB; save it smaller")


def test_a_picture_that_is_cut_off_is_told_with_its_line_when_it_is_drawn(folder):
    file = folder / "pictures" / "rejected2.jpg"
    picture(file, (256, 256))
    pairs = load(folder, rejected="pictures/rejected2.jpg")
    file.write_bytes(file.read_bytes()[:2000])
    with pytest.raises(ConfigError, match=r"pairs.jsonl line 3: .*rejected2.jpg is no whole picture \(.*truncated"):
        read_picture(file, (64, 64), pairs[2].origin)


@pytest.mark.parametrize(
    ("text", "name", "message"),
    [
        ("", "pairs.jsonl", "holds no pairs; write a line for each"),
        ('["a"]\n', "pairs.jsonl", r"line 1 is \['a'\]; write an object"),
        ('{"prompt": "a"\n', "pairs.jsonl", "line 1 is not JSON"),
        ("a\n", "pairs.txt", r"pairs are read from \.jsonl or \.ndjson, with a line such as"),
        (None, "pairs.jsonl", "does not exist; give a file with pairs"),
    ],
)
def test_a_file_that_holds_no_pairs_is_refused(text, name, message, tmp_path):
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_pairs(str(tmp_path / name), (64, 64))


def test_larger_pictures_are_scaled_to_cover_the_size_and_cropped_in_the_centre(tmp_path):
    file = tmp_path / "wide.png"
    pixels = np.zeros((128, 512, 3), np.uint8)
    pixels[:, 192:320] = 255  # the middle quarter
    Image.fromarray(pixels).save(file)
    found = read_picture(file, (64, 64), "line 1")
    assert found.shape == (64, 64, 3)
    assert (found[:, 2:-2] == 255).all()
    picture(file, (64, 64))
    assert np.array_equal(read_picture(file, (64, 64), "line 1"), np.asarray(Image.open(file)))
    turned = Image.new("RGB", (96, 64), "red")
    turned.paste("blue", (0, 0, 48, 64))
    exif = Image.Exif()
    exif[0x0112] = 6  # shown after a quarter turn: the left half becomes the upper one
    turned.save(tmp_path / "turned.png", exif=exif)
    assert read_picture(tmp_path / "turned.png", (96, 64), "line 1")[0, 0].tolist() == [0, 0, 255]


def make(folder, output, model_folder, **sections):
    config = make_config(
        rollout={
            "source": str(folder / "pairs.jsonl"), "images_per_prompt": 2, "prompts_per_iteration": 3,
            "num_inference_steps": 4, "solver": "euler", "batch_size": 4,
        },
        **sections,
    )  # fmt: skip
    torch.manual_seed(0)
    run = RunDirectory.create(output, config) if not output.exists() else RunDirectory.open(output)[0]
    train = load_prompts(config.prompts.train)
    return Trainer(
        config,
        run,
        load_model(str(model_folder)),
        train_prompts=train,
        held_out_prompts=load_prompts(config.prompts.held_out),
        rewards={},
        evaluated={label: load_reward(name) for label, name in config.evaluation.rewards.items()},
        display=Display(Console(quiet=True), config),
        pairs=load_pairs(config.rollout.source, (64, 64)),
    )


def test_an_iteration_learns_from_pairs_in_place_of_its_own_images(folder, tmp_path, tiny_pipeline_folder):
    trainer = make(folder, tmp_path / "run", tiny_pipeline_folder)
    assert trainer.config.reward_weights == {}
    seen = []
    source = trainer.source
    assert isinstance(source, PairSource)
    for iteration in range(5):  # of three pairs: each of the five three times
        prompts, rollout = source.draw(iteration)
        assert rollout.x0.shape == (6, *trainer.model.latent_shape)
        assert rollout.edges is None
        assert prompts[::2] == prompts[1::2]
        assert source.scores()["given"].tolist() == [1, 0] * 3
        bright = trainer.model.encode_images(torch.full((1, 3, 64, 64), 200 / 255))
        dark = trainer.model.encode_images(torch.full((1, 3, 64, 64), 40 / 255))
        closer = (rollout.x0 - bright).flatten(1).norm(dim=1) < (rollout.x0 - dark).flatten(1).norm(dim=1)
        assert closer.tolist() == [True, False] * 3
        seen += [pair.origin for pair in source._drawn]
    assert sorted(seen[:5]) == sorted(seen[5:10]) == sorted(seen[10:])
    again, _ = make(folder, tmp_path / "again", tiny_pipeline_folder).source.draw(4)
    assert again == prompts


@pytest.mark.parametrize("objective", ["advantageflow", "nft", "rwr"])
def test_a_run_from_pairs_goes_on_to_the_bit(objective, folder, tmp_path, tiny_pipeline_folder):
    small = {"num_images": 2, "prompts_shown": 1}
    whole = make(folder, tmp_path / "whole", tiny_pipeline_folder, objective=objective, evaluation=small)
    start = weights(whole)
    whole.run()
    assert not torch.equal(weights(whole), start)
    rows = whole.directory.metrics()
    assert [row["reward/mean"] for row in rows] == [0.5, 0.5]
    assert [row["diversity"] for row in rows] == [None, None]

    parted = make(folder, tmp_path / "parted", tiny_pipeline_folder, objective=objective, evaluation=small)
    one = parted.iterate

    def stop_after_one():
        parted.world.stopping = True
        return one()

    parted.iterate = stop_after_one
    assert parted.run() is None
    rest = make(folder, tmp_path / "parted", tiny_pipeline_folder, objective=objective, evaluation=small)
    assert rest.run()["iterations"] == 2
    assert torch.equal(weights(rest), weights(whole))


def test_the_chosen_picture_becomes_likelier_than_the_rejected_one(folder, tmp_path, tiny_pipeline_folder):
    """The learner's flow-matching error falls at chosen pictures, against that at rejected ones."""
    trainer = make(
        folder, tmp_path / "run", tiny_pipeline_folder, learn={"t_draws": 4, "learning_rate": 3e-3},
        run={"iterations": 10, "samples_every": 100}, evaluation={"num_images": 2},
    )  # fmt: skip
    prompts, rollout = trainer.source.draw(0)
    model = trainer.model
    noise = torch.randn(rollout.x0.shape, generator=torch.Generator().manual_seed(5))
    t = torch.full((len(prompts),), 0.6, dtype=torch.float64)

    @torch.no_grad()
    def margin():
        x_t = 0.4 * rollout.x0 + 0.6 * noise
        with trainer.policy.acting_as("learner") as transformer:
            v = model.velocity(transformer, x_t, t, model.encode(prompts))
        error = (v - (noise - rollout.x0)).square().flatten(1).mean(1)
        return (error[1::2] - error[::2]).mean().item()

    before = margin()
    for _ in range(10):
        trainer.iterate()
    assert margin() > before


def test_the_fingerprint_is_of_what_the_pictures_show(folder, tmp_path):
    one = fingerprint(load(folder))
    (folder / "pictures").rename(folder / "moved")
    rows = [
        {**row, **{n: row[n].replace("pictures", "moved") for n in ("chosen", "rejected")}} for row in rows_of(folder)
    ]
    assert fingerprint(load_pairs(write(folder, rows), (64, 64))) == one
    picture(folder / "moved" / "chosen1.png")
    assert fingerprint(load_pairs(str(folder / "pairs.jsonl"), (64, 64))) != one


@pytest.fixture
def typed(monkeypatch, capsys, folder):
    monkeypatch.chdir(folder)
    monkeypatch.setenv("COLUMNS", "1000")

    def run(*arguments):
        monkeypatch.setattr("sys.argv", ["advantageflow", *map(str, arguments)])
        try:
            main()
            code = 0
        except SystemExit as ended:
            code = ended.code
        found = capsys.readouterr()
        return code or 0, found.out + found.err

    return run


PAIRS = ["train", "scenes", "rollout.source=pairs.jsonl", "rollout.images_per_prompt=2"]
SMALL = [
    "rollout.prompts_per_iteration=2", "rollout.num_inference_steps=3", "learn.t_draws=2", "policy.lora_rank=4",
    "evaluation.num_images=2", "evaluation.num_inference_steps=2", "evaluation.prompts_shown=2", "run.iterations=1",
    "run.threads=1", "run.checkpoint_every=1",
]  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            ["objective=flow-grpo"],
            "objective 'flow-grpo' learns from the transitions of a sampler, which pairs on disk do",
        ),
        (["objective=draft", "reward=scenes_clip"], "objective 'draft' learns from a reward's gradient, which pairs"),
        (["rollout.images_per_prompt=4"], "rollout.images_per_prompt is 4, but with rollout.source a group is a pair"),
        (
            ["prompts.train=words:train"],
            "prompts.train is 'words:train', but rollout.source brings the training prompts",
        ),
        (["rollout.source=none.jsonl"], "none.jsonl' does not exist"),
    ],
)
def test_what_does_not_go_with_pairs_is_refused(changes, message, typed):
    keys = {change.partition("=")[0] for change in changes}
    given = [part for part in PAIRS if part.partition("=")[0] not in keys]
    for plan in ([], ["--plan"]):
        code, text = typed(*given, *changes, *plan)
        assert code == 2
        assert message in text


def test_a_run_a_plan_a_report_and_another_picture(typed, folder):
    code, text = typed(*PAIRS, "--plan")
    assert code == 0, text
    assert "the pairs of pairs.jsonl" in text
    assert "0 sampling" in text
    assert "pairs: 5 from pairs.jsonl; their scores are learned from" in text
    code, text = typed(*PAIRS, *SMALL, "--output", "run")
    assert code == 0, text
    assert "training prompts: 4 from pairs.jsonl" in text
    code, text = typed("report", "run", "--output", "page.html")
    assert code == 0, text
    assert "on the pairs of pairs.jsonl for 1 iteration" in re.sub(r"\s+", " ", (folder / "page.html").read_text())
    picture(folder / "pictures" / "chosen1.png")
    code, text = typed("train", "--resume", "run", "run.iterations=2")
    assert code == 2
    assert "the pairs of rollout.source changed since the run was started" in text
    code, text = typed("train", "--resume", "run", "run.iterations=2", "--accept-changes")
    assert code == 0, text


def test_pairs_of_held_out_prompts_are_left_out(typed):
    changes = [*PAIRS, "prompts.held_out=0.25", "evaluation.rewards={graded: scenes_graded}"]
    code, text = typed(*changes, "--plan")
    assert code == 0, text
    left_out = int(re.search(r"pairs: \d from pairs.jsonl \((\d) left out, whose prompts are held out\)", text)[1])
    assert left_out in (1, 2)  # one prompt has two pairs


def test_a_plan_counts_no_sampling_while_training():
    changes = ["rollout.source=pairs.jsonl", "rollout.images_per_prompt=2"]
    drawn, given = load_config("scenes", changes[1:]), load_config("scenes", changes)
    assert make_plan(given).sampling_calls == 0 < make_plan(drawn).sampling_calls
    assert make_plan(given).learning_calls == make_plan(drawn).learning_calls
    assert given.prompts.held_out == "scenes:held_out"
