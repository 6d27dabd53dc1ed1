# flux-mcp. The words: setup, demo, test, torture, check, conformance, clients, gpu-test, gpu-bench,
# bench, fullsize, train-micro.
# Each sets up first when that is needed.
#
#   make setup TORCH_INDEX=URL   take torch from another index: the one the PyTorch site names for
#                                your GPU, or for CPU only; else it comes from your package index

PYTHON ?= python3
TORCH_INDEX ?=
TRAIN ?=
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PIP := $(BIN)/python -m pip --disable-pip-version-check
# pip compiles on one processor, which takes as long as all else it does: compileall uses all of them,
# and leaves out large folders of which little is ever imported; Python compiles that at first use.
INSTALL := $(PIP) install --no-compile --quiet --progress-bar off
SELDOM := /(tests?|testing|transformers/models|diffusers/pipelines|networkx|pip|setuptools|mypyc?|lexers)/
# Our own modules are compiled once and not at the start of each of the hundreds of processes.
unexport PYTHONDONTWRITEBYTECODE

TORCH := $(shell grep '^torch==' constraints.txt)
GET_TORCH = $(INSTALL) --index-url '$(TORCH_INDEX)' '$(TORCH)' && \
  echo '$(TORCH_INDEX)' > $(VENV)/.torch-index

# Alone: it wants torchvision, for two architectures that upscale nothing. torchvision fits one build of
# torch only, and changes which image processors transformers takes.
SPANDREL := spandrel==0.4.2

# The suite and the Inspector, pinned by the lock in SUITE. The Inspector wants Node 22.19 or newer;
# where the machine has none, the npm registry has one, which the lock pins as well.
SUITE := tests/conformance
SUITE_READY := $(SUITE)/node_modules/.ready
NODE_IS_NEW := node -e 'const [major, minor] = process.versions.node.split("."); \
  process.exit(+major > 22 || (+major === 22 && +minor >= 19) ? 0 : 1)' 2>/dev/null

# MCP clients of others: those of npm are pinned by the lock in CLIENTS, those of Python by its
# requirements.
CLIENTS := tests/clients
CLIENTS_READY := $(CLIENTS)/node_modules/.ready

.PHONY: setup demo test torture check conformance clients gpu-test gpu-bench format bench fullsize train-micro lock clean

# With TORCH_INDEX on a finished setup: replace torch by the one from there.
setup: $(READY)
	@test -z '$(TORCH_INDEX)' || grep -qsxF '$(TORCH_INDEX)' $(VENV)/.torch-index || \
	  { $(PIP) uninstall --quiet --yes torch && $(GET_TORCH); }

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed; name one with: make setup PYTHON=python3.12"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || \
	  { echo "venv failed. On Debian or Ubuntu: apt install python3-venv"; exit 1; }
	@echo "Installing pinned dependencies into $(VENV) (torch is the large one) ..."
	@$(INSTALL) --constraint constraints.txt pip  # that of a Python of 2023 needs twice the time
	@$(if $(TORCH_INDEX),$(GET_TORCH))
	@$(INSTALL) --constraint constraints.txt --editable '.[dev]'
	@$(INSTALL) --no-deps '$(SPANDREL)'
	@$(BIN)/python -m compileall -qq -j 0 -x '$(SELDOM)' $(VENV)/lib || true  # templates for newer Pythons among them
	@touch $@

demo: $(READY)
	@$(BIN)/flux-mcp demo

# Files are spread over processes; the tests of a file share their fixtures in one of them. One more
# process than processors, since each waits for servers it started a sixth of its time; no more than
# four, since each brings workers with torch of its own.
PROCESSES = $(shell $(BIN)/python -c 'import os; print(min(4, 1 + (os.cpu_count() or 1)))')
PYTEST = $(BIN)/python -m pytest --numprocesses $(PROCESSES) --dist loadfile --no-loadscope-reorder

test: $(READY)
	$(PYTEST)

# The same promises in many more ways; takes long, so it is run before a release.
torture: $(READY)
	$(PYTEST) -m torture

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

$(SUITE_READY): $(SUITE)/package.json $(SUITE)/package-lock.json $(SUITE)/.npmrc
	@command -v npm > /dev/null || \
	  { echo "npm is needed, with Node 18 or newer. On Debian or Ubuntu: apt install npm"; exit 1; }
	@echo "Installing the conformance suite and the Inspector into $(SUITE)/node_modules ..."
	@cd $(SUITE) && if $(NODE_IS_NEW); then npm ci --omit=optional; else npm ci; fi
	@touch $@

conformance: $(READY) $(SUITE_READY)
	$(BIN)/python -m pytest $(SUITE)

$(CLIENTS_READY): $(CLIENTS)/package.json $(CLIENTS)/package-lock.json $(CLIENTS)/.npmrc
	@command -v npm > /dev/null || \
	  { echo "npm is needed, with Node 18 or newer. On Debian or Ubuntu: apt install npm"; exit 1; }
	@echo "Installing MCP clients into $(CLIENTS)/node_modules ..."
	@cd $(CLIENTS) && npm ci
	@touch $@

# Writes docs/clients/matrix.md; some minutes, of which most are spent waiting.
clients: $(READY) $(CLIENTS_READY)
	$(BIN)/python -m tests.clients.install
	$(BIN)/python -m pytest $(CLIENTS)

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(READY)
	$(BIN)/python benchmarks/run.py

# Weights of full size, random, on a CPU: 20 GB of disk and of memory, some minutes a model.
fullsize: $(READY)
	$(BIN)/python benchmarks/fullsize.py --scratch build/fullsize

# Both need a CUDA GPU; docs/gpu.md.
gpu-test: $(READY)
	$(BIN)/python -m pytest tests/gpu

gpu-bench: $(READY)
	$(BIN)/python benchmarks/gpu.py --scratch build/gpu

# Makes the weights of micro from nothing: hours on a CPU. TRAIN names stages and options.
train-micro: $(READY)
	$(BIN)/python -m training $(TRAIN)

# Pins every dependency for every platform. Needs the uv package: pip install uv.
lock:
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --extra dev \
	  --no-annotate --no-emit-index-url --no-header pyproject.toml --output-file constraints.txt

clean:
	rm -rf $(VENV) $(SUITE)/node_modules $(CLIENTS)/node_modules build dist .mypy_cache .ruff_cache .pytest_cache
