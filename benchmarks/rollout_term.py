"""What the rollout term does: γ = 0 and γ = 1.1, at one and at four optimizer steps per rollout, with the same seeds.

Draws reward, held-out score, gradient norm, and the loss and its data term split by the sign of the advantage.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from matplotlib.figure import Figure

from runs import finish_all, metrics, summary

GAMMAS = (0.0, 1.1)
STEPS = (1, 4)


def draw(folders: dict[tuple[float, int], Path], path: Path) -> None:
    panels = [
        ("reward/mean", "training reward"),
        ("distance/to_reference", "distance to the base model, ‖v - v_ref‖²"),
        ("grad_norm", "gradient norm"),
        ("loss/data/positive_advantage", "data term, A > 0"),
        ("loss/data/negative_advantage", "data term, A < 0"),
        ("loss/rollout/positive_advantage", "rollout term, A > 0"),
        ("loss/positive_advantage", "loss, A > 0"),
        ("loss/negative_advantage", "loss, A < 0"),
        ("loss/rollout/negative_advantage", "rollout term, A < 0"),
    ]
    figure = Figure(figsize=(13, 10), layout="constrained")
    axes = figure.subplots(3, 3).flatten()
    for axis, (name, title) in zip(axes, panels, strict=True):
        for (gamma, steps), folder in folders.items():
            rows = [row for row in metrics(folder) if row.get(name) is not None]
            axis.plot(
                [row["iteration"] for row in rows],
                [row[name] for row in rows],
                color="tab:red" if gamma == 0 else "tab:blue",
                linestyle="-" if steps == 1 else "--",
                label=f"γ = {gamma}, {steps} step{'s' if steps > 1 else ''} per rollout",
            )
        axis.set_title(title)
        axis.set_xlabel("iteration")
        axis.grid(alpha=0.3)
    axes[0].legend()
    figure.savefig(path, dpi=100)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("changes", nargs="*", metavar="KEY=VALUE", help="changes to the recipe, for all four runs")
    parser.add_argument("--output", type=Path, default=Path("runs/rollout_term"))
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()

    folders = {(gamma, steps): arguments.output / f"gamma{gamma}-steps{steps}" for steps in STEPS for gamma in GAMMAS}
    runs = {
        folder: ("scenes", [f"objective.gamma={gamma}", f"learn.optimizer_steps={steps}", *arguments.changes])
        for (gamma, steps), folder in folders.items()
    }
    finish_all(runs, arguments.jobs, arguments.threads)
    for (gamma, steps), folder in folders.items():
        result, rows = summary(folder), metrics(folder)
        print(
            f"γ = {gamma}, {steps} step(s) per rollout: "
            f"reward {rows[0]['reward/mean']:.3f} -> {rows[-1]['reward/mean']:.3f}, "
            f"held-out strict {result['before']['strict']:.3f} -> {result['after']['strict']:.3f}, "
            f"graded {result['before']['graded']:.3f} -> {result['after']['graded']:.3f}, "
            f"distance to base {rows[-1]['distance/to_reference']:.4f}"
        )
    draw(folders, arguments.output / "rollout_term.png")
    print(f"figure: {arguments.output / 'rollout_term.png'}")


if __name__ == "__main__":
    main()
