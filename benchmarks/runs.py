"""Training runs for the benchmarks: each in its own folder and process; started, continued, or found finished."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any


def finish(folder: Path, recipe: str, changes: Sequence[str], threads: int) -> None:
    """Bring one run to its end."""
    if (folder / "summary.json").exists():
        return
    arguments = ["--resume", str(folder)]
    if not (folder / "config.yaml").exists():
        arguments = [recipe, *changes, f"run.threads={threads}", "--output", str(folder)]
    print(f"training {folder}", flush=True)
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    log = folder.with_suffix(".log")
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a") as file:
        command = [sys.executable, "-m", "advantageflow", "train", *arguments]
        subprocess.run(command, stdout=file, stderr=file, env=environment, check=True)


def finish_all(runs: Mapping[Path, tuple[str, Sequence[str]]], jobs: int, threads: int) -> None:
    """Bring all runs (folder -> recipe, changes) to their end, `jobs` at once."""
    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(lambda item: finish(item[0], *item[1], threads), runs.items()))


def metrics(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def summary(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    return content
