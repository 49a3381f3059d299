#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# The demo, small: it fails where anything that it promises does not hold.
set -eu
DEMO_SIZE=${DEMO_SIZE:-256} exec "$(dirname "$0")/../demo/demo"
