"""`rewards` and `serve`."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Annotated, Any, Literal

import typer

from advantageflow.cli.custom_code import refusable

UNDERSTOOD = 10  # prompts of which `check` says what is wanted

app = typer.Typer(no_args_is_help=True, help="What images can be scored by.")


@app.command("list")
def list_rewards() -> None:
    """Show every built-in reward, what it measures, and what it still needs."""
    from rich.console import Console
    from rich.table import Table

    from advantageflow.rewards import BUILT_IN

    table = Table()
    table.add_column("reward", no_wrap=True)
    table.add_column("measures")
    table.add_column("packages")
    table.add_column("fetches on first use", overflow="fold")
    for name, reward in BUILT_IN.items():
        missing = reward.missing()
        table.add_row(
            name, reward.about, f"missing {', '.join(missing)}" if missing else "installed", "\n".join(reward.weights)
        )
    console = Console(markup=False)
    console.print(table)
    if any(reward.missing() for reward in BUILT_IN.values()):
        console.print('install what is missing: pip install "advantageflow[rewards]"')


@app.command("check")
@refusable
def check_rewards(
    names: Annotated[list[str], typer.Argument(help="Rewards to load.")],
    prompts: Annotated[
        str | None,
        typer.Option(help="A file or set as in prompts.train: can each prompt be scored, and what is wanted?"),
    ] = None,
    column: Annotated[str, typer.Option(help="That holds the prompt, in files with columns.")] = "prompt",
) -> None:
    """Load rewards, weights and all, and score a grey image with each."""
    import torch
    from rich.console import Console

    from advantageflow.errors import shown
    from advantageflow.prompts import load_prompts
    from advantageflow.rewards import load_reward
    from advantageflow.rewards.scoring import score

    console, own = Console(markup=False), load_prompts(prompts, column) if prompts else None
    if own:
        console.print(f"prompts: {own.describe()}", highlight=False, soft_wrap=True)
    defaults = {"geneval": "a photo of a cup", "scenes": "a circle"}
    for name in names:
        family, reward = name.split("_")[0], load_reward(name)
        if own:
            own.check_for(name, reward)
        texts = own.texts[:UNDERSTOOD] if own else (defaults.get(family, 'a sign that says "OPEN"'),)
        size = 64 if family == "scenes" else 512
        columns = own.metadata[:1] if own else None
        value = score(name, reward, torch.full((1, 3, size, size), 0.5), texts[:1], columns).item()
        console.print(f"{name}: {value:.4f} for a grey image and the prompt {shown(texts[0])}")
        if understood := getattr(reward, "understood", None):
            for text in texts:
                console.print(f"  {shown(text)}: {understood(text)}", highlight=False, soft_wrap=True)


@app.command("score")
@refusable
def score_images(
    images: Annotated[
        list[Path],
        typer.Argument(
            help="Pictures, folders of pictures, or tables (CSV, JSON lines ...) with the columns image,prompt."
        ),
    ],
    reward: Annotated[list[str], typer.Option(help="A reward; may be given several times.")],
    prompt: Annotated[
        str | None, typer.Option(help="What all should show; default: each has its own, in a table or in NAME.txt.")
    ] = None,
    column: Annotated[str, typer.Option(help="That holds the prompt, in tables.")] = "prompt",
    form: Annotated[Literal["table", "csv", "json"], typer.Option("--format", help="Of the scores.")] = "table",
    output: Annotated[Path | None, typer.Option(help="File for the scores; default: they are printed.")] = None,
) -> None:
    """Score pictures on disk by one or several rewards."""
    from rich.console import Console

    from advantageflow.errors import ConfigError
    from advantageflow.places import check_file, replacing
    from advantageflow.rewards import load_reward
    from advantageflow.run.progress import Bars, say
    from advantageflow.studies.scored_files import check_prompts, pictures_of, scored

    for path in (path for path in images if not path.exists()):
        raise ConfigError(f"{path} does not exist; give pictures, folders or tables")
    if output:
        check_file(output)
    pictures = pictures_of(images, prompt, column)
    functions = {name: load_reward(name) for name in reward}
    check_prompts(pictures, functions)
    console = Console(stderr=True)
    with Bars(console) as bars:
        task = bars.add("scoring", len(pictures), tell_end=False)
        rows = scored(pictures, functions, lambda count: bars.advance(task, count))
        if output is None:
            _write_scores(rows, [*functions], form, sys.stdout)
            return
        earlier, unfinished = replacing(output), output.with_name(f"{output.name}.partial")
        try:
            with unfinished.open("w", encoding="utf-8", newline="") as file:
                _write_scores(rows, [*functions], form, file)
            unfinished.replace(output)
        finally:
            unfinished.unlink(missing_ok=True)
    say(console, f"wrote {output}{earlier}")


def _write_scores(rows: Iterator[dict[str, Any]], rewards: list[str], form: str, file: IO[str]) -> None:
    """One by one, as they come; a table ends with their means."""
    if form == "csv":
        writer = csv.DictWriter(file, ["image", "prompt", *rewards], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    elif form == "json":
        file.write("[")
        for number, row in enumerate(rows):
            file.write((",\n" if number else "\n") + json.dumps(row, ensure_ascii=False))
        file.write("\n]\n")
    else:
        from rich.console import Console
        from rich.table import Table

        table, sums, count = Table("image", *rewards), dict.fromkeys(rewards, 0.0), 0
        for row in rows:
            count += 1
            table.add_row(row["image"], *(f"{row[name]:.4f}" for name in rewards))
            sums = {name: sums[name] + row[name] for name in rewards}
        if count > 1:
            table.add_section()
            table.add_row(f"mean of {count}", *(f"{sums[name] / count:.4f}" for name in rewards))
        Console(file=file, markup=False).print(table)


def serve(
    reward: Annotated[str, typer.Argument(help="A built-in reward, ./file.py:function or package.module:function.")],
    host: Annotated[str, typer.Option(help="Beyond loopback, ADVANTAGEFLOW_TOKEN must be set.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8000,
    workers: Annotated[int, typer.Option(min=1, help="Processes, each with its own copy of the reward.")] = 1,
    max_megabytes: Annotated[float, typer.Option(min=0.001, help="Largest request.")] = 64,
    timeout: Annotated[float, typer.Option(min=0.001, help="Seconds that a request may take.")] = 120,
    max_batch: Annotated[int, typer.Option(min=1, help="Images scored in one call.")] = 64,
) -> None:
    """Serve a reward over HTTP; its address is a reward wherever one is named."""
    from advantageflow.config import ConfigError

    try:
        from advantageflow.rewards.server import serve as run_server
    except ImportError as error:
        raise ConfigError(
            f'a reward server needs {error.name}; install with: pip install "advantageflow[rewards]"'
        ) from error
    run_server(reward, host, port, workers, max_megabytes=max_megabytes, timeout=timeout, max_batch=max_batch)
