"""docs/metrics.md has a line for every metric that a run writes, and for nothing else."""

import re
from pathlib import Path

from test_trainer import brightness, make_config, make_trainer

PAGE = Path(__file__).parents[1] / "docs" / "metrics.md"
SIGNS = ("/positive_advantage", "/negative_advantage")


def documented():
    """What stands in the first column of the page's tables."""
    rows = [line.split("|")[1] for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    return {name for cell in rows for name in re.findall("`([^`]+)`", cell)}


def test_every_metric_has_a_line_and_every_line_a_metric(tmp_path, tiny_pipeline_folder):
    """One run with all that adds a metric: several rewards, drafts, an evaluation in its middle."""
    config = make_config(
        reward={"scenes_graded": 1.0, "scenes_strict": 1.0},
        rollout={"drafts": 2, "drafting_steps": 2},
        evaluation={"every": 1},
    )
    rewards = dict.fromkeys(config.reward_weights, brightness)
    trainer = make_trainer(config, tmp_path / "run", tiny_pipeline_folder, rewards)
    trainer.run()
    written = {name for row in trainer.directory.metrics() for name in row}
    patterns = {"reward/scenes_graded/mean": "reward/NAME/mean", "reward/scenes_strict/mean": "reward/NAME/mean"}
    terms = ("data", "rollout", "reference")  # every method has its own
    patterns |= {f"loss/{term}{sign}": f"loss/TERM{sign}" for term in terms for sign in ("", *SIGNS)}
    assert {patterns.get(name, name) for name in written} == documented()
