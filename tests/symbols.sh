#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# usage: symbols.sh LIBRARY SYMBOL
# The library exports SYMBOL and nothing else.
set -eu
export LC_ALL=C
symbols=$(nm -D --defined-only "$1" | awk '{print $3}')
if [ "$symbols" != "$2" ]; then
    echo "expected exactly $2, found:" >&2
    echo "$symbols" >&2
    exit 1
fi
