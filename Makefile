# make demo · make test · make check · make bench: each sets up .venv by itself.

# The first Python on the path that is new enough, and runs (a pyenv shim may not).
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
  $$p -c "import sys; sys.exit(sys.version_info < (3, 11))" 2>/dev/null && echo $$p && break; done)
VENV ?= .venv
BIN := $(VENV)/bin
# TORCH_INDEX=URL takes torch and torchvision from that index, say one of CPU-only builds.
TORCH_INDEX ?=
MARKERS ?= not slow and not data and not browser and not slurm and not gpu

.PHONY: demo test check bench clean

demo: $(VENV)/.ready
	$(BIN)/heatproof run demo
	$(BIN)/heatproof publish results/demo

test: $(VENV)/.ready
	$(BIN)/python -m pytest -m "$(MARKERS)" -n 2 $(PYTEST)

check: $(VENV)/.ready
	$(BIN)/ruff check bench methods tests
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/.ready
	$(BIN)/python -m bench.ratios

$(VENV)/.ready: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" && $(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11))" || \
	  { echo "Heatproof needs Python 3.11 or newer; name one: make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV) (a few minutes, several GB with the CUDA build of torch)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade pip
	$(if $(TORCH_INDEX),$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt --index-url $(TORCH_INDEX) torch torchvision)
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $@

clean:
	rm -rf $(VENV)
