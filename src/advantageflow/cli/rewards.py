"""`rewards` and `serve`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

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
    images: Annotated[list[Path], typer.Argument(help="Image files.", exists=True, dir_okay=False)],
    prompt: Annotated[str, typer.Option(help="What they should show.")],
    reward: Annotated[list[str], typer.Option(help="A reward; may be given several times.")],
) -> None:
    """Score image files by one or several rewards."""
    import numpy as np
    import torch
    from PIL import Image
    from rich.console import Console
    from rich.table import Table

    from advantageflow.rewards import load_reward
    from advantageflow.rewards.scoring import score

    functions = {name: load_reward(name) for name in reward}
    table = Table("image", *reward)
    for path in images:
        pixels = np.asarray(Image.open(path).convert("RGB"))
        image = torch.from_numpy(pixels.copy()).permute(2, 0, 1).unsqueeze(0).float() / 255
        values = (score(name, function, image, [prompt]).item() for name, function in functions.items())
        table.add_row(str(path), *(f"{value:.4f}" for value in values))
    Console(markup=False).print(table)


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
