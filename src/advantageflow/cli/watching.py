"""`watch`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def watch(
    runs: Annotated[list[Path], typer.Argument(help="Folders of runs, finished or not.")],
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 for any free one.")] = 0,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open one, where there is a desktop.")] = True,
) -> None:
    """Show runs while they train: their report in a browser of this machine, which keeps itself up to date."""
    import os
    import sys
    import webbrowser

    from rich.console import Console

    from advantageflow.reports.live import LivePage, Server

    console = Console(markup=False, highlight=False, soft_wrap=True)
    with Server(LivePage(runs), port) as server:
        console.print(f"watching at {server.address} until Ctrl-C; no other machine can see it")
        if browser and (
            sys.platform == "darwin" or any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))
        ):
            webbrowser.open(server.address)
        try:
            server.serve_forever(poll_interval=0.2)
        except KeyboardInterrupt:
            console.print("no longer watching")
