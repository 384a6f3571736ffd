# `make search` and `make test` are each enough on a fresh machine with Python 3.10 or newer and a C++ compiler.
#   make search METHOD=pc-darts ARGS="--epochs 10"        make test ARGS="-k genotype"

PYTHON ?= python3
VENV ?= .venv
TORCH ?= torch==2.13.0
METHOD ?=
ARGS ?=
ROWS ?=
BENCH ?= bench
RESULT ?= bench/results/local/benchmarks.json

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
# pip's options for finding torch: without a GPU, name PyTorch's own CPU index here to download a tenth as much.
TORCH_INDEX ?=

# The GPU machine's Triton, beside the installed one: tests compile the kernels with both.
TRITON ?= 3.6.0
GPU_TRITON := $(VENV)/triton-$(TRITON)

# The lowest versions that pyproject.toml promises, with the Triton that this torch brings.
LOWEST ?= torch==2.10.0 safetensors==0.7.0
LOWEST_VENV ?= .venv-lowest
LOWEST_PYTHON ?= python3.10

# What a lent GPU runs is made by the Python of its machine; about 5 GB of packages, once.
DEVICE_VENV ?= .venv-device
DEVICE_PYTHON ?= python3.12
JOBS ?= $(shell nproc)
CALLS ?= A B

.PHONY: search docs lint test test-all test-machines test-lowest mutants paper bench bench-suite sanitize wheel device-kit device-dry clean

# Five random cells show whether the search did poorly. That it beat chance only 19 or more can show (four times the time):
#   make search ARGS="--random-cells 19"
search: $(VENV)/ready
	$(BIN)/fastdarts search --yes --random-cells 5 $(if $(METHOD),--method $(METHOD)) $(ARGS)

# A process a core, each file in one of them, and at most 16: each takes most of a gigabyte. pytest-benchmark's plugin warns
# beside xdist, and warnings are errors. Threads that wait do not spin, which on a busy machine makes two of them crawl.
# Python's -O would leave out the asserts of the tests' helpers.
PYTEST = OMP_NUM_THREADS=1 GOMP_SPINCOUNT=1000 PYTHONOPTIMIZE= \
	$(BIN)/python -m pytest -n auto --maxprocesses 16 --dist loadfile --no-loadscope-reorder -p no:benchmark

test: $(VENV)/ready $(GPU_TRITON)
	$(PYTEST) $(ARGS)

# Seconds on an idle machine; `pre-commit install` in .venv has git run the same before each commit.
lint: $(VENV)/dev
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy

# The site, into site/: strict on links and names. To read it: make docs && python3 -m http.server --directory site
docs: $(VENV)/docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict
	@echo "site/index.html"

# The long campaigns too, and which lines no test runs: an hour and more. Counting lines doubles what interpreted kernels take.
test-all: $(VENV)/ready $(GPU_TRITON)
	FASTDARTS_ALL=1 FASTDARTS_EDITS=10000 $(PYTEST) --cov=fastdarts $(ARGS)

# The numeric tests as on other machines: instruction sets, oneDNN, threads, load, order. Some: make test-machines ROWS="base avx2"
test-machines: $(VENV)/ready
	$(BIN)/python tests/machines.py $(ROWS)

# The tests with the lowest promised versions: twice the time of `make test`, and 3 GB to download where torch comes with CUDA.
test-lowest: BIN := $(LOWEST_VENV)/bin
test-lowest: $(LOWEST_VENV)/ready
	$(PYTEST) $(ARGS)

# What the tests are worth: planted faults, each of which some test must find. Some: make mutants ARGS="--only stencil"
mutants: $(VENV)/ready
	$(BIN)/python tests/mutants.py $(ARGS)

# Every kernel that the networks' steps launch, compiled for sm_90 by both versions of Triton: hours of a core at first.
paper: $(VENV)/ready $(GPU_TRITON)
	$(BIN)/python tests/paper_all.py $(ARGS)

# On an idle machine only. One file with torch.compile beside it: make bench BENCH=bench/bench_cell.py ARGS=--compile
bench: $(VENV)/ready
	@mkdir -p $(dir $(RESULT))
	$(BIN)/python -m pytest $(BENCH) -q --benchmark-only --benchmark-sort=name --benchmark-columns=median,iqr,rounds \
		--benchmark-json=$(RESULT) $(ARGS)
	$(BIN)/python -m bench.table $(RESULT)

