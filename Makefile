PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test lint types clean wheel wheel-demo

$(STAMP): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -e '.[dev,images]'
	$(BIN)/python -m pip install --quiet --no-deps -r tests/real/requirements.txt
	touch $(STAMP)

demo: $(STAMP)
	$(BIN)/python examples/demo.py

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/lint-imports

types: $(STAMP)
	$(BIN)/mypy

test: $(STAMP) lint types
	OPENBLAS_NUM_THREADS=1 OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist worksteal

wheel: $(STAMP)
	$(BIN)/python -m build --outdir dist

# The wheel, installed alone into an empty environment and run from another folder.
wheel-demo: $(STAMP)
	$(BIN)/python tests/packaging/wheel_demo.py

clean:
	rm -rf $(VENV) build dist *.egg-info
