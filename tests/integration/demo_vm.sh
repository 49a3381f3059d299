#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# The demo with a real guest: it fails where anything that it promises does not hold.
set -eu
DEMO_SIZE=${DEMO_SIZE:-512} exec "$(dirname "$0")/../demo/demo-vm"
