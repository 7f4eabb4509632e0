"""`doctor`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any

import typer


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="All of it, as JSON.")] = False,
    online: Annotated[bool, typer.Option("--online", help="Ask the hub whose token this is.")] = False,
) -> None:
    """Say what is installed, what this machine has, and what would run here; exit code 1 where something is broken."""
    import json

    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from advantageflow.doctor import examine

    found = examine(online)
    if as_json:
        print(json.dumps(found, indent=2, ensure_ascii=False))
    else:
        table = Table(box=None, show_header=False, pad_edge=False)
        table.add_column(no_wrap=True, style="bold")
        table.add_column(overflow="fold")
        for name, text in _rows(found):
            table.add_row(name, Text(text))
        Console(markup=False).print(table)
    if found["broken"]:
        raise typer.Exit(1)


def _rows(found: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What a person reads, a line or two each."""
    if "torch" in found:
        yield from _installed(found)
        yield from _machine(found)
        yield from _would_run(found)
    else:
        yield "python", f"{found['python']}, {found['platform']}"
    yield ("broken", "; ".join(found["broken"])) if found["broken"] else ("broken", "nothing")


def _installed(found: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    commit = f", commit {found['commit']}" if found["commit"] else ""
    yield "advantageflow", f"{found['advantageflow']}{commit}; Python {found['python']}"
    yield "packages", ", ".join(f"{name} {found[name]}" for name in ("torch", "diffusers", "transformers", "peft"))
    extras: dict[str, list[str]] = found["extras"]
    here = ", ".join(name for name, missing in extras.items() if not missing) or "none"
    lacking = [f"{name} ({', '.join(missing)})" for name, missing in extras.items() if missing]
    wanted = ",".join(name for name, missing in extras.items() if missing)
    how = f'; missing: {", ".join(lacking)}: pip install "advantageflow[{wanted}]"' if lacking else ""
    yield "extras", f"{here}{how}"
    yield "weights", f"those of scenes and words are {found['weights']}"


def _machine(found: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    cpu, *gpus = found["devices"]
    yield "CPU", f"{cpu['name']}, {cpu['cores']} cores, {found['threads']} threads, {cpu['memory_gb']:.0f} GB"
    software = f"; driver {found['driver'] or 'unknown'}, CUDA {found['cuda']}"
    build = "this PyTorch has CUDA" if found["cuda"] else "this PyTorch has no CUDA"
    yield (
        "GPU",
        ", ".join(f"{gpu['name']}, {gpu['memory_gb']:.0f} GB" for gpu in gpus) + software if gpus else f"none; {build}",
    )
    yield "disk", "; ".join(f"{place['free_gb']:.0f} GB free in {place['path']}" for place in found["disk"].values())
    hub = found["hub"]
    told = "a token is there" if hub["logged_in"] else "no token; gated models need one: hf auth login"
    yield "hub", told + (f", of {hub['account']}" if hub.get("account") else "")


def _would_run(found: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for kind in ("rewards", "recipes"):
        runs = [name for name, why in found[kind].items() if not why]
        yield kind, f"run here: {_families(runs)}" if runs else "none runs here"
        obstacles: dict[str, list[str]] = {}
        for name, why in found[kind].items():
            if why:
                obstacles.setdefault(why, []).append(name)
        for why, names in obstacles.items():
            yield "", f"not {_families(names)}: {why}"
    if found["fetched_first_gb"]:
        yield "fetched first", ", ".join(f"{name} {size:.1f} GB" for name, size in found["fetched_first_gb"].items())


def _families(names: Iterable[str]) -> str:
    """Names, those of a family after their first as a number: "scenes and 41 more of scenes-"."""
    families: dict[str, list[str]] = {}
    for name in names:
        families.setdefault(re.split("[-/_]", name)[0], []).append(name)
    return ", ".join(
        ", ".join(family) if len(family) <= 8 else f"{family[0]} and {len(family) - 1} more of {first}"
        for first, family in families.items()
    )
