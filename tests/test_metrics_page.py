"""docs/metrics.md has a line for every metric that a run writes, and for nothing else."""

import re
from pathlib import Path

from test_trainer import brightness, make_config, make_trainer

PAGE = Path(__file__).parents[1] / "docs" / "metrics.md"


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
    assert {pattern(name) for name in written} == documented()


def pattern(name):
    """How the page writes a name: terms of the loss and rewards are others in each run."""
    of_sign = re.fullmatch("(?:loss|distance)(?:/.*)?(/(?:positive|negative)_advantage)", name)
    name = f"NAME{of_sign[1]}" if of_sign else name
    return re.sub("^loss/.*", "loss/TERM", re.sub("^reward/.*/mean$", "reward/NAME/mean", name))
