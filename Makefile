# Every target first makes .venv from requirements.lock: git, make and Python 3.11 or newer (with venv or pip) are enough.
#
#   make demo [ARGS=--quick]   adapt a network on MiniStreet: numbers and pictures in runs/demo/
#   make test [ARGS=...]       style, tests, examples in docstrings, all notebooks
#   make full [ARGS=...]       the tests that are too slow for make test, among them all pages with solved exercises, ~30 CPU-minutes
#   make browser [ARGS=...]    the course in JupyterLab, and the site where it is built, in a real browser (Chromium), ~3 minutes
#   make numerics              errors beside bounds on every code path of this CPU (MKL, oneDNN, threads), ~10 CPU-minutes
#   make site                  the course, results and the library's reference as web pages, build/site/index.html, ~1 minute
#   make lab                   open the notebooks in JupyterLab
#   make notebooks             run every notebook from top to bottom, in place, and clean it
#   make figures               all figures of the notebooks on one page, runs/figures.html
#   make bench [BENCH=...]     run the benchmarks, ~45 minutes; BENCH=step_speed ARGS='--device cuda' runs one
#   make gpu [ARGS=...]        check the library on a CUDA GPU, at most 8 minutes (without one: on the CPU, small sizes)
#   make setup                 the environment alone
#   make lock                  renew requirements.lock and requirements-docs.lock from pyproject.toml, and uv's own version
#   make bounds [ARGS=...]     run the tests with the lowest and the newest versions that pyproject.toml allows (~1 h, 15 GB)
#   make clean                 remove the environment and caches (runs/ stays)

# The first Python on the path that is new enough; or `make PYTHON=/path/to/python3.12 ...`.
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11 python; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
# Seconds first, minutes last; then the page and the ledger of all results. Other files are imported by these or take hours.
BENCH ?= ministreet_speed prepared_storage bida_speed contrast_speed few_label_speed mean_teacher_speed nt_xent_speed \
	proca_speed training_memory gradients scaling step_speed simclr_crops results_page ledger
WORKERS ?= 2
BIN := .venv/bin
UV_PIN := --require-hashes -r requirements-uv.lock

.PHONY: setup demo test full browser numerics site lab notebooks figures bench gpu lock bounds clean
.DEFAULT_GOAL := setup

setup: .venv/.installed

demo: setup
	$(BIN)/uda demo $(ARGS)

# One thread for each worker, so that two notebooks do not compete for two cores.
test: setup
	$(BIN)/ruff check .
	OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile -q -rs $(ARGS)

full: setup .venv-docs/.installed
	OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) -q -rs -m full tests $(ARGS)

# Pictures of what a reader sees: runs/browser/. Without Chromium the tests are skipped and say so.
browser: setup
	$(BIN)/python -m pytest -q -rs -m browser tests/browser $(ARGS)

numerics: setup
	$(BIN)/python -m tests.numerics --out benchmarks/results/numerics.md $(ARGS)

# NO_MKDOCS_2_WARNING: without the theme's advertisement. mkdocs 2 is not mkdocs 1; pyproject.toml leaves it out.
site: .venv-docs/.installed
	NO_MKDOCS_2_WARNING=1 .venv-docs/bin/python -m mkdocs build --config-file docs/site/mkdocs.yml $(ARGS)

# The root is the checkout, so that links from notebooks to files of course_lib/ and tests/ open.
lab: setup
	$(BIN)/jupyter lab --ServerApp.root_dir=. --LabApp.default_url=/lab/tree/notebooks/00_start_here.ipynb $(ARGS)

notebooks: setup
	$(BIN)/python -m course_lib.classroom.execute notebooks $(ARGS)

figures: setup
	$(BIN)/python -m course_lib.classroom.contact_sheet $(ARGS)

bench: setup
	@for name in $(BENCH); do echo "== $$name"; $(BIN)/python -m benchmarks.$$name $(ARGS) || exit 1; done

gpu: setup
	$(BIN)/python -m benchmarks.gpu_check $(ARGS)

lock: setup
	@set -e; $(find_uv); \
	$$uv pip compile pyproject.toml --all-extras --universal --python-version 3.11 --upgrade --quiet \
		--generate-hashes --no-emit-index-url --no-emit-find-links --no-annotate \
		--custom-compile-command "make lock" --output-file requirements.lock; \
	$$uv pip compile --group docs --universal --python-version 3.11 --upgrade --quiet \
		--generate-hashes --no-emit-index-url --no-emit-find-links --no-annotate \
		--custom-compile-command "make lock" --output-file requirements-docs.lock; \
	echo uv | $$uv pip compile - --universal --python-version 3.11 --upgrade --quiet --generate-hashes --no-emit-index-url \
		--no-emit-find-links --no-annotate --custom-compile-command "make lock" --output-file requirements-uv.lock; \
	if grep -n '://' requirements.lock requirements-docs.lock requirements-uv.lock; then \
		echo "The lines above name an address: remove it."; exit 1; fi

bounds: setup
	@set -e; $(find_uv); PATH="$$(dirname "$$(command -v $$uv)"):$$PATH" $(BIN)/python tests/version_bounds.py $(ARGS)

clean:
	rm -rf .venv .venv-docs .bounds build *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './.git/*' -prune -exec rm -rf {} +

# Sets $$uv: from the path, else installed by pip into .venv (of Pythons without venv, by their own pip).
define find_uv
if uv --version >/dev/null 2>&1; then uv=uv; \
elif [ -x $(BIN)/uv ]; then uv=$(BIN)/uv; \
elif [ -x .venv/uv/bin/uv ]; then uv=.venv/uv/bin/uv; \
elif $(PYTHON) -m venv .venv >/dev/null 2>&1; then $(BIN)/python -m pip install --quiet $(UV_PIN); uv=$(BIN)/uv; \
else rm -rf .venv; $(PYTHON) -m pip install --quiet --target .venv/uv $(UV_PIN); uv=.venv/uv/bin/uv; fi
endef

define check_python
"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	echo "No Python 3.11 or newer$(if $(PYTHON), in $(PYTHON), on the path)." \
		"Install one, or name it: make PYTHON=/path/to/python3.12 $(MAKECMDGOALS)"; exit 1; }
endef

# --compile-bytecode: as pip does. Else each process compiles torch again where Python may not write (PYTHONDONTWRITEBYTECODE).
.venv/.installed: requirements.lock pyproject.toml
	@$(check_python)
	@set -e; $(find_uv); \
	[ -x $(BIN)/python ] || $$uv venv --quiet --allow-existing --python "$(PYTHON)" .venv; \
	echo "Installing the pinned packages into .venv (a few GB for torch the first time) ..."; \
	$$uv pip install --quiet --compile-bytecode --python $(BIN)/python --require-hashes -r requirements.lock; \
	$$uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation -e .
	@touch $@

# An environment of its own: the site reads the library's source without importing it.
.venv-docs/.installed: requirements-docs.lock
	@$(check_python)
	@set -e; $(find_uv); \
	[ -x .venv-docs/bin/python ] || $$uv venv --quiet --allow-existing --python "$(PYTHON)" .venv-docs; \
	$$uv pip install --quiet --compile-bytecode --python .venv-docs/bin/python --require-hashes -r requirements-docs.lock
	@touch $@
