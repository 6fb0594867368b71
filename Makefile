# make demo    what this is about, in a few minutes, from nothing
# make test    every test; make fast: those that need no more than .venv, in two minutes
# make sanitize  the C++ runtime of bundles under sanitizers; two minutes
# make fuzz    files that lie, for every reader; SECONDS=60 in all
# make lint    format, style and types; make format: put the first two right
# make wheel   dist/*.whl, for x86_64 and for aarch64
# make benchmark  every figure of docs/performance.md, ours and peers'; about an hour
# make benchmark-quick  a few of them in minutes, into build/benchmark
#
# Each sets up what it needs in .venv and the cache (GQ_TVM_CACHE, or ~/.cache/gq-tvm), once.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:

PYTHON ?= python3
WORKERS ?= 2
SECONDS ?= 60
PY := .venv/bin/python
TORCH := $(shell sed -n 's/.*"\(torch==[^"]*\)".*/\1/p' pyproject.toml)

# Tests run side by side: one thread each. The device's own kernels choose their threads.
export OMP_NUM_THREADS ?= 1
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.PHONY: demo test fast sanitize fuzz lint format wheel benchmark benchmark-quick setup device speech-tools clean

demo: setup
	$(PY) -m gq_tvm.demo

test: setup speech-tools
	$(PY) -m pytest -n $(WORKERS) --dist=worksteal

fast: .venv/.installed
	$(PY) -m pytest -n $(WORKERS) --dist=worksteal \
	    -m "not (export or emulated or native or training or gpu or slow)"

# With GCC's sanitizers; without them it says so and is skipped, but never in CI.
sanitize: .venv/.installed
	@if [[ -n "$${CI:-}" && $$(id -u) == 0 ]] && ! command -v g++ >/dev/null; then \
	    apt-get -q update >/dev/null; \
	    apt-get -q install -y --no-install-recommends g++ >/dev/null; fi
	$(PY) tests/core/sanitize.py

# A failure says the seed, and the command that tries it again.
fuzz: .venv/.installed
	PYTHONPATH=tests $(PY) -m fuzz --seconds $(SECONDS) $(if $(SEED),--seed $(SEED))

lint: .venv/.installed
	$(PY) -m ruff format --check .
	.venv/bin/clang-format --dry-run -Werror $$(git ls-files '*.c' '*.cc' '*.h')
	$(PY) -m ruff check .
	$(PY) -m mypy

format: .venv/.installed
	$(PY) -m ruff format .
	.venv/bin/clang-format -i $$(git ls-files '*.c' '*.cc' '*.h')
	$(PY) -m ruff check --fix .

# Setuptools keeps what it copied once, deleted modules too: it gets an empty folder, and not build/,
# where the artefacts of the demo and the benchmarks lie.
wheel: .venv/.installed
	@for machine in x86_64 aarch64; do \
	    folder=$$(mktemp -d); trap 'rm -rf "$$folder"' EXIT; \
	    GQ_MACHINE=$$machine $(PY) -m build --wheel --no-isolation \
	    --config-setting=--build-option=build --config-setting=--build-option=--build-base="$$folder"; \
	    rm -rf "$$folder"; done

# BENCHMARK takes options of `python -m benchmarks`, e.g. BENCHMARK="--models --threads 1".
benchmark: .venv-benchmarks/.installed
	.venv-benchmarks/bin/python -m benchmarks $(BENCHMARK)

benchmark-quick: .venv-benchmarks/.installed
	.venv-benchmarks/bin/python -m benchmarks --quick --threads 1 \
	    --out build/benchmark/performance.json --report build/benchmark/performance.md $(BENCHMARK)

setup: .venv/.installed device

.venv/.installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	    || { echo "error: Python 3.11 or newer is needed: make PYTHON=python3.11" >&2; exit 1; }
	@echo "Installing the pinned packages into .venv (minutes the first time)"
	@test -x $(PY) || $(PYTHON) -m venv .venv
	@$(PY) -m pip install -qq $(TORCH)
	@$(PY) -m pip install -qq --editable ".[dev]"
	@touch $@

# gq-tvm and its peers in one environment, so that they run in one process.
.venv-benchmarks/.installed: pyproject.toml benchmarks/requirements.txt
	@echo "Installing the peers into .venv-benchmarks (minutes the first time)"
	@test -x .venv-benchmarks/bin/python || $(PYTHON) -m venv .venv-benchmarks
	@.venv-benchmarks/bin/python -m pip install -qq $(TORCH)
	@.venv-benchmarks/bin/python -m pip install -qq --editable ".[compile,train]" -r benchmarks/requirements.txt
	@touch $@

# The emulated ARM board, and what models times on ARM cores. Where they cannot be had their tests are
# skipped, but never in CI. The stamp names the folder of the board, so that a cache that was emptied
# is noticed.
EMULATION := gq_tvm/runtime/devices/board.py gq_tvm/runtime/devices/native/rpc_server.c \
    gq_tvm/runtime/devices/native/kernel_runner.c \
    gq_tvm/modelled/tools.py gq_tvm/modelled/native/count_plugin.c

device: .venv/.installed
	@board=$$(cat .venv/.board 2>/dev/null || true); newer=; \
	for file in $(EMULATION) $<; do \
	    [[ .venv/.board -nt $$file ]] || newer=$$file; done; \
	if [[ -f "$$board/files.json" && -z "$$newer" ]]; then exit 0; fi; \
	if $(PY) -m gq_tvm.device --setup-only && $(PY) -m gq_tvm.device --setup-only --modelled; then \
	    $(PY) -c 'from gq_tvm.runtime.devices.board import locate; print(locate().folder)' > .venv/.board; \
	elif [[ -n "$${CI:-}" ]]; then exit 1; \
	else echo "Skipped: the tests on emulated ARM, for the reason above."; fi

# Synthetic voices, for the tests of training data; without them those tests say so and are skipped.
speech-tools:
	@for tool in espeak-ng flite; do command -v $$tool >/dev/null || missing="$${missing:-} $$tool"; done; \
	if [[ -n "$${CI:-}" && -n "$${missing:-}" && $$(id -u) == 0 ]]; then \
	    apt-get -q update >/dev/null; \
	    apt-get -q install -y --no-install-recommends $$missing >/dev/null; fi

clean:
	rm -rf build dist *.egg-info
