# Two commands matter: `make report` and `make test`. Each makes the environment it needs.
# PYTHON=/path/to/python uses an environment of your own (conda, Kaggle) instead of .venv and installs nothing.

PROFILE ?= demo
CORES ?= 2
BENCH ?= $(if $(filter demo,$(PROFILE)),cpu,$(PROFILE))
VENV := .venv
ifdef PYTHON
  PY := $(PYTHON)
  READY :=
  QUEUE :=
else
  PY := $(VENV)/bin/python
  READY := $(VENV)/.ready
  QUEUE := $(VENV)/.queue
endif

# papermill's executed copies of the notebooks go to build/PROFILE/notebooks
PAPERMILL = $(PY) -m papermill --cwd . --no-progress-bar --log-output
execute = mkdir -p build/$(1)/notebooks && for notebook in notebooks/[0-9]*.ipynb; do \
	  $(PAPERMILL) $$notebook build/$(1)/$$notebook -p profile $(1) || exit 1; done

.PHONY: report pdf notebooks diagrams synthetic-figures test bench site queue test-cluster clean help

help:            ## list the commands
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

report: $(READY) ## execute the notebooks of PROFILE (demo, cpu, full) and build both PDFs, the demo's in build/demo
	$(call execute,$(PROFILE))
	$(PY) -m report $(if $(filter demo,$(PROFILE)),--profile demo)

pdf: $(READY)    ## rebuild both PDFs from the committed results, without running anything
	$(PY) -m report

notebooks: $(READY) ## execute the stored notebooks again on the committed results, after a change of either
	mkdir -p build/cpu/notebooks
	for notebook in notebooks/[0-9]*.ipynb; do \
	  SSN_DATA_DIR=no-data $(PAPERMILL) $$notebook build/cpu/$$notebook || exit 1; done
	$(PY) -m ssn_core.study.freeze build/cpu/notebooks/[0-9]*.ipynb

diagrams: $(READY) ## draw the diagrams of README and notebooks again, after a change of report/shared/diagrams.typ
	$(PY) -m report.diagrams

synthetic-figures: report ## keep the demo's pictures that the PDFs show, where real photographs may not be shown
	mkdir -p figures/synthetic
	cp $(foreach name,panels_thread fig13 fig19 fig20,build/demo/figures/$(name)*.png) figures/synthetic

site: $(READY)   ## the stored notebooks as pages, in build/site/notebooks
	$(PY) -m nbconvert --to html --output-dir build/site/notebooks notebooks/[0-9]*.ipynb
	mkdir -p build/site/figures && cp -r figures/diagrams build/site/figures

test: $(READY)   ## lint and run every test
	$(PY) -m ruff check .
	$(PY) -m ruff format --check ssn_core report tests notebooks kaggle
	$(PY) -m pytest

queue: $(QUEUE)  ## make what is missing of PROFILE, CORES runs at a time, then notebooks and PDFs; resumes
	$(PY) -m snakemake --cores $(CORES) --config profile=$(PROFILE)

test-cluster: $(QUEUE) ## the queue through a one-node SLURM on this machine (root; installs Debian's slurm-wlm, munge)
	command -v sbatch slurmctld slurmd munged > /dev/null || (apt-get update && apt-get install -y slurm-wlm munge)
	SSN_TEST_CLUSTER=1 OMP_NUM_THREADS=1 $(PY) -m pytest -rs tests/cluster

bench: $(READY)  ## print speed ratios measured in one run (PEERS=1: with anomalib, in build/peers)
	$(PY) -m ssn_core bench --profile $(BENCH) $(if $(PEERS),--peers build/peers/bin/python)

ifdef PEERS
bench: build/peers/.ready
endif

build/peers/.ready:
	python3 -m venv build/peers
	build/peers/bin/python -m pip install --editable ".[deploy]" "anomalib>=2,<3" openvino
	@touch $@

$(VENV)/.ready: pyproject.toml
	@echo "making the environment in $(VENV) (a few minutes the first time)"
	python3 -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --upgrade pip
	$(VENV)/bin/python -m pip install --progress-bar on --editable ".[notebooks,test]"
	@touch $@

$(VENV)/.queue: $(VENV)/.ready
	$(VENV)/bin/python -m pip install --progress-bar on --editable ".[queue]"
	@touch $@

clean:           ## remove what the commands make below build/
	rm -rf build
