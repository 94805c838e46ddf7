#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# usage: tools/deps.sh [build|ci]
#
# Installs the Debian packages that are missing: those to build, test and run kvferry, or with "ci"
# also those of the other compilers, sanitizers and linters. What is there is left alone, so a
# second run installs nothing. Needs root or sudo only when something is missing.
set -eu

# Each line: package, then what shows that it is there (a command, pkg-config module or file), so
# that a tool which did not come from a Debian package counts as well.
build_needs='
gcc                  command:gcc
g++                  command:g++
libc6-dev            file:/usr/include/stdio.h
pkg-config           command:pkg-config
python3              command:python3
meson                command:meson
ninja-build          command:ninja
libuv1-dev           module:libuv
libsodium-dev        module:libsodium
libprotobuf-c-dev    module:libprotobuf-c
protobuf-c-compiler  command:protoc-c
libjansson-dev       module:jansson
libxxhash-dev        module:libxxhash
check                module:check
libopenmpi-dev       module:ompi-c
openmpi-bin          command:mpirun
'
ci_needs='
git                  command:git
clang                command:clang
clang-tidy           command:clang-tidy
clang-format         command:clang-format
cppcheck             command:cppcheck
shellcheck           command:shellcheck
codespell            command:codespell
'

is_there() {
    case "$1" in
    command:*) command -v "${1#*:}" >/dev/null 2>&1 ;;
    module:*) pkg-config --exists "${1#*:}" 2>/dev/null ;;
    file:*) [ -e "${1#*:}" ] ;;
    esac
}

# Reads lines of needs, prints the packages that are missing.
missing() {
    while read -r package probe; do
        [ -z "$package" ] || is_there "$probe" || echo "$package"
    done
}

# Prints what to put before a command that needs root: nothing, or sudo, which without a terminal
# cannot ask for a password.
find_sudo() {
    [ "$(id -u)" != 0 ] || return 0
    command -v sudo >/dev/null 2>&1 || return 1
    if [ -t 0 ]; then echo sudo; else echo "sudo -n"; fi
}

# Words: what find_sudo printed; then packages. A fresh machine has no package lists, an old one has
# lists that name files that are gone, so they are fetched in any case.
apt_install() {
    sudo=$1
    shift
    $sudo apt-get -q update &&
        $sudo env DEBIAN_FRONTEND=noninteractive apt-get -q -y --no-install-recommends \
            -o DPkg::Lock::Timeout=300 install "$@"
}

fail() {
    echo "tools/deps.sh: $*" >&2
    exit 1
}

case "${1-build}" in
build) needs=$build_needs ;;
ci) needs=$build_needs$ci_needs ;;
*) fail "usage: tools/deps.sh [build|ci]" ;;
esac

packages=$(echo "$needs" | missing | tr '\n' ' ')
packages=${packages% }
[ -n "$packages" ] || exit 0

command -v apt-get >/dev/null 2>&1 ||
    fail "missing, and there is no apt-get to install them; Debian's names: $packages"
sudo=$(find_sudo) ||
    fail "missing, and neither root nor sudo to install them; as root: apt-get install $packages"

echo "installing: $packages"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
# shellcheck disable=SC2086 # a list of words
if ! apt_install "$sudo" $packages >"$log" 2>&1 </dev/null; then
    tail -n 20 "$log" >&2
    fail "apt-get failed"
fi

packages=$(echo "$needs" | missing | tr '\n' ' ')
[ -z "$packages" ] || fail "still missing after installing: $packages"
