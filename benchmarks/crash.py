"""Kill a run again and again, damage its newest checkpoint now and then, and see that it ends as if nothing had been.

    python benchmarks/crash.py [--kills 100] [--model FOLDER] [--iterations 450] [--seed 0] [--minutes 600]

Every other part of the killed run is shared by two processes, of which one or the one that started them is killed. A
quarter of the kills come while a checkpoint is written, an eighth while a run starts, the others at any moment.

The killed run must have the bytes of one that one process made undisturbed: every tensor of the last checkpoint, the
exported adapter, and every value of metrics.jsonl but the seconds. After each kill every checkpoint must be readable,
and no process may be left. Prints a line per kill, then JSON; exit code 1 if anything is not so.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from advantageflow.run.checkpoint import load_state
from advantageflow.run.keeping import place, saved
from advantageflow.run.stored import DamagedError

LOOK_SECONDS = 0.001
SPAN_SECONDS = 0.8  # after a new checkpoint, in which a kill comes: several iterations
START_SECONDS = 8.0  # about what it takes to start
WRITE_SECONDS = 0.03  # about what it takes to write a checkpoint
GRACE_SECONDS = 60.0  # for the other processes to end
SETTINGS = (
    "rollout.batch_size=2", "learn.batch_size=3",  # work for both processes
    "rollout.prompts_per_iteration=2", "rollout.images_per_prompt=3", "rollout.num_inference_steps=3",
    "learn.t_draws=2", "policy.lora_rank=4", "evaluation.num_images=6", "evaluation.num_inference_steps=2",
    "evaluation.every=7", "evaluation.prompts_shown=7", "run.checkpoint_every=1", "run.samples_every=1000",
    "run.keep=3", "run.threads=1", "run.constant_rewards_stop=0", "model.device=cpu",
    "prompts.train=scenes:train", "prompts.held_out=scenes:held_out",
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
    folder = run / "checkpoints"
    return [place(folder, iteration) for iteration in saved(folder)] if folder.exists() else []


def train(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "advantageflow", "train", *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(*arguments: str) -> None:
    process = train(*arguments)
    _, text = process.communicate()
    if process.returncode:
        raise SystemExit(f"exit code {process.returncode}: {text}")


def children(process: subprocess.Popen[str]) -> list[int]:
    """The numbers of the processes that share a run, in the order of their start; none if there is only one."""
    found = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True).stdout.split()
    return sorted(map(int, found))


def alive(number: int) -> bool:
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(number)], capture_output=True, text=True).stdout.strip()
    return bool(state) and not state.startswith("Z")


def unfinished(run: Path) -> set[tuple[str, int]]:
    """Checkpoints that are being written, or were when their process was killed, with the time of their last change."""
    found = set()
    for path in (run / "checkpoints").glob(".*.partial"):
        with suppress(FileNotFoundError):  # it was finished meanwhile
            found.add((path.name, path.stat().st_ctime_ns))
    return found


def wait_for_progress(process: subprocess.Popen[str], run: Path) -> None:
    """Until there are three checkpoints, one of them new, so that one may be damaged."""
    old = checkpoints(run)[-1:]
    while process.poll() is None and (len(checkpoints(run)) < 3 or checkpoints(run)[-1:] == old):
        time.sleep(LOOK_SECONDS)


def wait_for_writing(process: subprocess.Popen[str], run: Path) -> None:
    before = unfinished(run)
    while process.poll() is None and not unfinished(run) - before:
        time.sleep(LOOK_SECONDS)


def kill(moment: str, arguments: list[str], run: Path, rng: random.Random, counts: Counter[str]) -> str | None:
    """SIGKILL to one of the processes of a run; which one, or None if the run was faster."""
    before = unfinished(run)
    process = train(*arguments)
    if moment == "starting":
        time.sleep(rng.uniform(0, START_SECONDS))
    else:
        wait_for_progress(process, run)
        time.sleep(rng.uniform(0, SPAN_SECONDS))
    shared = children(process) if "--processes" in arguments else []
    numbers = {"process": process.pid, **dict(zip(("process 0", "process 1"), shared, strict=False))}
    name = rng.choice(list(numbers))
    if moment == "writing":
        name = "process 0" if shared else "process"  # which writes
        wait_for_writing(process, run)
        time.sleep(rng.uniform(0, WRITE_SECONDS))
    faster = process.poll() is not None
    with suppress(ProcessLookupError):
        os.kill(numbers[name], signal.SIGKILL)
    process.communicate()
    end = time.monotonic() + GRACE_SECONDS
    while any(map(alive, shared)) and time.monotonic() < end:
        time.sleep(0.1)
    counts["orphans"] += sum(map(alive, shared))
    counts["while a checkpoint was written"] += bool(unfinished(run) - before)
    counts["of two processes"] += "--processes" in arguments
    if faster or process.returncode == 0:
        return None
    return "launcher" if name == "process" and "--processes" in arguments else name


def unreadable(run: Path, spoiled: Path | None) -> int:
    """How many checkpoints cannot be read, but for one that was damaged on purpose and is still in its place."""
    count = 0
    for path in checkpoints(run):
        if path == spoiled:
            continue
        try:
            load_state(path)
        except DamagedError as error:
            print(f"unreadable: {error}", flush=True)
            count += 1
    return count


def wrong_rows(whole: Path, killed: Path) -> dict[str, int]:
    """Rows of metrics.jsonl that are missing, or there more than once."""
    files = (run / "metrics.jsonl" for run in (whole, killed))
    rows = [[json.loads(line)["iteration"] for line in file.read_text(encoding="utf-8").splitlines()] for file in files]
    return {"rows_lost": len({*rows[0]} - {*rows[1]}), "rows_doubled": len(rows[1]) - len({*rows[1]})}


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


def crash(model: str, kills: int, iterations: int, seed: int, folder: Path, minutes: float = 600) -> dict[str, object]:
    """Run undisturbed, and killed so often; what was done and what is not as it should be.

    Args:
        minutes: after which no further kill comes.
    """
    settings = [f"model.path={model}", *SETTINGS, f"run.iterations={iterations}"]
    rng, counts, spoiled = random.Random(seed), Counter[str](), None
    whole, killed = folder / "whole", folder / "killed"
    finish("scenes", *settings, "--output", str(whole))
    begin, go_on = ["scenes", *settings, "--output", str(killed)], ["--resume", str(killed)]
    end = time.monotonic() + 60 * minutes
    for number in range(kills):
        if time.monotonic() > end:
            break
        writing = 4 * counts["while a checkpoint was written"] <= number
        moment = "writing" if writing else "starting" if number % 8 == 7 else "training"
        arguments = (go_on if checkpoints(killed) else begin) + ["--processes", "2"] * (number % 2)
        victim = kill(moment, arguments, killed, rng, counts)
        if victim is None:
            break
        counts["kills"] += 1
        spoiled = spoiled if moment == "starting" else None  # a run that goes on sets it aside
        counts["unreadable"] += unreadable(killed, spoiled)
        said = f"kill {counts['kills']}: {victim} ({moment})"
        if number % 3 == 1 and moment != "starting":
            spoiled = checkpoints(killed)[-1]
            said += f"; {spoiled.name}: {DAMAGES[counts['damaged'] % len(DAMAGES)](spoiled, rng)}"
            counts["damaged"] += 1
        print(said, flush=True)
    finish(*go_on)
    return {
        "kills": counts["kills"],
        "of_two_processes": counts["of two processes"],
        "while_a_checkpoint_was_written": counts["while a checkpoint was written"],
        "damaged": counts["damaged"],
        "set_aside": len(list((killed / "checkpoints").glob("damaged-*"))),
        "iterations": iterations,
        "unreadable": counts["unreadable"],
        "orphans": counts["orphans"],
        **wrong_rows(whole, killed),
        "differs": difference(whole, killed),
    }


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
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--iterations", type=int, default=450)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--model", default="", help="a pipeline folder; by default a tiny random one is made")
    parser.add_argument("--minutes", type=float, default=600, help="no further kill after so many")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        model = options.model or tiny_model(Path(name) / "model")
        start = time.monotonic()
        found = crash(model, options.kills, options.iterations, options.seed, Path(name), options.minutes)
    print(json.dumps({**found, "minutes": round((time.monotonic() - start) / 60, 1)}))
    faults = ("unreadable", "orphans", "rows_lost", "rows_doubled", "differs")
    sys.exit(any(found[name] for name in faults) or found["kills"] != options.kills)


if __name__ == "__main__":
    main()
