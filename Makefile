# The only door. Anything longer than five lines is Rust in cmd/, crates/kiln-testkit or tests/.
.POSIX:
CARGO = cargo

help:
	@echo 'make demo       pull a real image from a real registry, build it, boot it'
	@echo 'make test       everything that is bounded, with the time of each suite'
	@echo 'make test-unit  unit and property tests only; needs nothing but Rust'
	@echo 'make lint       formatting, clippy, documentation'
	@echo 'make bench      figures, side by side with other tools'
	@echo 'make doc        the API documentation of the crates, and docs/api.md, docs/errors.md'
	@echo 'make dist       release binaries in dist/'

lint:
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings

test-unit:
	$(CARGO) test --workspace --locked --exclude e2e

.PHONY: help lint test-unit
