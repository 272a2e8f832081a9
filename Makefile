# s3net: `make demo` is the whole paper on the miniworld. Every target sets up .venv first.
PYTHON ?= python3
PY := .venv/bin/python
READY := .venv/.ready
LOG := .venv-install.log
FLAGS ?=
ROUNDS ?= 3
MINUTES ?= 120
ARGS ?=
.DEFAULT_GOAL := help
.PHONY: demo test check lab notebooks format real bench soak audit lowest hooks install clean help

demo: install ## render the miniworld, train every phase and baseline, write runs/demo/report.html
	.venv/bin/s3net demo $(ARGS)

real: install ## the same phases with real KITTI video (S3NET_REAL, or ../shared/real)
	.venv/bin/s3net real $(ARGS)

test: install ## every notebook, every test, one closing count (FLAGS="data slow gpu" adds those cells)
	@$(PY) tools/test.py --flags "$(FLAGS)"

check: install ## fast: export in step, lint, format, floors, stale pictures, wheel without Jupyter
	@$(PY) tools/check.py $(ARGS)

notebooks: install ## run the notebooks in place and keep their pictures (ARGS="--stale" or "--only FILE")
	@$(PY) tools/execute_notebooks.py $(ARGS)

format: install ## ruff format on notebooks and scripts, then export and clean
	.venv/bin/ruff format nbs tools tests benchmarks setup.py
	.venv/bin/nbdev_export
	.venv/bin/nbdev_clean

soak: install ## hours: notebooks shuffled, 30 kills, determinism, memory over MINUTES, twice
	@$(PY) tools/run_notebooks.py --rounds $(ROUNDS)
	@OMP_NUM_THREADS=1 $(PY) tools/soak_kills.py --kills 30
	@TQDM_DISABLE=1 OMP_NUM_THREADS=1 $(PY) tools/bench_deterministic.py
	@TQDM_DISABLE=1 OMP_NUM_THREADS=1 $(PY) tools/soak_memory.py --minutes $(MINUTES)
	@$(PY) tools/soak_demo.py --minutes $(MINUTES)

audit: install ## the installed set against the pins and its files against their hashes; licences
	@$(PY) tools/audit.py --licences
	@$(PY) tools/audit.py --files

lowest: install ## an environment of the lowest allowed versions, and tests that train in it
	@OMP_NUM_THREADS=1 $(PY) tools/lowest.py $(ARGS)

bench: install ## ratios to the field's way, loop, growth, memory, start (a GPU: benchmarks/gpu.sh)
	@OMP_NUM_THREADS=1 TQDM_DISABLE=1 $(PY) benchmarks/cpu.py $(ARGS)

lab: install ## JupyterLab on this machine only, behind its token
	$(PY) -m jupyterlab --ip=127.0.0.1 --ServerApp.root_dir="$(CURDIR)" \
	  $(if $(filter 0,$(shell id -u)),--allow-root --no-browser) $(ARGS)

hooks: install ## git hooks: check before a commit, merge notebooks cell by cell
	git config core.hooksPath tools/hooks
	git config merge.nbdev-merge.name "merge notebooks cell by cell"
	git config merge.nbdev-merge.driver ".venv/bin/nbdev_merge %O %A %B %P"

install: $(READY) ## make .venv with the tested set of packages

$(READY): settings.ini setup.py constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; v >= (3, 11) or sys.exit("s3net needs Python 3.11 or newer, but $(PYTHON) is %d.%d; name a newer one: make PYTHON=python3.12" % v[:2])'
	@echo "setting up .venv, about a minute (log: $(LOG))"
	@{ $(PYTHON) -m venv .venv && $(PY) -m pip install -c constraints.txt -e '.[dev]' && $(PY) -m pip check; } \
	  > $(LOG) 2>&1 < /dev/null || { tail -n 15 $(LOG); echo "set-up failed; the whole log is in $(LOG)"; exit 1; }
	@touch $(READY)

clean: ## remove caches and build leftovers; .venv, data/ and runs/ stay
	rm -rf build dist _proc _docs .pytest_cache .hypothesis .ruff_cache $(LOG)
	find nbs s3net tools tests benchmarks -name __pycache__ -o -name .ipynb_checkpoints | xargs rm -rf

help: ## this list
	@grep -hE '^[a-z]+:.*## ' Makefile | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'
