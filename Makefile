# Everything a newcomer or CI runs. Needs Python 3.11 or later, make and the package registries.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
export HF_HUB_OFFLINE ?= 1
export TOKENIZERS_PARALLELISM ?= false

.PHONY: help setup demo demo-media test test-slow docs lint format bench bench-pretrain bench-embed leak bench-finetune screenshots families rehearsal rehearsal-3b study study-quick study-map study-doses study-beyond study-large samples base search clean

help: ## show this list
	@grep -E '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

setup: $(READY) ## make the environment in .venv, at the tested versions; Chromium from the system's packages
	@$(PYTHON) -m scripts.chromium

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed; say which with PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: setup ## pre-train the shipped base, prove it two-way, fine-tune, score, find (minutes)
	$(BIN)/python examples/demo.py

demo-media: setup ## clips of the samples: fine-tune, embed, index, search, and is what is found right? (minutes)
	$(BIN)/python -m examples.demo_media

test: setup ## the whole test suite (about 15 minutes on two cores)
	$(BIN)/python -m pytest -n 2 --dist loadgroup

test-slow: setup ## tests that take minutes each
	$(BIN)/python -m pytest -m slow

lint: setup ## style, types and the one-way imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: setup ## put the code in order
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: setup ## build the documentation site into build/site, strictly
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

bench: setup ## ratios of two things run side by side
	$(BIN)/python -m benchmarks

bench-pretrain: setup ## a step of pre-training beside a plain loop (a quarter of an hour of a core)
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks pretrain

bench-embed: setup ## the embedding engine beside SentenceTransformer.encode
	$(BIN)/python -m benchmarks embed

families: setup ## try every family of transformers and write docs/families.md (minutes)
	$(BIN)/python -m scripts.families --write docs/families.md

rehearsal: setup ## a step of each stage of seven full-size recipes, on random models of real geometry with few layers (needs npm)
	$(BIN)/python -m tools.rehearsal

rehearsal-3b: setup ## convert, check and embed with one whole random model of 3.75 billion parameters (24 GB of memory, npm)
	$(BIN)/python -m tools.rehearsal --whole

leak: setup ## does it matter that EOS sees the target? three seeds, most of an hour; tables of build/leak
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.leak build/leak

study-quick: setup ## claims 1, 2 and 6 of the papers, tested (an hour or two of one core)
	$(BIN)/twoway study studies/quick.yaml build/study-quick --write build/study-quick/results.md

study-map: setup ## claims 1, 2, 3 and 7 by kind of task (hours; resumes; CLAIMS=1 does part); writes docs/results.md
	$(BIN)/twoway study studies/map.yaml build/study-map $(if $(CLAIMS),--claims $(CLAIMS)) --write docs/results.md

study-doses: setup ## claim 4: doses of pre-training up to half of the base's rows (hours; resumes); writes docs/results-doses.md
	$(BIN)/twoway study studies/doses.yaml build/study-doses --write docs/results-doses.md

study-beyond: setup ## claims 9 to 13: what lies beyond the papers (half an hour of one core); writes docs/results-beyond.md
	$(BIN)/twoway study studies/beyond.yaml build/study-beyond --write docs/results-beyond.md

study: setup ## all eight claims at a small dose (hours; resumes after a stop; CLAIMS=2,3 does part)
	$(BIN)/twoway study studies/full.yaml build/study $(if $(CLAIMS),--claims $(CLAIMS)) --write build/study/results.md

study-large: setup ## all eight claims, over doses of pre-training up to the base's own (days; CLAIMS=4 does part)
	$(BIN)/twoway study studies/large.yaml build/study-large $(if $(CLAIMS),--claims $(CLAIMS)) --write build/study-large/results.md

bench-finetune: setup ## fine-tuning beside sentence-transformers' trainer (an hour of a core with AVX2; python -m benchmarks.bench_finetune --batches 64: some minutes)
	$(BIN)/python -m benchmarks finetune

screenshots: setup ## the pictures of the page in docs/images, of what make demo has made
	OMP_NUM_THREADS=1 $(BIN)/python -m scripts.screenshots

samples: setup ## rebuild samples/ from the packages (needs npm and apt-get) and compare hashes
	$(BIN)/python -m tools.samples build/samples

base: setup ## train the base of samples/base again into build/nano (hours of one core; resumes after a stop)
	OMP_NUM_THREADS=1 $(BIN)/python -m tools.nano_base build/nano/base --plateau

search: setup ## train the model of samples/search again and write it with its card (an hour of two cores; resumes after a stop)
	$(BIN)/twoway run recipes/nano-search.yaml build/nano/search
	$(BIN)/python -m scripts.search build/nano/search/3-pages --write samples/search

clean: ## remove the environment, the caches and build/, with the runs and studies in it
	rm -rf $(VENV) build .pytest_cache .mypy_cache .ruff_cache
