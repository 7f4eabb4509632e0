"""What was measured, as tables in plain words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table
from rich.text import Text

from advantageflow.run.pace import TRAINING

GIB = 2**30
QUIET = 0.8  # of the time, a process at work has a processor at least


def rounded(value: Any) -> Any:
    """The same plain data, with four digits of every number that is not whole."""
    if isinstance(value, Mapping):
        return {key: rounded(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(part) for part in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value


def tables(found: Mapping[str, Any]) -> list[Table]:
    """Of what `measure` found, and of scaling where it was asked for."""
    return [_costs(found), _roofline(found), *([growth(found["scaling"])] if "scaling" in found else [])]


def _costs(found: Mapping[str, Any]) -> Table:
    spent, over, best = found["seconds"], found["overhead"], found["best_batch_size"]
    cpu = found["cpu_overhead"] if found["device"] == "cpu" else None
    weights = " with random weights" if found["rehearsed"] else ""
    table = Table(title=f"An iteration of {found['recipe']}{weights}", show_header=False)
    for stage in (*TRAINING, "iteration"):
        table.add_row(stage, f"{spent[stage]:.3f} s")
    table.add_section()
    table.add_row("its own calls of the transformer, bare", f"{spent['own_floor']:.3f} s")
    sizes = f"{best['without_gradient']} images at once, {best['with_gradient']} with gradient"
    table.add_row("the calls that it needs, at their best", f"{spent['fixed_floor']:.3f} s: {sizes}")
    table.add_row("iteration / its own calls", _ratio(over["own"], cpu and cpu["own"]))
    table.add_row("iteration / the calls that it needs", _ratio(over["fixed"], cpu and cpu["fixed"]))
    table.add_section()
    table.add_row("images a second", f"{found['images_per_second']:.1f}, {found['images']} an iteration")
    table.add_row("peak memory", f"{found['peak_memory'] / GIB:.2f} GiB")
    for line in (calls_told(found["calls"]), probe_told(found)):
        table.add_row(*line)
    if (share := had_processor(found)) < QUIET:
        told = f"a processor for {share:.0%} of the time; the ratios in CPU time are the truer ones"
        table.add_row("the machine is busy: this process had", told)
    table.add_section()
    sizes = ", ".join(f"{part}.batch_size={size}" for part, size in found["batch_size"].items())
    table.add_row("computed with", f"{found['device']}, {found['dtype']}, {found['threads']} CPU threads; {sizes}")
    return table


def had_processor(found: Mapping[str, Any]) -> float:
    """The share of the time in which a CPU worked for the bare calls, which wait for nothing; by threads above 1."""
    if found["device"] != "cpu":
        return 1.0
    return float(found["cpu_seconds"]["own_floor"] / found["seconds"]["own_floor"])


def _ratio(wall: float, cpu: float | None) -> str:
    return f"{wall:.3f}" + (f", in CPU time {cpu:.3f}" if cpu is not None else "")


def calls_told(calls: Mapping[str, Mapping[str, int]]) -> tuple[str, str]:
    """A row about the images that go through the transformer: those that a recipe needs, and those that did."""
    needed, made = (sum(calls[kind].values()) for kind in ("needed", "made"))
    roles = ", ".join(f"{count} as {role}" for role, count in calls["made"].items())
    if made == needed:
        return "images through the transformer", f"{made}, as many as needed: {roles}"
    less = f"{needed - made} calls saved" if made < needed else f"{made - needed} too many"
    return "images through the transformer", f"{made} of {needed} needed, {less}: {roles}"


def probe_told(found: Mapping[str, Any]) -> tuple[str, str]:
    """A row about what is not done in every iteration."""
    spent, every = found["probe"]["seconds"], found["probe"]["every"]
    if not every:
        return "gradients by sign", "not measured in this recipe"
    share = spent / every / found["seconds"]["iteration"]
    return f"gradients by sign, every {every} iterations", f"{spent:.3f} s, {share:.1%} of an iteration on average"


def _roofline(found: Mapping[str, Any]) -> Table:
    line = found["roofline"]
    table = Table("matrix products of", "GFLOP an image", "GFLOP/s", "of the peak", title="Against this machine's peak")
    each = line["flops_per_image"]
    asked = "rollout" if "rollout" in each else min(each)
    roles = {"without_gradient": asked, "with_gradient": "learner"}
    names = {
        "without_gradient": "a call, at the best batch size",
        "with_gradient": "a call with gradient, at the best batch size",
        "fixed_floor": "the calls that it needs, at their best",
        "own_floor": "its own calls, bare",
        "iteration": "the iteration",
    }
    for key, name in names.items():
        if key in line["flops_per_second"]:
            flops = f"{each[roles[key]] / 1e9:.3f}" if roles.get(key) in each else ""
            rate, share = line["flops_per_second"][key], line["share_of_peak"][key]
            table.add_row(name, flops, f"{rate / 1e9:,.1f}", f"{share:.0%}")
    table.add_row("a large matrix product, the peak", "", f"{line['peak_flops_per_second'] / 1e9:,.1f}", "100%")
    return table


def growth(found: Mapping[str, Any]) -> Table:
    table = Table(
        "what grows", "", "", "exponent", "sampling", "learning", title="How cost grows: cost ∝ size^exponent"
    )
    for name, of in found.items():
        spent, powers = of["seconds"], of["exponents"]
        if not powers:
            continue
        parts = [f"{powers[key]:.2f}" if key in powers else "" for key in ("iteration", "sampling", "learning")]
        values = ", ".join(map(_edges, of["values"]))
        table.add_row(name, values, ", ".join(f"{value:.2f}" for value in spent["iteration"]) + " s", *parts)
        if name == "images" and "peak_memory" in powers:
            held = ", ".join(f"{value / GIB:.2f}" for value in spent["peak_memory"])
            table.add_row("  memory", values, f"{held} GiB", f"{powers['peak_memory']:.2f}", "", "")
    refused = [f"{name}: {of['refused']}" for name, of in found.items() if of["refused"]]
    table.caption = Text("\n".join(refused)) if refused else None
    return table


def _edges(value: Any) -> str:
    """A setting's value; a resolution as in 64x64."""
    return "x".join(map(str, value)) if isinstance(value, list) else str(value)
