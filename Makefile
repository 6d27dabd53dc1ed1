# flux-mcp. The words: setup, demo, test, check, bench. Each sets up first when that is needed.
#
#   make setup TORCH_INDEX=URL   take torch from another index (the one the PyTorch site names for
#                                your card or for CPU only); else from your package index

PYTHON ?= python3
TORCH_INDEX ?=
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PIP := $(BIN)/python -m pip --disable-pip-version-check

.PHONY: setup demo test check format bench lock clean

setup: $(READY)

$(READY): pyproject.toml constraints.txt scripts/build_micro.py
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed; name one with: make setup PYTHON=python3.12"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || \
	  { echo "venv failed. On Debian or Ubuntu: apt install python3-venv"; exit 1; }
	@echo "Installing pinned dependencies into $(VENV) (torch is the large one) ..."
	@$(PIP) install --quiet --progress-bar off --constraint constraints.txt \
	  $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) --editable '.[dev]'
	@$(BIN)/python scripts/build_micro.py
	@touch $@

demo: $(READY)
	@$(BIN)/flux-mcp demo

test: $(READY)
	$(BIN)/python -m pytest

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(READY)
	$(BIN)/python benchmarks/run.py

# Pins every dependency for every platform. Needs the uv package: pip install uv.
lock:
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --extra dev \
	  --no-annotate --no-emit-index-url --no-header pyproject.toml --output-file constraints.txt

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache src/flux_mcp/weights
