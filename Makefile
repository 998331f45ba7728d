# Apus: `make` builds the tiny programs, `make run` shows them at work, `make check` is everything CI runs.
# Recipes of more than a few lines are scripts in setup/ and bench/.

# Where to install: HOME counts only when it stands on the command line, not when it comes from the login.
ifeq ($(origin HOME),command line)
TARGET := $(HOME)
# The toolchain keeps its caches in the real home directory.
SWIFT := HOME="$$(getent passwd "$$(id -u)" | cut -d: -f6)" swift
else
TARGET := /var/apus
SWIFT := swift
endif

TINY := .build-tiny
PYTHON := .build-venv/bin/python

.DELETE_ON_ERROR:
.PHONY: all tiny debug test e2e lint man-lint check install run size bench clean deps

all: tiny

# The installed programs: Embedded Swift, fully static (INTERNALS.md).
tiny:
	@setup/packages build
	EMBEDDED=1 $(SWIFT) build -c release --disable-local-rpath --scratch-path $(TINY)

# Ordinary Swift, for development and tests.
debug:
	@setup/packages build
	$(SWIFT) build --build-tests

test: debug
	$(SWIFT) test --skip-build

e2e: tiny
	@setup/packages run check
	$(PYTHON) -m pytest -n 2 Tests/e2e

lint: man-lint
	$(SWIFT) format lint --strict --recursive Package.swift Sources Tests

man-lint:
	@setup/packages check
	mandoc -T lint -W warning man/*.[1-8]

check: deps
	@$(PYTHON) setup/check

# Under sudo there may be no toolchain: then what `make` has built is installed.
install:
	@if command -v swift >/dev/null; then $(MAKE) --no-print-directory tiny; fi
	setup/install "$(TARGET)"

# ./var/apus, rootless, in the foreground until Ctrl-C; RUN_ONCE=1 stops after the first two messages.
run: tiny
	@setup/packages run
	@setup/run var/apus

# Bytes, start-up time and memory of every program beside a static C program that does nothing.
size: tiny
	@bench/size

bench: tiny
	@bench/run

deps:
	@setup/packages build run check

clean:
	rm -rf .build $(TINY) .build-venv var
