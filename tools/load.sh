# shellcheck shell=bash
# What tools/profile, tools/flamegraph and tools/budget share: a fresh cluster of their own, the load generator in
# the background, and the processes to watch. Sourced after lib.sh.

: "${ringkv_root:?source lib.sh first}"
load_clients=${RINGKV_LOAD_CLIENTS:-16}
load_pipeline=${RINGKV_LOAD_PIPELINE:-32}
load_keys=${RINGKV_LOAD_KEYS:-100000}
load_pid=''

# load_ended: whatever happened, no process of ours is left behind.
load_ended() {
    if [[ -n $load_pid ]]; then kill -TERM "$load_pid" 2>/dev/null || true; fi
    "$ringkv_root/tools/cluster" stop
}

# load_begin DIR: three fresh nodes whose data lies in DIR/cluster, stopped when the script ends.
load_begin() {
    need_binaries
    raise_limits
    export RINGKV_CLUSTER_DIR=$1/cluster
    mkdir -p "$1"
    "$ringkv_root/tools/cluster" start --fresh --nodes 3
    trap load_ended EXIT
    endpoints=$("$ringkv_root/tools/cluster" endpoints)
}

# load_command OP SECONDS JSON [OPTION...]: sets load_words to the load generator's command line.
load_words=()
load_command() {
    local op=$1 seconds=$2 json=$3
    shift 3
    load_words=("$(bench_binary)" "$op" --endpoints "$endpoints" --value-size 4096 --clients "$load_clients"
        --pipeline "$load_pipeline" --seconds "$seconds" --keys "$load_keys" --distribution uniform --warmup 0 --json "$json" "$@")
}

# load_keys_for OP DIR: reads need keys to be there; the load generator writes them before it reads.
load_keys_for() {
    [[ $1 != write ]] || return 0
    say "loading $load_keys keys"
    load_command read 1 "$2/load.json"
    "${load_words[@]}" >"$2/load.txt"
}

# load_start OP SECONDS JSON [WORD...]: in the background, under the command WORD... if given; sets load_pid. The keys
# of reads have been loaded by load_keys_for.
load_start() {
    local no_load=()
    [[ $1 == write ]] || no_load=(--no-load)
    load_command "$1" "$2" "$3" "${no_load[@]}"
    "${@:4}" "${load_words[@]}" >"${3%.json}.txt" &
    load_pid=$!
}

# load_wait: until the load generator has ended; fails when it did or any request failed.
load_wait() {
    local status=0
    wait "$load_pid" || status=$?
    load_pid=''
    return "$status"
}

# load_stop: ends the measurement early; the load generator reports what it measured until then.
load_stop() {
    kill -TERM "$load_pid"
    load_wait
}

# A load that load_stop is to end: longer than any sampling takes, and bounded all the same.
# shellcheck disable=SC2034 # read by the scripts that source this file
load_seconds_max=600

# node_processes: NAME=PID of every node, one per line.
node_processes() {
    local file name pid
    for file in "$RINGKV_CLUSTER_DIR"/node-*/pid; do
        name=${file%/pid}
        read -r pid _ <"$file"
        printf '%s=%s\n' "${name##*/}" "$pid"
    done
}

# pid_list NAME=PID...: the pids alone, separated by commas.
pid_list() { printf '%s\n' "${@#*=}" | paste -sd,; }

# field FILE KEY: a number of the load generator's report.
field() { python3 -c 'import json, sys; print(json.load(open(sys.argv[1]))[sys.argv[2]])' "$1" "$2"; }
