# shellcheck shell=bash
# Functions shared by the scripts of this folder: sourced by them, never run by itself.
# Callers have `set -euo pipefail`. Messages go to stderr; stdout carries results alone.

ringkv_root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

# What cargo compiles goes to CARGO_TARGET_DIR; what the scripts produce stays in the repository's target/.
build_dir=${CARGO_TARGET_DIR:-$ringkv_root/target}
[[ $build_dir == /* ]] || build_dir=$PWD/$build_dir
export CARGO_TARGET_DIR=$build_dir
# shellcheck disable=SC2034 # read by the scripts that source this file
output_dir=$ringkv_root/target

# A toolchain that rustup has just installed is not on the PATH of this shell yet.
cargo_home=${CARGO_HOME:-$HOME/.cargo}
[[ :$PATH: == *:"$cargo_home/bin":* ]] || PATH=$PATH:$cargo_home/bin

say() { printf '%s: %s\n' "${0##*/}" "$*" >&2; }
die() { say "$*"; exit 1; }

# The comment at the head of the calling script is its help text.
usage() { sed -n '2,/^[^#]/{s/^# \{0,1\}//p}' "$0"; }

# need_value "$@": the value that follows an option.
need_value() { [[ $# -ge 2 ]] || die "$1 needs a value (see --help)"; printf '%s' "$2"; }

# need_number NAME VALUE: a whole number of at least one.
need_number() { [[ $2 =~ ^[1-9][0-9]{0,8}$ ]] || die "$1 must be a whole number of at least 1, not '$2'"; }

have() { command -v "$1" >/dev/null 2>&1; }

# Runs a command as root: directly, or through sudo. Fails when neither is possible.
as_root() {
    if [[ $EUID -eq 0 ]]; then "$@"
    elif have sudo; then sudo "$@"
    else return 126; fi
}

# io_uring buffers are locked memory and every connection is a file: ask for as much as this user may have.
raise_limits() {
    ulimit -l unlimited 2>/dev/null || ulimit -S -l "$(ulimit -H -l)" 2>/dev/null || true
    ulimit -n 1048576 2>/dev/null || ulimit -S -n "$(ulimit -H -n)" 2>/dev/null || true
    local locked_kib
    locked_kib=$(ulimit -l)
    if [[ $locked_kib != unlimited && $locked_kib -lt 65536 && $EUID -ne 0 ]]; then
        say "only $locked_kib KiB may be locked in memory; io_uring may need more: linux-tuning/README.md, 'memlock'"
    fi
}

# The two binaries, optimised.
build_release() {
    say "building (the first time compiles RocksDB: about 15 minutes on two CPUs)"
    (cd "$ringkv_root" && cargo build --release --locked --bin ringkv --bin ringkv-bench)
}

ringkv_binary() { printf '%s' "${RINGKV_BIN:-$build_dir/release/ringkv}"; }
bench_binary() { printf '%s' "${RINGKV_BENCH_BIN:-$build_dir/release/ringkv-bench}"; }

need_binaries() {
    local binary
    for binary in "$(ringkv_binary)" "$(bench_binary)"; do
        [[ -x $binary ]] || die "$binary is missing: run 'cargo build --release' first"
    done
}

# Field 22 of /proc/PID/stat: with the pid it names a process for good, a recycled pid does not match.
# The command name in field 2 may hold spaces and parentheses, so fields are counted after the last ')'.
start_time_of() {
    local stat
    stat=$(cat "/proc/$1/stat" 2>/dev/null) || return 1
    stat=${stat##*) }
    # shellcheck disable=SC2086 # split into fields on purpose
    set -- $stat
    # Killed, its other threads may still hold its files for a while, field 20 says how many there are.
    [[ $1 != Z || ${18} -gt 1 ]] || return 1
    printf '%s' "${20}"
}

# alive PID START: is this very process still running?
alive() { [[ -n ${1:-} && -n ${2:-} && $(start_time_of "$1") == "$2" ]]; }

# wait_gone PID START SECONDS: until the process has ended, at most that long.
wait_gone() {
    local deadline=$((SECONDS + $3))
    while alive "$1" "$2"; do
        [[ $SECONDS -lt $deadline ]] || return 1
        sleep 0.05
    done
}

# The perf that fits the running kernel; Ubuntu's /usr/bin/perf is a wrapper that refuses other kernels.
find_perf() {
    local candidate
    for candidate in "$(command -v perf || true)" /usr/lib/linux-tools/*/perf /usr/bin/perf_*; do
        if [[ -x $candidate ]] && "$candidate" version >/dev/null 2>&1; then
            printf '%s' "$candidate"
            return
        fi
    done
    return 1
}

# The first event this machine can sample: virtual machines often have no hardware counters.
perf_event() {
    local event
    for event in cycles cpu-clock task-clock; do
        if "$1" record -q -e "$event" -o /dev/null -- true >/dev/null 2>&1 &&
            ! "$1" stat -e "$event" -- true 2>&1 | grep -q '<not supported>'; then
            printf '%s' "$event"
            return
        fi
    done
    return 1
}
