"""What lies in examples/ runs as it is."""

import runpy
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from test_cli import SMALL

import advantageflow as af

EXAMPLES = Path(__file__).parent.parent / "examples"


def test_every_example_is_in_the_index():
    index = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    assert len(index.splitlines()) <= 15
    assert all(
        f"({path.name})" in index for path in EXAMPLES.iterdir() if path.name not in ("README.md", "__pycache__")
    )


def test_a_step_in_plain_diffusers_lowers_the_loss():
    made = runpy.run_path(str(EXAMPLES / "train_step.py"))
    assert made["rewards"].std() > 0
    seen = {name: made[name] for name in ("x0", "x_t", "t")} | {"advantage": made["advantage"].to(made["x0"].dtype)}
    after = made["method"].loss(made["velocity"](), made["v_old"], made["v_ref"], **seen).mean()
    assert after < made["loss"]


def test_a_reward_in_a_file_trains(tmp_path, tiny_pipeline_folder, monkeypatch):
    monkeypatch.chdir(EXAMPLES.parent)
    reward = "./examples/my_reward.py:warmth"
    model = f"model.path={tiny_pipeline_folder}"
    run = af.train("scenes", model, *SMALL, "run.iterations=1", reward=reward, output=tmp_path / "run", quiet=True)
    assert -1 <= run.metrics()[0]["reward/mean"] <= 1
    (label,) = (label for label in run.summary["after"] if "warmth" in label)
    assert run.summary["after"][label] != 0


def test_the_notebook_runs_from_top_to_bottom(tmp_path, monkeypatch):
    """With fewer and smaller iterations than a reader's; it is kept without outputs."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    notebook = nbformat.read(EXAMPLES / "laptop.ipynb", as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert not any(cell.outputs or cell.execution_count for cell in code)
    smaller = {'"run.iterations": 3': '"run.iterations": 1', "ITERATIONS = 12": "ITERATIONS = 1"}
    smaller |= {'iteration": 8': 'iteration": 2', 'images": 64': 'images": 4'}
    source = "".join(cell.source for cell in code)
    assert all(large in source for large in smaller)
    for cell in code:
        for large, small in smaller.items():
            cell.source = cell.source.replace(large, small)
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown = [output for cell in code for output in cell.outputs if "image/png" in output.get("data", {})]
    assert len(shown) == 2
    assert "graded" in "".join(output.text for output in code[1].outputs if output.get("name") == "stdout")
