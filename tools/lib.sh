# shellcheck shell=sh
# SPDX-License-Identifier: Apache-2.0
# Sourced by quickstart, check, lint and .ci/run, after they changed to the root of the tree.
export LC_ALL=C.UTF-8

# mpirun refuses root, which is what containers and CI run as, unless told twice.
if [ "$(id -u)" = 0 ]; then
    export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
fi

# usage: step LOG TEXT COMMAND...
# Runs a command with its output in LOG (appended), says how long it took, shows the end of the log
# if it fails, and returns its status.
step() {
    step_log=$1
    step_text=$2
    shift 2
    mkdir -p "$(dirname "$step_log")"
    step_begin=$(date +%s)
    echo "--- $step_text: $*" >>"$step_log"
    step_status=0
    "$@" >>"$step_log" 2>&1 </dev/null || step_status=$?
    step_seconds=$(($(date +%s) - step_begin))
    if [ "$step_status" = 0 ]; then
        echo "$step_text: ok, $step_seconds s"
    else
        echo "$step_text: FAILED (status $step_status) after $step_seconds s; end of $step_log:"
        tail -n "${KVF_LOG_LINES:-60}" "$step_log"
    fi
    return "$step_status"
}

# usage: configure BUILD_DIR COMPILER MESON_OPTION...
# Sets a build directory up with gcc or clang, or leaves it alone if it was set up just so before;
# ninja notices changes of the build files itself.
configure() {
    configure_dir=$1
    configure_cc=$2
    shift 2
    case "$configure_cc" in
    clang) configure_cxx=clang++ ;;
    *) configure_cxx=g++ ;;
    esac
    configure_stamp="$PWD $configure_cc $*"
    if [ -f "$configure_dir/build.ninja" ] &&
        [ "$(cat "$configure_dir/.configured" 2>/dev/null)" = "$configure_stamp" ]; then
        return 0
    fi
    # The log of the caller may be open in there.
    mkdir -p "$configure_dir"
    find "$configure_dir" -mindepth 1 -maxdepth 1 ! -name '*.log' -exec rm -rf {} +
    CC=$configure_cc CXX=$configure_cxx meson setup "$configure_dir" "$@" || return 1
    echo "$configure_stamp" >"$configure_dir/.configured"
}

# usage: build DIR COMPILER MESON_OPTION...
build() {
    build_dir=$1
    build_cc=$2
    shift 2
    mkdir -p "$build_dir"
    : >"$build_dir/build.log"
    step "$build_dir/build.log" "configure $build_dir ($build_cc)" \
        configure "$build_dir" "$build_cc" "$@" &&
        step "$build_dir/build.log" "build $build_dir" ninja -C "$build_dir"
}

# usage: run_suites DIR LOG_NAME TIMEOUT_MULTIPLIER SUITE...
# The multiplier is for meson's limits and Check's, which are there to end what hangs, not to measure.
# Leaves DIR/meson-logs/LOG_NAME-full.json for count_tests.py. Words in run_suites_prefix go before
# the command.
run_suites_prefix=
run_suites() {
    suites_dir=$1
    suites_log=$2
    suites_slower=$3
    shift 3
    suites_args=
    for suite in "$@"; do
        suites_args="$suites_args --suite $suite"
    done
    rm -f "$suites_dir/meson-logs/$suites_log-full.json"
    # shellcheck disable=SC2086 # words
    step "$suites_dir/$suites_log.log" "test $* in $suites_dir" \
        env "CK_TIMEOUT_MULTIPLIER=$suites_slower" $run_suites_prefix \
        meson test -C "$suites_dir" --no-rebuild --setup full --logbase "$suites_log" \
        --timeout-multiplier "$suites_slower" --print-errorlogs $suites_args
}
