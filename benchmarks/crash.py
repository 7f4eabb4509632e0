"""Kill a run again and again, damage its newest checkpoint each time, and see that it ends as if nothing had happened.

    python benchmarks/crash.py [--kills 30] [--model FOLDER] [--iterations 150] [--seed 0]

The killed run must have the undisturbed run's bytes: every tensor of the last checkpoint, the exported adapter, and
every value of metrics.jsonl but the seconds. Prints a line per kill, then JSON; exit code 1 if anything differs.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

SETTINGS = (
    "rollout.prompts_per_iteration=2", "rollout.images_per_prompt=3", "rollout.num_inference_steps=3",
    "learn.t_draws=2", "policy.lora_rank=4", "evaluation.num_images=6", "evaluation.num_inference_steps=2",
    "evaluation.every=7", "run.checkpoint_every=1", "run.samples_every=1000", "run.keep=3", "run.threads=1",
    "run.constant_rewards_stop=0", "model.device=cpu", "prompts.train=scenes:train", "prompts.held_out=scenes:held_out",
)  # fmt: skip


def cut(folder: Path, rng: random.Random) -> str:
    file = _any(folder, rng)
    content = file.read_bytes()
    file.write_bytes(content[: rng.randrange(len(content))])
    return f"{file.name} cut"


def flip(folder: Path, rng: random.Random) -> str:
    file = _any(folder, rng)
    content = bytearray(file.read_bytes())
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    file.write_bytes(bytes(content))
    return f"a bit of {file.name} flipped"


def remove(folder: Path, rng: random.Random) -> str:
    file = _any(folder, rng)
    file.unlink()
    return f"{file.name} removed"


def swap(folder: Path, rng: random.Random) -> str:
    learner, average = folder / "learner.safetensors", folder / "average.safetensors"
    one, other = learner.read_bytes(), average.read_bytes()
    learner.write_bytes(other)
    average.write_bytes(one)
    return "learner and average swapped"


def listed(folder: Path, rng: random.Random) -> str:
    (folder / "state.json").write_text("[]", encoding="utf-8")
    return "state.json made a list"


def lose_a_row(folder: Path, rng: random.Random) -> str:
    file = folder.parent.parent / "metrics.jsonl"
    lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
    count = json.loads((folder / "state.json").read_text(encoding="utf-8"))["iteration"]
    file.write_text("".join(lines[: max(0, count - 1)]), encoding="utf-8")
    return "the last row of metrics.jsonl removed"


DAMAGES: tuple[Callable[[Path, random.Random], str], ...] = (cut, flip, remove, swap, listed, lose_a_row)


def _any(folder: Path, rng: random.Random) -> Path:
    return rng.choice(sorted(file for file in folder.rglob("*") if file.is_file() and file.stat().st_size))


def checkpoints(run: Path) -> list[Path]:
    return sorted(path for path in (run / "checkpoints").glob("[0-9]*") if path.is_dir())


def train(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "advantageflow", "train", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(*arguments: str) -> str:
    process = train(*arguments)
    text, _ = process.communicate()
    if process.returncode:
        raise SystemExit(f"exit code {process.returncode}: {text}")
    return text


def kill_in_training(arguments: list[str], run: Path, rng: random.Random) -> bool:
    """SIGKILL at a random moment once there are checkpoints to lose; False if the run was faster."""
    process = train(*arguments)
    first = {path.name for path in checkpoints(run)} if run.exists() else set()
    while process.poll() is None and (len(checkpoints(run)) < 3 or not {p.name for p in checkpoints(run)} - first):
        time.sleep(0.002)
    time.sleep(rng.uniform(0, 0.25))
    process.send_signal(signal.SIGKILL)
    process.communicate()
    return process.returncode == -signal.SIGKILL


def difference(one: Path, other: Path) -> list[str]:
    """What is not the same to the byte in two finished runs."""
    found = []
    ends = [checkpoints(run)[-1] for run in (one, other)]
    names = {file.relative_to(ends[0]) for file in ends[0].rglob("*.safetensors")}
    for name in sorted(names):
        if (ends[0] / name).read_bytes() != (ends[1] / name).read_bytes():
            found.append(str(name))
    adapter = Path("lora", "pytorch_lora_weights.safetensors")
    if (one / adapter).read_bytes() != (other / adapter).read_bytes():
        found.append(str(adapter))
    rows = [
        [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
        for run in (one, other)
    ]
    kept = [[{key: row[key] for key in row if not key.startswith("seconds/")} for row in run] for run in rows]
    if json.dumps(kept[0]) != json.dumps(kept[1]):
        found.append("metrics.jsonl")
    scores = [json.loads((run / "summary.json").read_text(encoding="utf-8")) for run in (one, other)]
    found += [f"summary.json: {key}" for key in ("before", "after", "iterations") if scores[0][key] != scores[1][key]]
    return found


def crash(model: str, kills: int, iterations: int, seed: int, folder: Path) -> dict[str, object]:
    """Run undisturbed, and killed and damaged so often; what was done and what differs."""
    settings = [f"model.path={model}", *SETTINGS, f"run.iterations={iterations}"]
    rng, damages = random.Random(seed), list[str]()
    whole, killed = folder / "whole", folder / "killed"
    finish("scenes", *settings, "--output", str(whole))
    arguments = ["scenes", *settings, "--output", str(killed)]
    while len(damages) < kills and kill_in_training(arguments, killed, rng):
        newest = checkpoints(killed)[-1]
        damages.append(f"{newest.name}: {DAMAGES[len(damages) % len(DAMAGES)](newest, rng)}")
        print(f"kill {len(damages)}: {damages[-1]}", flush=True)
        arguments = ["--resume", str(killed)]
    finish("--resume", str(killed))
    aside = len(list((killed / "checkpoints").glob("damaged-*")))
    return {"kills": len(damages), "set_aside": aside, "iterations": iterations, "differs": difference(whole, killed)}


def tiny_model(folder: Path) -> str:
    """A random pipeline of the built-in architecture, two layers deep."""
    import torch

    from advantageflow.worlds.scenes.model import build_pipeline, build_transformer

    pipeline = build_pipeline()
    torch.manual_seed(0)
    pipeline.register_modules(transformer=build_transformer(width=96, num_layers=2))
    pipeline.save_pretrained(folder)
    return str(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--iterations", type=int, default=150)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--model", default="", help="a pipeline folder; by default a tiny random one is made")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        model = options.model or tiny_model(Path(name) / "model")
        start = time.monotonic()
        found = crash(model, options.kills, options.iterations, options.seed, Path(name))
    print(json.dumps({**found, "minutes": round((time.monotonic() - start) / 60, 1)}))
    sys.exit(bool(found["differs"]) or found["kills"] != options.kills)


if __name__ == "__main__":
    main()
