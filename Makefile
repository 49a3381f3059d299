# SPDX-License-Identifier: LGPL-2.1-or-later
#
# make            build blockmig, blockmigd, blockmig-worker into $(BUILD)/bin
# make help       the other targets
# make V=1        say each command
#
# Sources are found, not listed: a .c file in one of DIRS is in the library; tests/unit/test_X.c is a test
# program of its own; the three main.c files are the programs.

CC      ?= gcc
BUILD   ?= build
PREFIX  ?= /usr/local
VERSION := 0.1.0
SAN     ?=
QUIET   := $(if $(V),,@)

DIRS     := blockmig/core blockmig/engine blockmig/worker blockmig/daemon blockmig/stack \
            backends formats snapshot cli
PROGRAMS := blockmig blockmigd blockmig-worker
MAINS    := cli/main.c blockmig/daemon/main.c blockmig/worker/main.c

PACKAGES := libnfs libiscsi libnbd liburing jansson sqlite3 libmicrohttpd libcurl openssl libxxhash
WARNINGS := -Wall -Wextra -Wshadow -Wvla -Wstrict-prototypes -Wmissing-prototypes -Wformat=2 \
            -Wno-unused-parameter -Werror
OPT      ?= -O2
CFLAGS   ?= -g
ALL_CFLAGS := -std=c11 -D_GNU_SOURCE -D_FILE_OFFSET_BITS=64 -DBLOCKMIG_VERSION='"$(VERSION)"' -I. \
              $(OPT) $(CFLAGS) $(SAN) $(WARNINGS) -fno-strict-aliasing -fno-omit-frame-pointer -pthread \
              $(shell pkg-config --cflags $(PACKAGES) 2>/dev/null)
ALL_LIBS   := $(shell pkg-config --libs $(PACKAGES) 2>/dev/null) -lm -pthread
CHECK_LIBS := $(shell pkg-config --libs check 2>/dev/null)

