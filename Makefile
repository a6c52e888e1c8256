PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test test-tensorrt test-openvino test-openvino-provider test-gpu-package lint types clean wheel wheel-demo

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

# NVIDIA's parser and builder (96 MB) and the OpenVINO runtime (59 MB): skipped, with a word, where they do not install.
test-tensorrt: $(STAMP)
	$(BIN)/python tests/packaging/extras.py tensorrt

test-openvino: $(STAMP)
	$(BIN)/python tests/packaging/extras.py openvino

# ONNX Runtime's OpenVINO execution provider, in an environment of its own (84 MB). Not part of CI.
test-openvino-provider: $(STAMP)
	$(BIN)/python tests/packaging/openvino_provider.py

# onnxruntime-gpu (256 MB) on a machine without a GPU: silent fallback must be impossible. Not part of CI.
test-gpu-package: $(STAMP)
	$(BIN)/python tests/packaging/gpu_package.py

wheel: $(STAMP)
	$(BIN)/python -m build --outdir dist

# The wheel, installed alone into an empty environment and run from another folder.
wheel-demo: $(STAMP)
	$(BIN)/python tests/packaging/wheel_demo.py

clean:
	rm -rf $(VENV) build dist *.egg-info
