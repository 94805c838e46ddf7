#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# usage: needed.sh LIBRARY
# The library loads on a machine that has neither MPI nor a GPU: nothing of theirs is needed at
# load time. That there is a list at all is checked too, so that a changed readelf cannot pass.
set -eu
export LC_ALL=C
needed=$(readelf -d "$1" | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p')
soname=$(readelf -d "$1" | sed -n 's/.*(SONAME).*\[\(.*\)\]/\1/p')
echo "$soname needs:" "$needed"
case "$needed" in
*libc.so.6*) ;;
*) echo "no libc in the list of $1" >&2; exit 1 ;;
esac
if echo "$needed" | grep -iE 'mpi|open-(rte|pal)|pmix|cuda|cudart|nvrtc|nccl'; then
    echo "$1 must not need these at load time" >&2
    exit 1
fi
if [ "$soname" != libkvferry.so.1 ]; then
    echo "soname is $soname, not libkvferry.so.1" >&2
    exit 1
fi