SOURCES := $(filter-out $(MAINS),$(wildcard $(addsuffix /*.c,$(DIRS))))
OBJECTS := $(SOURCES:%.c=$(BUILD)/%.o)
HEADERS := $(wildcard $(addsuffix /*.h,$(DIRS)))
LIB     := $(BUILD)/libblockmig.a
BINS    := $(PROGRAMS:%=$(BUILD)/bin/%)
UNIT_SOURCES := $(wildcard tests/unit/test_*.c)
UNIT_HELPERS := $(filter-out $(UNIT_SOURCES),$(wildcard tests/unit/*.c))
UNIT_TESTS   := $(UNIT_SOURCES:tests/unit/%.c=$(BUILD)/tests/%)
TOOL_SOURCES := $(wildcard tests/tools/*.c)
TOOLS        := $(TOOL_SOURCES:tests/tools/%.c=$(BUILD)/tests/tools/%)

.PHONY: all tests clean help deps check check-unit check-integration check-asan check-tsan lint bench demo \
        demo-vm install
all: $(BINS) ## build the programs

$(BUILD)/%.o: %.c Makefile
	@mkdir -p $(@D)
	$(QUIET)echo "  CC      $<"; $(CC) $(ALL_CFLAGS) -MMD -MP -c $< -o $@

$(LIB): $(OBJECTS)
	@mkdir -p $(@D)
	$(QUIET)echo "  AR      $@"; rm -f $@ && ar rcs $@ $^

$(BUILD)/bin/blockmig: $(BUILD)/cli/main.o $(LIB)
$(BUILD)/bin/blockmigd: $(BUILD)/blockmig/daemon/main.o $(LIB)
$(BUILD)/bin/blockmig-worker: $(BUILD)/blockmig/worker/main.o $(LIB)
$(BINS):
	@mkdir -p $(@D)
	$(QUIET)echo "  LINK    $@"; $(CC) $(ALL_CFLAGS) $(LDFLAGS) $^ -o $@ $(ALL_LIBS)

tests: $(UNIT_TESTS) $(TOOLS) ## build the tests
$(BUILD)/tests/libhelpers.a: $(UNIT_HELPERS:%.c=$(BUILD)/%.o)
	@mkdir -p $(@D)
	$(QUIET)rm -f $@ && ar rcs $@ $^
$(BUILD)/tests/%: $(BUILD)/tests/unit/%.o $(BUILD)/tests/libhelpers.a $(LIB)
	@mkdir -p $(@D)
	$(QUIET)echo "  LINK    $@"; $(CC) $(ALL_CFLAGS) $(LDFLAGS) $^ -o $@ $(CHECK_LIBS) $(ALL_LIBS)
$(BUILD)/tests/tools/%: $(BUILD)/tests/tools/%.o $(LIB)
	@mkdir -p $(@D)
	$(QUIET)echo "  LINK    $@"; $(CC) $(ALL_CFLAGS) $(LDFLAGS) $^ -o $@ $(ALL_LIBS)

help: ## say what the targets are
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1\t\2/p' Makefile | expand -t 26

deps: ## install by apt what building and testing need and is not there
	packaging/install-deps build test demo-vm

check: deps ## install what is missing, build, and run all tests
	$(MAKE) all tests
	BUILD=$(BUILD) tests/run unit integration

check-unit: tests ## run the unit tests, on each kind of loop
	BUILD=$(BUILD) tests/run unit

check-integration: all tests ## run the tests against real servers and tools
	BUILD=$(BUILD) tests/run integration

# Leaks count. Stacks are kept readable, and a container without ptrace has no LeakSanitizer to run.
check-asan: ## the same with AddressSanitizer and UndefinedBehaviorSanitizer
	$(MAKE) BUILD=$(BUILD)-asan OPT=-O1 SAN='-fsanitize=address,undefined -fno-sanitize-recover=undefined' \
	    all tests
	BUILD=$(BUILD)-asan tests/run unit integration

check-tsan: ## the unit tests with ThreadSanitizer
	$(MAKE) BUILD=$(BUILD)-tsan OPT=-O1 SAN=-fsanitize=thread all tests
	BUILD=$(BUILD)-tsan tests/run unit

lint: ## both compilers' warnings, clang-tidy, cppcheck, shellcheck, format, import direction
	$(MAKE) CC=gcc BUILD=$(BUILD)-lint-gcc all tests
	$(MAKE) CC=clang BUILD=$(BUILD)-lint-clang all tests
	tests/lint

bench: ## measure against qemu-img, nbdcopy, QEMU's mirror, nbdkit, on the same disks (BENCH_QUICK=1)
	packaging/install-deps build test
	$(MAKE) all
	BUILD=$(BUILD) tests/bench/run

demo: ## a volume moves between two repositories under verified writes, and a report
	packaging/install-deps build demo
	$(MAKE) all
	BUILD=$(BUILD) tests/demo/demo

demo-vm: ## a real guest's disk moves local -> NFS -> iSCSI -> local while it writes
	packaging/install-deps build demo-vm
	$(MAKE) all
	BUILD=$(BUILD) tests/demo/demo-vm

# blockmigd looks for blockmig-worker beside itself.
install: all ## into $(DESTDIR)$(PREFIX)
	install -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(PREFIX)/share/man/man1 $(DESTDIR)$(PREFIX)/share/man/man8 \
	    $(DESTDIR)$(PREFIX)/share/bash-completion/completions
	install -m 755 $(BINS) $(DESTDIR)$(PREFIX)/bin
	install -m 644 packaging/blockmig.1 $(DESTDIR)$(PREFIX)/share/man/man1
	install -m 644 packaging/blockmigd.8 $(DESTDIR)$(PREFIX)/share/man/man8
	install -m 644 packaging/blockmig.bash $(DESTDIR)$(PREFIX)/share/bash-completion/completions/blockmig

clean: ## remove what was built
	rm -rf $(BUILD) $(BUILD)-*

-include $(shell find $(BUILD) -name '*.d' 2>/dev/null)
.SECONDARY:
