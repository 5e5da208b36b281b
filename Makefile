# Two commands from a fresh clone (Python 3.11, a C++ compiler, make): `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt
# Seconds that `make fuzz` runs.
FUZZ_SECONDS ?= 300
export OMP_NUM_THREADS ?= 1
export HF_HUB_OFFLINE := 1
MAKEFLAGS += --no-print-directory

.PHONY: demo test lint examples check fuzz install kernels clean

demo: install  ## SqueezeNet with real weights: convert, verify, export, ONNX Runtime, accuracy at every step
	$(PY) recipes/demo.py demo

test:  ## everything that must hold before a commit
	@began=$$(date +%s) && \
	echo "make test, step 1 of 4: install ($(VENV); some minutes the first time)" && $(MAKE) install && \
	echo "make test, step 2 of 4: style and types (ruff, mypy)" && $(MAKE) lint && \
	echo "make test, step 3 of 4: examples in docstrings" && $(MAKE) examples && \
	echo "make test, step 4 of 4: tests, on two processes" && $(MAKE) check && \
	echo "make test: all 4 steps passed in $$(( $$(date +%s) - began )) s" || \
	{ echo "make test: FAILED in the last step above, after $$(( $$(date +%s) - began )) s"; exit 1; }

lint: install
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

examples: install
	$(PY) -m pytest --doctest-modules actswap

# pytest exits with 5 if it collects no test; that is a failure here, as it should be.
check: install
	$(PY) -m pytest -n 2 --dist loadfile

# The property tests again and again, each round with other random examples. A failure prints how to repeat it.
fuzz: install
	@end=$$(( $$(date +%s) + $(FUZZ_SECONDS) )); round=0; \
	while [ $$(date +%s) -lt $$end ]; do \
	  round=$$(( round + 1 )); echo "make fuzz, round $$round: $$(( end - $$(date +%s) )) s left"; \
	  $(PY) -m pytest -m hypothesis --hypothesis-profile=fuzz tests || exit 1; \
	done; echo "make fuzz: $$round rounds passed"
	PYTHONPATH=benchmarks $(PY) benchmarks/fuzz_loaders.py --minutes $$(( $(FUZZ_SECONDS) / 60 ))

install: $(VENV)/installed

# torch first: its pinned version is the CPU build, and nothing after it may pull another one. The packages with
# pins of their own come last, so that pip does not complain about them.
$(VENV)/installed: pyproject.toml constraints.txt tests/requirements.txt tests/requirements-nodeps.txt
	@echo "install: an environment in $(VENV)"
	@test -x $(PY) || $(PYTHON) -m venv $(VENV)
	@$(PIP) --upgrade pip setuptools wheel
	@echo "install: torch"
	@$(PIP) torch
	@echo "install: test tools and models"
	@$(PIP) -r tests/requirements.txt
	@echo "install: actswap"
	@$(PIP) --editable '.[test]'
	@$(PIP) --no-build-isolation --no-deps -r tests/requirements-nodeps.txt
	@echo "install: the CPU kernels"
	@$(MAKE) kernels
	@touch $@

# The CPU kernels of the source tree; without a compiler the plain formulas are used.
kernels:
	test ! -f actswap/ops/build.py || $(PY) -m actswap.ops.build

clean:
	rm -rf $(VENV) demo build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
