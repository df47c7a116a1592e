# The only door. Anything longer than five lines is Rust in cmd/, crates/kiln-testkit or tests/.
.POSIX:
CARGO = cargo
RUNNER = $(CARGO) run --locked --package runner --
COMPOSE = docker compose

help:
	@echo 'make demo       pull a real image from a real registry, build it, boot it'
	@echo 'make test       everything that is bounded, with the time of each suite'
	@echo 'make test-unit  unit and property tests only; needs nothing but Rust'
	@echo 'make lint       formatting, clippy, documentation'
	@echo 'make bench      figures, side by side with other tools, into docs/benchmarks.md'
	@echo 'make bench-boot how long guests take, into the same page'
	@echo 'make bench-store calls over a store of 100,000 images, into the same page'
	@echo 'make doc        the API documentation of the crates, and docs/api.md, docs/errors.md'
	@echo 'make dist       release binaries in dist/, and their SHA256SUMS'
	@echo 'make init       the programs that run inside guests, static files; prints where they are'
	@echo 'make registry-up, registry-down, registry-clean'
	@echo '                a registry on localhost:5000 as a container; clean removes its data too'
	@echo 'make deps       the Debian packages that demo, test and bench use, which they install too'

demo: linker
	$(CARGO) run --release --locked --package runner -- demo

test: deps
	$(RUNNER) test

test-unit: linker
	$(RUNNER) test unit doctests floorplan

lint: linker
	$(RUNNER) test format clippy rustdoc

bench: linker
	$(CARGO) run --release --locked --package runner -- bench --write

bench-boot: linker
	$(CARGO) run --release --locked --package runner -- bench-boot --write

bench-store: linker
	$(CARGO) run --release --locked --package runner -- bench-store --write

doc: linker
	$(CARGO) doc --workspace --no-deps --locked
	$(CARGO) run --locked --package kilnd -- --write-docs docs

dist: linker
	$(RUNNER) dist

init: linker
	$(RUNNER) init

registry-up:
	$(COMPOSE) up --detach

registry-down:
	$(COMPOSE) down

registry-clean:
	$(COMPOSE) down --volumes

deps: linker
	$(RUNNER) deps

# Rust without a C compiler can link nothing, not even the runner.
linker:
	@command -v cc > /dev/null || { apt-get -qq update && \
		apt-get -qq install --yes --no-install-recommends gcc libc6-dev; }

.PHONY: help demo test test-unit lint bench bench-boot bench-store doc dist init deps linker \
	registry-up registry-down registry-clean