# The records of the suite and of large spaces, and the tables of README and docs, on an idle machine only: about half an hour.
bench-suite: $(VENV)/ready
	rm -f bench/results/suite-avx512.json bench/results/suite-avx2.json
	$(BIN)/fastdarts bench --suite full --out bench/results/suite-avx512.json
	$(BIN)/fastdarts bench --suite full --no-compile --isa avx2 --out bench/results/suite-avx2.json
	$(BIN)/python -m bench.tables
	$(BIN)/python -m bench.spaces measure

# The native core under AddressSanitizer and UBSan: a copy of the tree is built so and runs the op tests. Needs g++.
sanitize: $(VENV)/ready
	PYTHON=$(BIN)/python tests/sanitize.sh $(ARGS)

# A wheel in dist/, tried in a fresh environment. With CUDA: FASTDARTS_CUDA="sm_80 sm_90a compute_90" make wheel
wheel: $(VENV)/ready
	PYTHON=$(BIN)/python TORCH="$(TORCH)" TORCH_INDEX="$(TORCH_INDEX)" tests/wheel.sh

# What bench/gpu/device.sh carries to a GPU that is lent by the minute: the extension and every kernel, into .dev/. Needs nvcc.
device-kit: $(DEVICE_VENV)/ready
	PYTHONPATH=. $(DEVICE_VENV)/bin/python -m bench.gpu.kit make $(JOBS) $(CALLS)

# Both calls on a GPU of paper, from the kit: every line that will run there, and no figure.
device-dry: $(DEVICE_VENV)/ready
	PYTHON=$(DEVICE_VENV)/bin/python bench/gpu/device.sh --dry $(CALLS)

$(DEVICE_VENV)/ready: bench/gpu/kit.py pyproject.toml
	test -x $(DEVICE_VENV)/bin/python || $(DEVICE_PYTHON) -m venv $(DEVICE_VENV)
	$(DEVICE_VENV)/bin/python -m pip --disable-pip-version-check install --quiet --no-compile \
		$$(PYTHONPATH=. $(DEVICE_VENV)/bin/python -m bench.gpu.kit wanted)
	@touch $@

$(LOWEST_VENV)/ready: pyproject.toml setup.py fastdarts/__init__.py $(shell find csrc -type f)
	test -x $(LOWEST_VENV)/bin/python || $(LOWEST_PYTHON) -m venv $(LOWEST_VENV)
	$(LOWEST_VENV)/bin/python -m pip --disable-pip-version-check install --quiet --no-compile $(TORCH_INDEX) $(LOWEST) \
		"setuptools>=68" wheel "pybind11>=2.12" "ninja>=1.10"
	$(LOWEST_VENV)/bin/python -m pip --disable-pip-version-check install --quiet --no-compile --no-build-isolation -e ".[test]"
	@touch $@

# Byte-compiling every module of torch takes longer than the few that are imported need: --no-compile.
$(VENV)/ready: pyproject.toml setup.py fastdarts/__init__.py $(shell find csrc -type f)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or newer is needed: make PYTHON=python3.11")'
	@echo "Setting up $(VENV), once: about two minutes on two cores, and up to 3 GB to download where torch comes with CUDA"
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet --no-compile "setuptools>=68" wheel "pybind11>=2.12" "ninja>=1.10"
	$(PIP) install --quiet --no-compile --no-deps $(TORCH_INDEX) "$(TORCH)"
	$(PIP) install --quiet --no-compile --no-build-isolation -e ".[test]"
	@touch $@

# An extra's own packages: to install `.[dev]` would compile the core again.
$(VENV)/dev $(VENV)/docs: $(VENV)/ready
	$(PIP) install --quiet --no-compile $$($(BIN)/python -I -c 'from importlib.metadata import requires; \
		print(*(each.split(";")[0] for each in requires("fastdarts") if "== \"$(@F)\"" in each))')
	@touch $@

# 200 MB; without a network its tests say that they are skipped, and a later call tries again.
$(GPU_TRITON): | $(VENV)/ready
	@if $(PIP) install --quiet --no-compile --no-deps --target $@.part "triton==$(TRITON)"; then mv $@.part $@; \
	else rm -rf $@.part; echo "No triton $(TRITON) (no network, or none for this Python): its tests are skipped"; fi

clean:
	rm -rf $(VENV) $(DEVICE_VENV) $(LOWEST_VENV) .dev build dist site *.egg-info fastdarts/*.so
