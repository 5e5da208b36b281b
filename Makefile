# Two commands from a fresh clone (Python 3.11, a C++ compiler, make): `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt
export OMP_NUM_THREADS ?= 1
export HF_HUB_OFFLINE := 1

.PHONY: demo test lint check install kernels clean

demo: install  ## SqueezeNet with real weights: convert, verify, export, ONNX Runtime, accuracy at every step
	$(PY) recipes/demo.py demo

test: install lint check  ## everything that must hold before a commit

lint: install
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

# pytest exits with 5 where it collects no test, which fails here as it should.
check: install
	$(PY) -m pytest -n 2 --dist loadfile

install: $(VENV)/installed

# torch first: its pinned version is the CPU build, and nothing after it may pull another one. The packages with
# pins of their own come last, so that pip does not complain about them.
$(VENV)/installed: pyproject.toml constraints.txt tests/requirements.txt tests/requirements-nodeps.txt
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(PIP) --upgrade pip setuptools wheel
	$(PIP) torch
	$(PIP) -r tests/requirements.txt
	$(PIP) --editable '.[test]'
	$(PIP) --no-build-isolation --no-deps -r tests/requirements-nodeps.txt
	$(MAKE) kernels
	touch $@

# The CPU kernels of the source tree; without a compiler the plain formulas are used.
kernels:
	test ! -f actswap/ops/build.py || $(PY) -m actswap.ops.build

clean:
	rm -rf $(VENV) demo build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
