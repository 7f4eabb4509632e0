"""`compare`, `reproduce` and `report`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from advantageflow.cli.completion import Changes, RecipeArgument

if TYPE_CHECKING:
    from rich.table import Table

    from advantageflow.studies.compare import Run

JobsOption = Annotated[int, typer.Option(min=1, help="Runs at once; of several GPUs each has one.")]
RunThreadsOption = Annotated[int, typer.Option(min=0, help="CPU threads of each run; 0 for PyTorch's choice.")]


def compare(
    recipe: RecipeArgument,
    changes: Changes = None,
    vary: Annotated[
        list[str] | None, typer.Option(help="KEY=VALUE,VALUE, or recipe=NAME,NAME; several options are combined.")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1)] = 3,
    budget: Annotated[str, typer.Option(help="Of each run: 10m, 600s, 60iterations or 5000images.")] = "5m",
    baseline: Annotated[
        str, typer.Option(help="The arm that the others are tested against; default: the paper's, or the first.")
    ] = "",
    score: Annotated[str, typer.Option(help="The held-out score that is compared; default: the recipe's first.")] = "",
    jobs: JobsOption = 1,
    threads: RunThreadsOption = 0,
    processes: Annotated[int, typer.Option(min=1, help="That share each run; each takes a GPU.")] = 1,
    output: Annotated[Path, typer.Option(help="Folder of the comparison; run again to go on.")] = Path("comparison"),
) -> None:
    """Train several methods with several seeds, and compare them."""
    from rich.console import Console
    from rich.live import Live
    from rich.markdown import Markdown

    from advantageflow.errors import ConfigError, shown
    from advantageflow.paper.experiments import BASELINE, COMPARED
    from advantageflow.places import check_folder
    from advantageflow.reports.comparison import LEGEND, table
    from advantageflow.reports.comparison_folder import write_all
    from advantageflow.run.progress import say
    from advantageflow.studies import compare as comparison

    check_folder(output)
    arms = comparison.parse_arms(vary or [COMPARED], recipe)
    labels = [arm.label for arm in arms]
    baseline = baseline or (BASELINE if BASELINE in labels else labels[0])
    if baseline not in labels:
        raise ConfigError(f"--baseline is {shown(baseline)}; the arms are {', '.join(labels)}")
    console = Console()
    tell = partial(say, console)
    runs = comparison.plan_runs(arms, seeds, budget, changes or [], output, say=tell)
    live = Live(get_renderable=partial(_status, runs, labels, seeds), console=console, refresh_per_second=0.5)
    with _until_stopped(tell), live if console.is_interactive else nullcontext():
        for count, run in enumerate(comparison.finish_all(runs, jobs=jobs, threads=threads, processes=processes), 1):
            tell(f"{count} of {len(runs)} runs: {comparison.ended(run, score)}")
    result = write_all(runs, baseline, output, score or None)
    console.print(Markdown(f"{table(result)}\n{LEGEND}"))
    tell(f"figures, numbers and report.html: {output}")
    if not (output / "report.html").exists():
        tell('report.html needs plotly: pip install "advantageflow[report]"')


def _status(runs: Sequence[Run], labels: Sequence[str], seeds: int) -> Table:
    """How far every run is: a row for each arm, a column for each seed."""
    from rich.table import Table
    from rich.text import Text

    grid = Table("arm", *(f"seed {seed}" for seed in range(seeds)))
    for label in labels:
        cells = []
        for run in (run for run in runs if run.arm.label == label):
            rows = run.rows()
            state = "diverged" if run.diverged else "done" if run.finished else ""
            cells.append(f"{len(rows)}: {rows[-1]['reward/mean']:.3f} {state}" if rows else state or "-")
        grid.add_row(Text(label), *cells)
    return grid


@contextmanager
def _until_stopped(tell: Callable[[str], None]) -> Iterator[None]:
    """Runs in this block end with the command; the first signal lets them save."""
    from advantageflow.run.interrupts import EXIT_CODE
    from advantageflow.studies.children import StoppedError, ended_by_signals

    try:
        with ended_by_signals(tell):
            yield
    except StoppedError:
        tell("stopped; the same command goes on")
        raise typer.Exit(EXIT_CODE) from None


def reproduce(
    figure: Annotated[
        str,
        typer.Argument(
            help="search, field-search, fig2, fig3a, fig3b, fig3c, fig5, steps, table1, lever-search, frontier, "
            "methods, or all."
        ),
    ],
    quick: Annotated[
        bool, typer.Option("--quick", help="One seed and small runs, kept apart: does it work, roughly?")
    ] = False,
    jobs: JobsOption = 2,
    threads: RunThreadsOption = 1,
    runs: Annotated[Path, typer.Option(help="Folder of the runs; run again to go on.")] = Path("runs/reproduce"),
    results: Annotated[Path, typer.Option(help="Folder of records, tables and figures.")] = Path("results"),
    only_report: Annotated[bool, typer.Option("--only-report", help="Train nothing; report what there is.")] = False,
) -> None:
    """Repeat the paper's experiments at the size of the built-in worlds."""
    from rich.console import Console
    from rich.markdown import Markdown

    from advantageflow.errors import ConfigError
    from advantageflow.paper.experiments import FIGURES, QUICK, figures
    from advantageflow.paper.report import report
    from advantageflow.paper.study import Study, tasks
    from advantageflow.run.progress import Bars, say
    from advantageflow.studies.processes import in_parallel

    names = figures(figure)
    study = Study(runs, results)
    if quick:
        study = Study(runs / "quick", runs / "quick" / "results", QUICK, seeds=1)
    console = Console()
    panels = [panel for name in names for panel in FIGURES[name]]
    plan = study.plan(panels)
    if only_report and not (study.results / "runs").is_dir():
        raise ConfigError(
            f"{study.results} holds no records of runs; give --results the folder results of a checkout, which has "
            "the published ones, or leave out --only-report to train"
        )
    if not only_report:
        with _until_stopped(partial(say, console)), Bars(console) as bars:
            done = []
            while plan:
                work = tasks(study, plan, threads)
                bar = bars.add("runs", len(work), tell_end=False)
                for count, line in enumerate(in_parallel(work, jobs), 1):
                    bars.say(f"{count} of {len(work)}: {line}")
                    bars.advance(bar)
                done += plan
                plan = study.plan(panels, done)  # the further seeds of those that were best on the first
    for name in report(study, names):
        console.print(Markdown((study.results / f"{name}.md").read_text(encoding="utf-8")))
    say(console, f"numbers and figures: {study.results}")


def report(
    runs: Annotated[list[Path], typer.Argument(help="Folders of runs, finished or not.")],
    output: Annotated[Path, typer.Option(help="File to write.")] = Path("report.html"),
) -> None:
    """Show runs in one HTML file: scores, curves, pictures through training, settings."""
    from rich.console import Console

    from advantageflow.places import check_file, replacing
    from advantageflow.reports.run_page import write_report

    check_file(output)
    earlier = replacing(output)
    Console(markup=False).print(f"wrote {write_report(runs, output)}{earlier}", highlight=False, soft_wrap=True)
