#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# usage: tools/banned.sh [FILE...]
#
# Calls this project does not make, in C code without its comments and strings. Without files: all C
# files that git knows or would add. Status 1 if any was found.
set -eu
cd "$(dirname "$0")/.."
export LC_ALL=C

# Each line: where (folders, joined by |; a folder means everything below it) ; what (a word that is
# called, or with a leading = a word that stands anywhere; extended regular expression) ; reason.
rules='
.  ; strcpy|strcat|strncpy|strncat|stpcpy|sprintf|vsprintf|gets ; may write past the end or forget the NUL: snprintf, memcpy
.  ; strtok|asctime|ctime|gmtime|localtime|rand|srand ; static state: not safe with threads
.  ; atoi|atol|atoll|atof|scanf|fscanf ; no way to see an error: strtoull and its kin
.  ; alloca|tmpnam|mktemp|system|popen|setjmp|longjmp ; unbounded stack, races, shells, skipped clean-up
.  ; =__sync_[a-z_]+|__atomic_[a-z_]+ ; C11 atomics with an explicit order
.  ; usleep|nanosleep|clock_nanosleep|sleep ; wait for the event, with a deadline, not for a time
kernels|collectives|plugin ; exit|_exit|_Exit|quick_exit|abort|raise|kill|atexit ; the process belongs to the host
kernels|collectives|plugin ; printf|fprintf|vfprintf|dprintf|puts|fputs|putchar|putc|fputc|perror ; the terminal belongs to the host: kvfi_log
kernels|collectives|plugin|tools ; sscanf ; no way to see an error: strtoull and its kin
kernels|collectives|plugin ; strerror ; static state: strerror_r
kernels|collectives|plugin ; signal|sigaction|signalfd ; signal handlers belong to the host
kernels|collectives|plugin ; =volatile ; orders nothing between threads: C11 atomics
kernels|collectives|plugin ; malloc|calloc|realloc|reallocarray|free|strdup|strndup|asprintf|vasprintf|getline|aligned_alloc|posix_memalign|memalign ; kvfi_calloc and kvfi_free, which tests make fail
kernels|collectives|plugin ; dlopen|dlmopen|dlsym|dlclose ; one place decides what is loaded into the host
kernels|collectives|plugin ; getenv|secure_getenv|setenv|putenv|unsetenv ; settings come in the configuration
kernels|collectives|plugin ; time|gettimeofday|clock_gettime|clock|uv_now|uv_hrtime ; one clock: kvfi_now_ns
kernels|collectives|plugin ; cudaMalloc[A-Za-z]*|cudaFree[A-Za-z]*|cuMemAlloc[A-Za-z_0-9]*|cuMemFree[A-Za-z_0-9]* ; the device table owns device memory
kernels|collectives|plugin ; random|getrandom|arc4random ; randombytes_buf, seeded by the caller in pure code
'

# Each line: file ; words ; reason.
allowed='
collectives/util.c ; calloc|free      ; kvfi_calloc and kvfi_free are here
tests/bench_idle.c ; nanosleep      ; the time that passes is what it measures
collectives/util.c ; clock_gettime    ; kvfi_now_ns is here
collectives/lane_steps.c ; clock_nanosleep ; MPI tells nobody that something came, and what is given up is soon gone
mpi_tests/bench_fabric.c ; clock_nanosleep ; a measurement of operations far apart
plugin/fabric_load.c ; dlopen|dlsym|dlclose ; loads fabrics, and says which file it took
'

[ $# -gt 0 ] || eval "set -- $(git -c safe.directory="$PWD" ls-files -co --exclude-standard \
    '*.c' '*.h' | tr '\n' ' ')"
export rules allowed
exec awk '
function trim(text)
{
    gsub(/^[ \t]+|[ \t]+$/, "", text)
    return text
}

# What comes before or after must not make it part of another word, or a member of something.
function pattern(words)
{
    if (words ~ /^=/)
        return "(^|[^A-Za-z0-9_])(" substr(words, 2) ")([^A-Za-z0-9_]|$)"
    return "(^|[^A-Za-z0-9_.>])(" words ")[ \t]*\\("
}

function in_folders(file, folders)
{
    return folders == "." || file ~ ("^(" folders ")/")
}

# The line without strings, character constants and comments; in_comment goes from line to line.
function strip(text, out, two)
{
    out = ""
    while (text != "") {
        two = substr(text, 1, 2)
        if (in_comment) {
            if (!match(text, /\*\//))
                return out
            in_comment = 0
            text = substr(text, RSTART + 2)
        } else if (two == "/*") {
            in_comment = 1
            text = substr(text, 3)
        } else if (two == "//") {
            return out
        } else if (match(text, /^"([^"\\]|\\.)*"/) || match(text, /^\047([^\047\\]|\\.)*\047/)) {
            out = out "\"\""
            text = substr(text, RLENGTH + 1)
        } else {
            match(text, /^.[^"\047\/]*/)
            out = out substr(text, 1, RLENGTH)
            text = substr(text, RLENGTH + 1)
        }
    }
    return out
}

BEGIN {
    n = split(ENVIRON["rules"], lines, "\n")
    for (i = 1; i <= n; i++) {
        if (split(lines[i], field, ";") < 3)
            continue
        n_rules++
        folders[n_rules] = trim(field[1])
        regex[n_rules] = pattern(trim(field[2]))
        reason[n_rules] = trim(field[3])
    }
    n = split(ENVIRON["allowed"], lines, "\n")
    for (i = 1; i <= n; i++) {
        if (split(lines[i], field, ";") >= 3)
            exempt[trim(field[1])] = exempt[trim(field[1])] "|" trim(field[2])
    }
}

FNR == 1 {
    in_comment = 0
    allowed_here = FILENAME in exempt ? pattern(substr(exempt[FILENAME], 2)) : ""
}

{
    code = strip($0)
    for (i = 1; i <= n_rules; i++) {
        if (code !~ regex[i] || !in_folders(FILENAME, folders[i]))
            continue
        if (allowed_here != "" && code ~ allowed_here)
            continue
        print FILENAME ":" FNR ": " $0 "\n    banned: " reason[i]
        bad = 1
    }
}

END { exit bad }
' "$@"
