"""What every page of a report shares: how values are told, lines and charts, and one self-contained HTML file."""

from __future__ import annotations

import gzip
import math
import re
from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from advantageflow.config import ConfigError
from advantageflow.run.checkpoint import write_atomic

Chart = dict[str, Any]  # {"title", "about", "label", "traces"}, for templates/script.js.jinja
Place = dict[str, float]  # axis -> position; the axes are "seconds", "images" and "steps"


def listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def time_unit(seconds: float) -> tuple[str, float]:
    """The unit that a time is best told in, and its seconds."""
    if seconds < 300:
        return "seconds", 1.0
    return ("minutes", 60.0) if seconds < 3 * 3600 else ("hours", 3600.0)


def duration(seconds: float) -> str:
    """Such as "5.1 minutes of training"."""
    unit, per_unit = time_unit(seconds)
    return f"{seconds / per_unit:.{0 if per_unit == 1 else 1}f} {unit} of training"


def number(value: float | None) -> str:
    """For tables and sentences; "–" where there is none."""
    value = tidy(value)
    if value is None:
        return "–"
    text = f"{value:.3f}" if value == 0 or 0.01 <= abs(value) < 1000 else f"{value:.3g}"
    return text.replace("-", "−")


def signed(change: float) -> str:
    """A difference with its sign."""
    size = f"{abs(change):.3f}" if 0.0005 <= abs(change) < 0.01 else number(abs(change))
    return f"{'−' if change < 0 else '+'}{size}" if change else "±0"


def change(found: Mapping[str, float]) -> str:
    """A difference with its 95 % interval, such as "+0.218 [+0.174, +0.262]"."""
    value, low, high = (signed(found[part]) for part in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"


def tidy(value: float | None) -> float | None:
    """Six digits; None for what is not finite, which JSON does not know."""
    return None if value is None or not math.isfinite(value) else float(f"{value:.6g}")


def interval(found: Mapping[str, float | None] | None, digits: int = 3) -> str:
    """Such as "0.694 [0.650, 0.721]"; "never" is a time that does not come, and "—" one that is not known."""
    if found is None:
        return "—"
    value, low, high = (
        "never" if found[part] is None else f"{found[part]:.{digits}f}" for part in ("value", "low", "high")
    )
    return value if value == low == high else f"{value} [{low}, {high}]"


def p_text(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def gibibytes(count: float) -> str:
    return f"{count / 2**30:.2f} GiB"


def wrappable(text: str) -> Any:
    """Escaped, and free to break after an underscore, a slash, or a dot between words."""
    from markupsafe import Markup, escape

    return Markup(re.sub(r"([_/]|\.(?=[a-z]))", r"\1<wbr>", str(escape(text))))


def axes(unit: str) -> dict[str, str]:
    return {"seconds": f"training time ({unit})", "images": "images generated", "steps": "optimizer steps"}


def trace_of(
    name: str, color: str, places: Iterable[Place], values: Iterable[float | None], per_unit: float, **options: Any
) -> dict[str, Any]:
    """A line: its values, and where they are on each axis.

    Args:
        color: a variable of the style sheet, such as "c0" for the palette's first.
    """
    places = list(places)
    at = {axis: [tidy(place[axis] / (per_unit if axis == "seconds" else 1)) for place in places] for axis in places[0]}
    return {"name": name, "color": color, "y": [tidy(value) for value in values], "x": at, **options}


def chart_of(title: str, about: str, traces: Sequence[dict[str, Any]]) -> Chart:
    """With a description for those who do not see it."""
    shown = [trace for trace in traces if any(value is not None for value in trace["y"])]
    ends = []
    for trace in shown:
        values = [value for value in trace["y"] if value is not None]
        ends.append(f"{trace['name']} from {number(values[0])} to {number(values[-1])}")
    return {"title": title, "about": about, "label": f"Line chart, {title}: {'; '.join(ends)}", "traces": shown}


def plotly_js() -> str:
    """plotly.js, compressed by gzip, in base64: a third of its size.

    Raises:
        ConfigError: plotly or jinja2 is missing.
    """
    try:
        import jinja2  # noqa: F401
        from plotly.offline import get_plotlyjs
    except ImportError as error:
        missing = (error.name or "plotly").partition(".")[0]
        raise ConfigError(f'a report needs {missing}; install with: pip install "advantageflow[report]"') from error
    return b64encode(gzip.compress(get_plotlyjs().encode(), mtime=0)).decode()


def render(template: str, page: Mapping[str, Any], library: str) -> str:
    """A page as HTML."""
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=PackageLoader("advantageflow.reports"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.policies["json.dumps_kwargs"] = {}  # or keys would be sorted
    environment.filters |= {
        "number": number,
        "signed": signed,
        "change": change,
        "interval": interval,
        "p_text": p_text,
        "gibibytes": gibibytes,
        "wrappable": wrappable,
    }
    text = environment.get_template(template).render({"live": None, **page}, library=Markup(library))
    return text.encode(errors="replace").decode()  # a folder's name may be bytes that are no text


def write_page(template: str, page: Mapping[str, Any], library: str, output: Path) -> Path:
    if output.is_dir():
        raise ConfigError(f"{output} is a folder; give a file, such as {output / 'report.html'}")
    output.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(output, render(template, page, library))
    return output
