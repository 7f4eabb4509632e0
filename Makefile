# `make train` and `make test` need nothing but Python 3.10 or newer: they set up a virtual environment first.
PYTHON ?= python3
RECIPE ?= scenes
BIN := .venv/bin
READY := .venv/.ready

.PHONY: train test coverage lint docs wheel

train: $(READY)
	$(BIN)/advantageflow train $(RECIPE) $(ARGS)

test: $(READY)
	$(BIN)/python -m pytest --numprocesses auto --dist worksteal $(ARGS)

coverage:
	$(MAKE) test ARGS="--cov=advantageflow --cov-report=term:skip-covered $(ARGS)"

lint: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

# the documentation, in site/; a link that leads nowhere is an error
docs: $(READY)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

wheel: $(READY)
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $(READY)
