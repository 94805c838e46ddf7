#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# usage: install.sh BUILD_DIR COMPILER...
# What `meson install` puts down is enough for a host: header, library and pkg-config file find each
# other, and a program that knows only pkg-config's answers loads the installed library.
set -eu
build=$1
shift
dest=$(mktemp -d)
trap 'rm -rf "$dest"' EXIT
DESTDIR=$dest meson install -C "$build" --quiet
pc=$(find "$dest" -name kvferry.pc)
[ -n "$pc" ] || { echo "no kvferry.pc installed" >&2; exit 1; }
export PKG_CONFIG_PATH="${pc%/*}" PKG_CONFIG_SYSROOT_DIR="$dest"
cflags=$(pkg-config --cflags kvferry)
library=$(pkg-config --variable=library kvferry)
case "$library" in "$dest"*) ;; *) library=$dest$library ;; esac
cat >"$dest/host.c" <<'C'
#include <dlfcn.h>
#include <kvferry/kvferry.h>
#include <stdio.h>
#include <string.h>

int main(int argc, char **argv)
{
    void *library = argc == 2 ? dlopen(argv[1], RTLD_NOW | RTLD_LOCAL) : NULL;
    const struct kvferry_plugin_v1 *kvf = library ? dlsym(library, "kvferry_plugin_v1") : NULL;

    if (!kvf) {
        fprintf(stderr, "%s\n", dlerror());
        return 1;
    }
    printf("%s %s\n", kvf->name, kvf->version);
    return strcmp(kvf->version, EXPECTED) != 0;
}
C
# shellcheck disable=SC2086 # flags are words
"$@" -Wall -Werror $cflags "-DEXPECTED=\"$(pkg-config --modversion kvferry)\"" \
    -o "$dest/host" "$dest/host.c"
"$dest/host" "$library"
