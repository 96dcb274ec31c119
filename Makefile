# `make test` and `make demo` need nothing but Python >= 3.11; what they install goes to .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

.PHONY: test demo clean

test: $(VENV)/test.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadgroup  # a worker a core, each with one thread

demo: $(VENV)/demo.stamp
	$(BIN)/recall-evals demo

# Torch first: where a CPU wheel is at hand (PIP_FIND_LINKS, PIP_INDEX_URL), the pinned version is taken from there.
$(VENV)/torch.stamp: constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "No $(PYTHON) here: install Python >= 3.11, or set PYTHON=..." >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Python >= 3.11 is needed, $(PYTHON) is $$($(PYTHON) -V 2>&1): set PYTHON=..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(PIP) install -c constraints.txt torch
	touch $@

$(VENV)/demo.stamp: $(VENV)/torch.stamp pyproject.toml src/recall_evals.pth
	$(PIP) install -c constraints.txt -e .
	touch $@

$(VENV)/test.stamp: $(VENV)/torch.stamp pyproject.toml src/recall_evals.pth
	$(PIP) install -c constraints.txt -e '.[test]'
	touch $@ $(VENV)/demo.stamp

clean:
	rm -rf $(VENV) dist .mypy_cache .pytest_cache .ruff_cache
