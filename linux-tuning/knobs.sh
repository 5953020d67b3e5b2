# shellcheck shell=bash
# What is tuned, where it is found and what it should be: read by check, apply and revert alike, so that they cannot
# disagree. Sourced, never run.
#
# A knob is one line: WEIGHT<tab>RULE<tab>FILE<tab>WANTED. RULE is exact, at-least, at-most or one-of (WANTED is then a
# list, its first word what apply sets).

tuning_dir=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck disable=SC2034 # read by apply and revert
state_dir=${RINGKV_TUNING_STATE:-/var/lib/ringkv-tuning}

say() { printf '%s\n' "$*"; }
die() { printf '%s: %s\n' "${0##*/}" "$*" >&2; exit 2; }
usage() { sed -n '2,/^[^#]/{s/^# \{0,1\}//p}' "$0"; }

sysctl_knobs() {
    local line rule='' weight=''
    while IFS= read -r line; do
        case $line in
            '#: '*) read -r _ rule weight <<<"$line" ;;
            '#'* | '') ;;
            *)
                local key=${line%% =*} wanted=${line#*= }
                printf '%s\t%s\t/proc/sys/%s\t%s\n' "$weight" "$rule" "${key//.//}" "$wanted"
                ;;
        esac
    done <"$tuning_dir/sysctl.conf"
}

# The disks, as /sys/block names them, under the file system that holds a folder.
disks_under() {
    local device
    device=$(df --output=source -- "$1" 2>/dev/null | tail -n1)
    [[ $device == /dev/* ]] || return 0
    if command -v lsblk >/dev/null; then
        lsblk -nrso NAME,TYPE "$device" 2>/dev/null | awk '$2 == "disk" { print $1 }' | sort -u
    elif [[ -d /sys/block/${device#/dev/} ]]; then
        printf '%s\n' "${device#/dev/}"
    fi
}

disk_knobs() {
    local disk
    for disk in $(disks_under "$1"); do
        local queue=/sys/block/$disk/queue
        printf '2\tone-of\t%s\t%s\n' "$queue/scheduler" 'none kyber'
        printf '1\texact\t%s\t%s\n' "$queue/rq_affinity" 2
        printf '1\texact\t%s\t%s\n' "$queue/add_random" 0
        printf '1\tat-most\t%s\t%s\n' "$queue/read_ahead_kb" 128
    done
}

cpu_knobs() {
    local governor
    printf '2\tone-of\t%s\t%s\n' /sys/kernel/mm/transparent_hugepage/enabled 'madvise never'
    printf '1\tone-of\t%s\t%s\n' /sys/kernel/mm/transparent_hugepage/defrag 'defer+madvise madvise defer never'
    for governor in /sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_governor; do
        if [[ -e $governor ]]; then printf '2\texact\t%s\tperformance\n' "$governor"; fi
    done
}

# all_knobs DATA_DIR
all_knobs() {
    sysctl_knobs
    cpu_knobs
    disk_knobs "$1"
}

# value_of FILE: the value; of a choice such as "always [madvise] never" the one that is chosen. Words are separated by
# one space, so that values can be compared.
value_of() {
    local text
    text=$(tr -s '\t ' '  ' 2>/dev/null <"$1") || return 1
    if [[ $text =~ \[([^]]+)\] ]]; then text=${BASH_REMATCH[1]}; fi
    printf '%s' "${text% }"
}

# satisfies RULE VALUE WANTED
satisfies() {
    case $1 in
        exact) [[ $2 == "$3" ]] ;;
        at-least) [[ ${2##* } -ge ${3##* } ]] ;;
        at-most) [[ ${2##* } -le ${3##* } ]] ;;
        one-of) [[ " $3 " == *" $2 "* ]] ;;
        *) die "unknown rule '$1'" ;;
    esac
}

# What apply writes: the first of several choices.
setting_of() { if [[ $1 == one-of ]]; then printf '%s' "${2%% *}"; else printf '%s' "$2"; fi; }

# A knob's name for people: sysctls by key, the rest by path without /sys.
name_of() {
    local name=${1#/proc/sys/}
    if [[ $name != "$1" ]]; then printf '%s' "${name//\//.}"; else printf '%s' "${1#/sys/}"; fi
}

default_data_dir() { if [[ -d /var/lib/ringkv ]]; then echo /var/lib/ringkv; else echo .; fi; }
