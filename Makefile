# Everything a developer needs.  The environment is made on first use, in .venv: with uv when it
# is there, with python3 -m venv when it is not.

.DEFAULT_GOAL := help
BIN := .venv/bin
N ?= 3
PYTEST = $(if $(PG),ORDINAUT_TEST_PG=$(PG)) $(BIN)/python -m pytest

# Some shells export SECONDS, and count it up: only the one of the command line is meant.
LIMIT := $(if $(filter command line,$(origin SECONDS)),--seconds $(SECONDS))

help:  ## this list
	@sed -n 's/^\([a-z]*\):[^#]*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST)

demo: .venv/.demo  ## tasks at work on a PostgreSQL of their own; [SECONDS=20] [DATA=dir]
	@$(BIN)/ordinaut dev $(LIMIT) $(if $(DATA),--data "$(DATA)")

example: .venv/.work  ## a run of steps, from a web shop into a table, with a shop and a database of its own
	@$(BIN)/python examples/orders.py

test: .venv/.work  ## the whole suite; [PG=15|18|docker] [N=3 processes] [ARGS=for pytest]
	$(PYTEST) -n $(N) $(ARGS)

check: .venv/.work  ## format, lint, types, layers, and the catalog of the installed schema
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(PYTEST) tests/schema

permutations: .venv/.work  ## every order of a few calls on three connections; [ORDERS=500 of each]
	ORDERS=$(or $(ORDERS),all) $(PYTEST) tests/races/test_permutations.py -n $(N)

race: .venv/.work  ## the named races
	$(PYTEST) tests/races

stress: .venv/.work  ## many workers, faults, and a witness outside the database; [SIZE=100000]
	SIZE=$(or $(SIZE),100000) $(PYTEST) tests/stress

pooler: .venv/.work  ## the engine's suite through PgBouncer in transaction mode; [PG=15]
	ORDINAUT_TEST_POOLER=1 $(PYTEST) -n $(N) tests/test_stories.py tests/races \
		tests/loops/test_steps.py tests/loops/test_waits.py tests/loops/test_pooler.py

chaos: .venv/.work  ## real processes, and everything that can go wrong; [MINUTES=5] [SEED=n] [ONLY=fault,...] [PG=15]
	$(BIN)/python -m tests.chaos --minutes $(or $(MINUTES),5) $(if $(SEED),--seed $(SEED)) \
		$(if $(ONLY),--only $(ONLY)) $(if $(PG),--pg $(PG))

systemd: .venv/.work  ## the units on a real systemd, in namespaces; needs root
	$(PYTEST) tests/systemd

soak: .venv/.work  ## real processes for an hour, judged by what grows; [MINUTES=60]
	$(BIN)/python -m tests.soak --minutes $(or $(MINUTES),60)

mutants: .venv/.work  ## break the engine, one guard at a time: a test must notice; [ONLY=lease] [SAMPLE=12]
	$(BIN)/python -m tests.mutants $(ONLY) $(if $(SAMPLE),--sample $(SAMPLE)) --processes $(N)

bench: .venv/.work  ## how fast, beside a bare loop; [CHECK=1] fails on a missed ratio; [QUICK=1]
	@$(BIN)/ordinaut bench $(if $(CHECK),--check) $(if $(QUICK),--quick)

bundle: .venv/.work  ## ordinaut.sql: the whole engine in one file, for psql -f
	@$(BIN)/python -m ordinaut.schema bundle > ordinaut.sql.new
	@mv ordinaut.sql.new ordinaut.sql
	@echo "ordinaut.sql is made; load it with: psql -v ON_ERROR_STOP=1 -f ordinaut.sql"

snapshot: .venv/.work  ## migrations/current.sql, after a new migration
	@$(BIN)/python -m tests.schema.snapshot

clean:  ## remove .venv and caches; the demo keeps its data in .ordinaut
	rm -rf .venv .*_cache .hypothesis build dist ordinaut.sql

# An environment knows its own path; one that was moved, or whose Python is gone, is made again.
ifneq ($(shell .venv/bin/python -c '' 2>/dev/null && cat .venv/.home),$(CURDIR))
.PHONY: .venv/.demo .venv/.work
endif

.venv/.demo: pyproject.toml
	@.ci/environment embedded
	@touch $@

.venv/.work: pyproject.toml
	@.ci/environment embedded,test,dev
	@touch .venv/.demo $@

.PHONY: help demo example test check permutations race stress pooler chaos systemd soak mutants bench bundle snapshot clean
