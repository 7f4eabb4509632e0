"""The pages on cards and memory say what `--plan` says."""

from pathlib import Path

import pytest
from command_line import command_line

DOCS = Path(__file__).parents[1] / "docs"


def table(text):
    """Label -> value of a plan's table; a row without a label goes on with the one before."""
    found, label = {}, ""
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.split("│")]
        if len(cells) == 4:
            label = cells[1] or label
            found[label] = f"{found.get(label, '')} {cells[2]}".strip()
    return found


@pytest.fixture
def plan(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    code, out, _ = command_line("train", "sd35m-pickscore", "--plan")
    assert code == 0
    return table(out)


def test_the_plan_that_is_shown_is_the_plan(plan):
    shown = table((DOCS / "start" / "one-gpu.md").read_text(encoding="utf-8"))
    assert len(shown) == 9
    for label, value in shown.items():
        assert plan[label].startswith(value.removesuffix("…").strip())


def test_what_fits_a_small_card_is_named(plan):
    told = plan["hours on one 4090, about"].partition("enough with ")[2]
    page = (DOCS / "guides" / "memory.md").read_text(encoding="utf-8")
    assert told.replace("evaluation.rewards='{", "'evaluation.rewards={") in page
    assert f"({plan['most memory']})" in page
