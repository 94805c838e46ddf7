#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# usage: header.sh HEADER INCLUDE_DIR LANGUAGE STANDARD COMPILER...
# A public header compiles alone, twice in one file, as the given language, without a warning.
set -eu
header=$1
dir=$2
language=$3
standard=$4
shift 4
printf '#include "%s"\n#include "%s"\nint main(void) { return 0; }\n' "$header" "$header" |
    "$@" -x "$language" "-std=$standard" -Wall -Wextra -pedantic -Werror "-I$dir" -c -o /dev/null -
