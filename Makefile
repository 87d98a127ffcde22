PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# one process for each processor, each in one thread; the tests of threads set their own. pytest's rewritten
# modules are kept, whatever the environment says, and of its plugins only what is used is loaded
PYTEST := OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE= PYTEST_DISABLE_PLUGIN_AUTOLOAD=1 $(BIN)/pytest -q \
	-p xdist.plugin -p _hypothesis_pytestplugin
TESTS := $(PYTEST) -n auto --maxprocesses 8 --dist worksteal
READY := $(VENV)/.ready

.PHONY: setup demo docs paper check format quick test test-all faults lowest sanitize wheel clean

setup: $(READY)

# torch comes first and pinned: a range would fetch the build with CUDA.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "gatewise needs Python 3.11 or newer")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q -c constraints.txt torch
	$(BIN)/pip install -q -c constraints.txt -e '.[dev]'
	touch $@

demo: setup
	$(BIN)/gatewise demo --out runs/demo

# make paper ARGS="1997 6a": an experiment of a paper; without ARGS, what there is
paper: setup
	$(BIN)/python -m papers $(or $(ARGS),1997)

# The site, in build/docs. Its search needs a server: python -m http.server -d build/docs
docs: setup
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# Three loops. One cell and size on every rung, under a minute; pairs of parameters, before a change is
# handed in; all combinations, nightly.
quick: setup
	$(PYTEST) -m quick $$(grep -l 'mark\.quick' tests/test_*.py)

test: setup
	$(TESTS)

test-all: setup
	$(TESTS) -m ''

# Which test finds which planted fault: before and after tests are made fewer.
faults: setup
	$(BIN)/python benchmarks/faults.py

# The tests with the lowest versions that pyproject.toml allows.
lowest:
	.ci/lowest

# The tests of the CPU backend on a core that checks its own memory accesses and arithmetic; users'
# cells are compiled likewise. Leaks are not looked for: Python leaves much behind. LEVEL=v4amx has the
# stand-in for matrix tiles and needs AVX512-BF16.
SANITIZED := build/sanitize
LEVEL ?= v3
CHECKS := -fsanitize=address,undefined

sanitize: setup
	$(BIN)/pip install -q -c constraints.txt nanobind cmake
	$(BIN)/cmake -S . -B $(SANITIZED) -DGW_SANITIZE=address,undefined -DGW_AMX_STAND_IN=$(if $(filter v4amx,$(LEVEL)),ON,OFF) -DCMAKE_BUILD_TYPE=None -DCMAKE_CXX_FLAGS=-O1 \
		-DPython_EXECUTABLE=$(abspath $(BIN))/python -Dnanobind_DIR=$$($(BIN)/python -m nanobind --cmake_dir)
	$(BIN)/cmake --build $(SANITIZED) --parallel 2 --target _core kernels_$(LEVEL)
	ln -sfn $(CURDIR)/csrc $(SANITIZED)/include
	printf '#!/bin/sh\nexec c++ "$$@" -O1 $(CHECKS)\n' > $(SANITIZED)/c++ && chmod +x $(SANITIZED)/c++
	LD_PRELOAD="$$(c++ -print-file-name=libasan.so) $$(c++ -print-file-name=libubsan.so)" \
	ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 \
	GATEWISE_CPU=$(LEVEL) GATEWISE_CACHE=$(SANITIZED)/cells CXX=$(abspath $(SANITIZED))/c++ \
	PYTHONPATH=tests CORE_FOLDER=$(SANITIZED) $(BIN)/pytest -q -p native.other_core tests/test_backends.py tests/test_cpu.py -k cpu

# A wheel of each platform in pyproject.toml that this machine can build; on Linux in containers.
wheel: setup
	$(BIN)/pip install -q 'cibuildwheel>=3'
	$(BIN)/cibuildwheel --output-dir dist

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache
