# `make train` and `make test` need nothing but Python 3.10 or newer: they set up a virtual environment first.
PYTHON ?= python3
RECIPE ?= scenes-best
BIN := .venv/bin
READY := .venv/.ready
LARGEST_WHEEL := 25000000 # bytes

.PHONY: train test coverage lint docs wheel dist

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

# what a release publishes, checked
dist: $(READY)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[release]"
	rm -rf dist
	$(BIN)/python -m build
	$(BIN)/python -m twine check --strict dist/*
	test $$(cat dist/*.whl | wc -c) -le $(LARGEST_WHEEL)

$(READY): pyproject.toml constraints.txt
	@echo "setting up .venv: 150 packages, PyTorch among them: 2.5 GB on disk, 8 GB with its CUDA build; minutes, once"
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --constraint constraints.txt --editable ".[dev]"
	touch $(READY)
