#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# usage: readme.sh README INCLUDE_DIR COMPILER...
# The README's example compiles as it stands there.
set -eu
readme=$1
dir=$2
shift 2
example=$(awk '/^```c$/ { inside = 1; next } /^```/ { inside = 0 } inside' "$readme")
[ -n "$example" ] || { echo "no example in $readme" >&2; exit 1; }
echo "$example" | "$@" -x c -std=c11 -Wall -Wextra -pedantic -Werror "-I$dir" -c -o /dev/null -
