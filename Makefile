# The commands are `make demo`, `make demo-fleet` and `make test`; plain `make` lists them all.
# Whatever they need and this machine lacks, .ci/setup installs (Debian, Ubuntu) or names.
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help venv demo demo-fleet test torture lint bench docs wheel clean
SHELL := /bin/sh

BIN := .venv/bin
CSRC := $(wildcard csrc/core/*.[ch] csrc/python/*.[ch])
C_FILES := $(CSRC) $(wildcard tests/c/*.[ch] benchmarks/*.c)
PIP := $(BIN)/python -m pip --quiet --quiet --disable-pip-version-check
VIDEO ?=
SECONDS ?= 20

help: ## list what there is to make
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1#\2/p' Makefile | column -t -s '#' 2>/dev/null || \
		sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1    \2/p' Makefile

venv: .venv/built ## set up .venv with cogcache built in it and the tools for development

demo: .venv/built ## run the real pipeline on a real video, cold and warm (VIDEO=path for your own)
	@$(BIN)/python docs/examples/install.py
	@$(BIN)/python docs/examples/ingest_video.py $(if $(VIDEO),"$(VIDEO)")

demo-fleet: .venv/built ## the same in several pods that share an S3 store, one of them killed
	@$(BIN)/python docs/examples/install.py --fleet
	@$(BIN)/python docs/examples/fleet.py $(if $(VIDEO),"$(VIDEO)")

test: .venv/built ## build and run every test (COGCACHE_TEST_WITHOUT=redis,swift leaves servers out)
	@.ci/setup --servers
	@$(MAKE) --no-print-directory -s -j2 -C tests/c check
	@$(BIN)/python -m pytest -q -n 2 --dist loadfile

torture: .venv/built ## run the long forms of the campaigns: kills, faults, forks, sizes (hours)
	@.ci/setup --servers
	@for form in index entry_forged store_faults store_processes; do COGCACHE_TORTURE=1 \
		$(MAKE) --no-print-directory -s -C tests/c check ONLY=$$form || exit 1; done
	@COGCACHE_TORTURE=1 $(BIN)/python -m pytest -q -n 2 --dist load -m torture

lint: .venv/built ## check style, types, stubs, layout and warnings
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@echo $(BIN)/clang-format --dry-run -Werror "csrc/*/*.[ch] tests/c/*.[ch] benchmarks/*.c"
	@$(BIN)/clang-format --dry-run -Werror $(C_FILES)
	$(BIN)/mypy
	$(BIN)/python -m mypy.stubtest --allowlist .ci/stubtest-allowlist --ignore-unused-allowlist \
		cogcache._core
	$(BIN)/basedpyright
	@$(MAKE) --no-print-directory -s -j2 -C tests/c warnings
	COGCACHE_WERROR=1 $(BIN)/python setup.py -q build --build-base build/lint

bench: .venv/built ## measure beside the floor in C, plain files, the caches of others, boto3 and redis-py
	@.ci/setup --servers
	@$(BIN)/python -m benchmarks.bench_floor
	@$(BIN)/python -m benchmarks
	@$(BIN)/python -m benchmarks.bench_remote

docs: .venv/built .venv/docs ## build the documentation into docs/_build
	@$(BIN)/python -m sphinx -q -W --keep-going -b html docs docs/_build
	@echo "docs/_build/index.html"

wheel: .venv/created .venv/wheel ## build the sdist, and for every Python a self-contained wheel, into dist
	@.ci/wheels

clean: ## remove everything that was built, .venv included
	rm -rf .venv build dist docs/_build .demo *.egg-info .*_cache .hypothesis cogcache/*.so
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Set-up. Each stamp names what it was made from, so that the second run does nothing.
.venv/created: .ci/setup .ci/python
	@.ci/setup
	@$(BIN)/python -c '' 2>/dev/null || { python=$$(.ci/python) && \
		echo "Making .venv with $$python" && "$$python" -m venv --clear .venv; }
	@$(PIP) install --upgrade pip "setuptools>=77" wheel
	@touch $@

.venv/dev: .venv/created pyproject.toml
	@echo "Installing the tools for development"
	@$(call INSTALL_EXTRA,dev)
	@touch $@

.venv/built: .venv/dev setup.py cogcache/__init__.py $(CSRC)
	@echo "Building cogcache"
	@$(PIP) install --no-build-isolation --no-deps --editable .
	@touch $@

.venv/docs .venv/wheel: .venv/dev
	@$(call INSTALL_EXTRA,$(@F))
	@touch $@

# The requirements of an extra, and of the package itself, without building the package.
INSTALL_EXTRA = $(BIN)/python -c 'import tomllib; \
	project = tomllib.load(open("pyproject.toml", "rb"))["project"]; \
	print(*project["dependencies"], *project["optional-dependencies"]["$1"], sep="\n")' \
	>.venv/$1.txt && $(PIP) install --requirement .venv/$1.txt
