# Everything a developer runs; `make` alone prints the list.
# Each target does all of its own set-up: a .venv, the development dependencies, the Rust extension.

PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
PIP := $(RUN) -m pip --disable-pip-version-check --quiet

# Directories too: a file that went away must trigger a build as well.
RUST_SOURCES := Cargo.toml Cargo.lock $(shell find rust -name '*.rs' -o -name Cargo.toml -o -type d)
EXTENSION := python/resnet_rs/_core.abi3.so

# One interpreter for every cargo command, or each would rebuild the bindings of the other.
export PYO3_PYTHON := $(CURDIR)/$(RUN)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: help demo photographs test lint format bench bench-train wheel wheel-check build clean toolchain rust-components

help: ## print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(EXTENSION) ## learn digits, classify pictures, and draw the results in demo.png; needs nothing else
	@$(RUN) examples/demo.py

photographs: $(EXTENSION) ## classify photographs with the real ResNet-50, where ../shared has them
	@$(RUN) examples/photographs.py

test: $(EXTENSION) ## cargo tests, then pytest
	cargo test --workspace --quiet
	$(RUN) -m pytest --quiet

lint: $(EXTENSION) rust-components ## ruff, mypy, stubtest, rustfmt, clippy, rustdoc
	$(RUN) -m ruff check
	$(RUN) -m ruff format --check
	cargo fmt --all --check
	$(RUN) -m mypy
	MYPYPATH=python $(RUN) -m mypy.stubtest resnet_rs._core
	cargo clippy --workspace --all-targets --quiet -- -D warnings
	RUSTDOCFLAGS="-D warnings -A rustdoc::private_intra_doc_links" cargo doc --workspace --no-deps --document-private-items --quiet

format: $(VENV)/.dev rust-components ## let ruff and rustfmt rewrite the code
	$(RUN) -m ruff check --fix
	$(RUN) -m ruff format
	cargo fmt --all

bench: $(EXTENSION) $(VENV)/.peers ## compare with OpenVINO and ONNX Runtime; writes benches/records
	$(RUN) benches/compare.py --save

bench-train: $(EXTENSION) $(VENV)/.training-peers ## compare steps of training with TensorFlow; writes benches/records
	$(RUN) benches/compare.py --train --save

wheel: $(VENV)/.dev toolchain ## one abi3 wheel for CPython >= 3.10 into dist/
	rm -f dist/resnet_rs-*.whl
	$(RUN) -m maturin build --release --strip --out dist

wheel-check: wheel ## install the wheel into an empty environment, use it, weigh it
	$(RUN) benches/wheel_check.py dist/resnet_rs-*.whl

build: $(EXTENSION) ## the extension alone, where Rust sources changed

clean: ## remove everything that a make target built
	rm -rf $(VENV) dist target $(EXTENSION) demo.png

$(VENV)/.created:
	@command -v $(PYTHON) >/dev/null || { echo "error: $(PYTHON) not found; make PYTHON=/path/to/python3"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
	  || { echo "error: CPython >= 3.10 is needed, `$(PYTHON) --version` found; make PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null \
	  || { echo "error: $(PYTHON) has no venv module; on Debian: apt-get install python3-venv"; exit 1; }
	@echo "-- making $(VENV)"
	@$(PYTHON) -m venv --clear $(VENV)
	@$(PIP) install --upgrade 'pip>=25.1'
	@touch $@

$(VENV)/.dev: pyproject.toml $(VENV)/.created
	@echo "-- installing the development dependencies"
	@$(PIP) install --group dev
	@touch $@

$(VENV)/.peers: pyproject.toml $(VENV)/.dev
	@echo "-- installing the peers to compare with"
	@$(PIP) install --group peers
	@touch $@

$(VENV)/.training-peers: pyproject.toml $(VENV)/.dev
	@echo "-- installing TensorFlow to compare with"
	@$(PIP) install --group training-peers
	@touch $@

$(EXTENSION): $(RUST_SOURCES) $(VENV)/.dev | toolchain
	@echo "-- building the extension"
	@$(RUN) -m maturin develop --release --quiet >/dev/null
	@touch $@

toolchain:
	@command -v cargo >/dev/null || { echo "error: cargo not found: a Rust toolchain is needed"; exit 1; }
	@command -v cc >/dev/null || { echo "error: cc not found: a C compiler is needed to link"; exit 1; }

rust-components: toolchain
	@cargo fmt --version >/dev/null 2>&1 || rustup component add rustfmt \
	  || { echo "error: rustfmt is missing and could not be added"; exit 1; }
	@cargo clippy --version >/dev/null 2>&1 || rustup component add clippy \
	  || { echo "error: clippy is missing and could not be added"; exit 1; }
