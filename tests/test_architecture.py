"""The shape of the source: no circle of imports, none that runs upward, short functions, small files."""

from __future__ import annotations

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import advantageflow

PACKAGE = Path(advantageflow.__file__).parent
REPOSITORY = Path(__file__).parents[1]
MOST_LINES = {"function": 60, "file": 400, "trainer.py": 300, "loop": 40}

# From the ground up. A file imports from its own line and from the lines before it; the longest name counts, so that a
# file can stand elsewhere than the rest of its folder.
ROOMS = """
errors custom_code config_errors decay walk_plan seeding fingerprint devices places ranks world fits
pictures hub environment statistics tables adapter_names
flow solvers walks advantages drafts untrained
objectives
worlds prompts.geneval prompts.ocr
rewards trackers
config config_types config_rules config_sections methods evaluated reading
settings shipped
prompts pairs
sharding adapters adapter_formats lean policy optimizers models
rollout selection evaluation sources
learning
run
plan memory learner
worlds.pretraining worlds.scenes.pretrain worlds.scenes.distill worlds.scenes.rewards.training worlds.words.pretrain
trainer building
rehearsal
studies
launcher
bench doctor
reports
paper
api
cli
"""


def name_of(file: Path) -> str:
    """Of a module, without the package's: "" for the package itself."""
    parts = file.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {name_of(file): file for file in sorted(PACKAGE.rglob("*.py"))}
TREES = {name: ast.parse(file.read_bytes()) for name, file in FILES.items()}


def imports_of(tree: ast.AST, functions: bool = True) -> set[str]:
    """The modules of the package that a module imports, in its functions too; those for types alone do not count."""
    found: set[str] = set()
    inside = list(ast.iter_child_nodes(tree))
    while inside:
        node = inside.pop()
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING":
            inside += node.orelse
            continue
        if isinstance(node, ast.FunctionDef) and not functions:
            continue
        inside += ast.iter_child_nodes(node)
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "advantageflow":
            module = (node.module or "").partition(".")[2]
            names = [f"{module}.{alias.name}".lstrip(".") for alias in node.names]
            found |= {name if name in FILES else module for name in names}
        elif isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[2] for alias in node.names if alias.name.startswith("advantageflow.")}
    return found - {""}  # which loads what it names when that is used


def rank(module: str) -> int:
    """On which line of ROOMS a module stands."""
    lines = {room: number for number, line in enumerate(ROOMS.split("\n")) for room in line.split()}
    while module not in lines:
        module, dot, _ = module.rpartition(".")
        assert dot, f"{module} has no room"
    return lines[module]


def test_imports_form_no_circle():
    try:
        TopologicalSorter({name: imports_of(tree) for name, tree in TREES.items()}).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_no_import_runs_upward():
    inner = [name for name in TREES if name != "__main__"]
    upward = [
        f"{name} imports {other}" for name in inner for other in imports_of(TREES[name]) if rank(other) > rank(name)
    ]
    assert upward == []


def test_an_import_that_runs_upward_is_seen():
    tree = ast.parse("def f():\n    from advantageflow import trainer\nif TYPE_CHECKING:\n    import advantageflow.cli")
    assert imports_of(tree) == {"trainer"}
    assert rank("flow") < rank("worlds.scenes.world") < rank("models.sd3") < rank("worlds.scenes.pretrain")


def test_models_are_imported_when_one_is_loaded():
    """In `models.adapter_of`, which spares a search for garbage among what they import."""
    reached, ahead = set[str](), ["building", "studies.side_by_side"]
    while ahead:
        name = ahead.pop()
        found = imports_of(TREES[name], functions=False) | ({name.rpartition(".")[0]} - {""})
        ahead += found - reached
        reached |= found
    assert {"rewards", "models", "evaluation"} <= reached
    assert not reached & {"models.base", "adapters", "policy"}


def test_every_room_is_there():
    assert [room for room in ROOMS.split() if room not in FILES] == []


def test_functions_are_short():
    long = [
        f"{name}:{node.lineno} {node.name}"
        for name, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and length(node) > MOST_LINES["function"]
    ]
    assert long == []


def test_files_are_small():
    lines = {name: len(file.read_text(encoding="utf-8").splitlines()) for name, file in FILES.items()}
    assert {name: count for name, count in lines.items() if count > MOST_LINES["file"]} == {}
    assert lines["trainer"] <= MOST_LINES["trainer.py"]


def test_the_loop_fits_on_a_screen():
    nodes = list(ast.walk(TREES["trainer"]))
    (loop,) = (node for node in nodes if isinstance(node, ast.While))
    (iterate,) = (node for node in nodes if isinstance(node, ast.FunctionDef) and node.name == "iterate")
    assert length(loop) <= MOST_LINES["loop"]
    assert length(iterate) <= MOST_LINES["loop"]


def test_every_file_says_what_it_holds():
    assert [name for name, tree in TREES.items() if name != "__main__" and not ast.get_docstring(tree)] == []


def test_figures_are_png():
    figures = {".jpg", ".jpeg", ".svg", ".gif", ".webp", ".pdf", ".eps"}
    folders = [REPOSITORY / name for name in ("docs", "results", "src", "benchmarks")]
    assert [file for folder in folders for file in folder.rglob("*") if file.suffix.lower() in figures] == []


def length(node: ast.stmt) -> int:
    """In lines."""
    assert node.end_lineno is not None
    return node.end_lineno - node.lineno + 1
