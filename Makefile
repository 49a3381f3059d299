# SPDX-License-Identifier: LGPL-2.1-or-later
#
# make            build blockmig, blockmigd, blockmig-worker into $(BUILD)/bin
# make help       the other targets
#
# Sources are found, not listed: a .c file in one of DIRS is in the library; tests/unit/test_X.c is a test
# program of its own; the three main.c files are the programs.

CC      ?= gcc
BUILD   ?= build
PREFIX  ?= /usr/local
VERSION := 0.1.0
SAN     ?=

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

.PHONY: all tests clean
all: $(BINS)

$(BUILD)/%.o: %.c Makefile
	@mkdir -p $(@D)
	$(CC) $(ALL_CFLAGS) -MMD -MP -c $< -o $@

# The lists ask by __has_include what there is, which the compiler's dependencies don't tell.
$(BUILD)/backends/backends.o: $(wildcard backends/*.c)
$(BUILD)/formats/formats.o: $(wildcard formats/*.c)

$(LIB): $(OBJECTS)
	@mkdir -p $(@D)
	rm -f $@ && ar rcs $@ $^

$(BUILD)/bin/blockmig: $(BUILD)/cli/main.o $(LIB)
$(BUILD)/bin/blockmigd: $(BUILD)/blockmig/daemon/main.o $(LIB)
$(BUILD)/bin/blockmig-worker: $(BUILD)/blockmig/worker/main.o $(LIB)
$(BINS):
	@mkdir -p $(@D)
	$(CC) $(ALL_CFLAGS) $(LDFLAGS) $^ -o $@ $(ALL_LIBS)

tests: $(UNIT_TESTS) $(TOOLS)
$(BUILD)/tests/%: $(BUILD)/tests/unit/%.o $(UNIT_HELPERS:%.c=$(BUILD)/%.o) $(LIB)
	@mkdir -p $(@D)
	$(CC) $(ALL_CFLAGS) $(LDFLAGS) $^ -o $@ $(CHECK_LIBS) $(ALL_LIBS)
$(BUILD)/tests/tools/%: $(BUILD)/tests/tools/%.o $(LIB)
	@mkdir -p $(@D)
	$(CC) $(ALL_CFLAGS) $(LDFLAGS) $^ -o $@ $(ALL_LIBS)

clean:
	rm -rf $(BUILD) $(BUILD)-*

-include $(shell find $(BUILD) -name '*.d' 2>/dev/null)
.SECONDARY:
