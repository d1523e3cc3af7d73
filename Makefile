# `make demo` and `make test` set everything up by themselves; `make help` lists the rest.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
DONE   := $(VENV)/.installed
# A machine without an NVIDIA GPU wants the CPU build of torch, which is ten times smaller. Where the package index
# offers both, name the wheel index of PyTorch's CPU build (see the selector on pytorch.org): make test TORCH_INDEX=<url>
TORCH       ?= torch==2.13.0
TORCH_INDEX ?=
export MPLBACKEND := Agg
export PYTHONUTF8 := 1
# Small models on few cores run faster with one thread than with two (measured); override from the shell.
export OMP_NUM_THREADS ?= 1

.PHONY: help venv demo rul test test-slow notebooks docs bench clean
help:            ## list the targets
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/:.*## /\t/' | expand -t 14

venv: $(DONE)    ## make .venv and install seqvae with its development tools
$(DONE): settings.ini setup.py
	$(PYTHON) -m venv $(VENV)
	echo "$(TORCH)" > $(VENV)/constraints.txt
	$(BIN)/pip install --quiet $(TORCH) $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX))
	$(BIN)/pip install --quiet -c $(VENV)/constraints.txt setuptools wheel
	$(BIN)/pip install --quiet -c $(VENV)/constraints.txt -e '.[dev]'
	touch $(DONE)

demo: venv       ## train a DVAE on simulated sensors; figures, table and model go to runs/demo
	$(BIN)/seqvae demo --out runs/demo

SET ?= FD001
rul:             ## remaining useful life of engines: make rul CMAPSS=<folder of NASA's files> SET=FD001
	@test -n "$(CMAPSS)" || { echo "make rul needs the folder with NASA's files: make rul CMAPSS=<folder> SET=FD001"; exit 1; }
	@$(MAKE) --no-print-directory venv
	$(BIN)/seqvae rul "$(CMAPSS)" --set $(SET) --out runs/rul-$(SET)

test: venv       ## what CI runs: clean notebooks, exported package, nbdev_test, pytest
	$(BIN)/python tools/check.py

test-slow: venv  ## the same with the slow cells and slow tests
	$(BIN)/python tools/check.py --slow

notebooks: venv  ## execute every notebook top to bottom, keep the outputs, rewrite README.md
	$(BIN)/python tools/notebooks.py

docs: venv       ## build the site (needs quarto on the PATH)
	@command -v quarto >/dev/null || { echo "make docs needs the 'quarto' program (quarto.org), which is not on the PATH."; exit 1; }
	$(BIN)/nbdev_docs

bench: venv      ## measure what the README claims: accuracy over three data seeds, speed ratios
	$(BIN)/python benchmarks/run.py

clean:           ## remove what the other targets made
	rm -rf $(VENV) runs _docs _proc build dist *.egg-info
