"""What a release is made of, and says of itself."""

import re
from pathlib import Path

import yaml

from advantageflow import __version__

ROOT = Path(__file__).parent.parent


def test_the_version_is_one():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    (newest, *_) = re.findall(r"^## (\S+?)(?:,|$)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert citation["version"] == newest == __version__


def test_the_container_holds_what_the_package_is_built_from():
    """Files that pyproject.toml names are let through to the container, and nothing else of the checkout is."""
    let_through = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert let_through == {"LICENSE", "README.md", "constraints.txt", "pyproject.toml", "src"}
    assert "USER user" in (ROOT / "Dockerfile").read_text()


def test_issue_forms_are_forms():
    files = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))
    forms = {file.stem: yaml.safe_load(file.read_text(encoding="utf-8")) for file in files}
    assert set(forms) == {"bug", "method", "question"}
    for form in forms.values():
        assert {"name", "description", "body"} <= form.keys()
        assert all(part["attributes"]["label"] for part in form["body"])
