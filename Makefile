# Two commands do everything on a machine with Python >= 3.11, make and git: `make demo` and `make test`.
#   make demo   environment, install, a sample video, `track` on it        SAMPLE=video.avi takes your own copy
#   make test   environment with the development tools, lint, whole suite   PYTHON=python3.12 chooses the interpreter
#   make fast   the quick tests;  make lint;  make docs (the site and the API reference, into build/docs);  make clean
#   make small  the same tests in an environment for servers: headless OpenCV, onnxruntime for the CPU alone
#   make oldest the quick tests of the tracker, with the oldest versions of what it needs

SHELL := /bin/bash
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
CONSTRAINTS := .ci/constraints.txt
CODE := tracker reid_training tools tests setup.py
QUICK := not (slow or robustness or pages or experiments)
OLDEST := .venv-oldest
SMALL := .venv-small
TRACKER_TESTS := $(addprefix tests/,appearance association detector engine motion offline proposals stages tracks commands/report \
  $(addprefix eval/test_,clear_identity.py hota.py mot_files.py motmetrics_breaks.py preprocess.py report.py submission.py) \
  $(addprefix sinks/test_,counts.py crops.py formats.py heatmap.py sinks.py) \
  $(addprefix sources/test_,sources.py span.py) $(addprefix analytics/test_,counting.py) \
  $(addprefix runtime/test_,checkpoint.py onnx_session.py) $(addprefix commands/test_,outputs.py resume.py track.py) \
  $(addprefix test_,api.py boxes.py config.py pipeline.py requirements.py types.py weights.py))

.PHONY: demo test lint fast oldest small docs clean
.DELETE_ON_ERROR:

demo: $(VENV)/.installed
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m tools.demo $(if $(SAMPLE),--sample "$(SAMPLE)")

# Processes with one thread each: the networks of the tests are too small for more threads to help. Some tests wait, so
# three processes keep two cores busy.
test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 3 --dist loadfile

fast: $(VENV)/.installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile -m "$(QUICK)"

# Without torch: the parts that need it are tested with one version of it alone, that of $(CONSTRAINTS).
oldest: $(OLDEST)/.installed
	$(OLDEST)/bin/python -m pytest -m "$(QUICK)" $(TRACKER_TESTS)

# The two pip commands of docs/install.md and the Dockerfile.
small: $(SMALL)/.installed
	! $(SMALL)/bin/python -m pip show --quiet opencv-python onnxruntime-gpu 2>/dev/null
	OMP_NUM_THREADS=1 $(SMALL)/bin/python -m pytest -m "$(QUICK)" $(TRACKER_TESTS)

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check $(CODE)
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/mypy

docs: $(VENV)/.installed-dev
	$(BIN)/python -m tools.docs_site

clean:
	rm -rf $(VENV) $(OLDEST) $(SMALL) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +

# The stamps make a second run take no time; a changed pyproject.toml installs again.
$(VENV)/.installed: pyproject.toml $(CONSTRAINTS) | $(VENV)/.created
	$(PIP) install --quiet -c $(CONSTRAINTS) -e .
	@touch $@

$(VENV)/.installed-dev: pyproject.toml $(CONSTRAINTS) | $(VENV)/.created
	$(PIP) install --quiet -c $(CONSTRAINTS) -e '.[dev]'
	@touch $@ $(VENV)/.installed

$(OLDEST)/.installed: pyproject.toml .ci/oldest.txt | $(OLDEST)/.created
	$(OLDEST)/bin/python -m pip --disable-pip-version-check install --quiet -c .ci/oldest.txt \
	  -e . pytest pytest-timeout hypothesis onnx matplotlib
	@touch $@

$(SMALL)/.installed: pyproject.toml requirements-headless.txt $(CONSTRAINTS) | $(SMALL)/.created
	$(SMALL)/bin/python -m pip --disable-pip-version-check install --quiet -c $(CONSTRAINTS) \
	  -r requirements-headless.txt onnxruntime pytest pytest-timeout hypothesis onnx
	$(SMALL)/bin/python -m pip --disable-pip-version-check install --quiet --no-deps -e .
	@touch $@

# Every candidate is run, not only looked up: a version manager's shim may exist for a Python that is not chosen.
%/.created:
	@set -e; \
	good='import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))'; \
	for python in $(or $(PYTHON),python3.11 python3.12 python3.13 python3 python); do \
	  if "$$python" -c "$$good" >/dev/null 2>&1; then \
	    echo "environment: $* with $$("$$python" --version)"; \
	    "$$python" -m venv --clear $*; touch $@; exit 0; \
	  fi; \
	done; \
	echo "No Python >= 3.11 with its venv module found$(if $(PYTHON), as $(PYTHON))." >&2; \
	echo "Install one (Debian and Ubuntu: apt install python3 python3-venv), or name it: make $(or $(MAKECMDGOALS),demo) PYTHON=/path/to/python3" >&2; \
	exit 1
