"""Turns what tools/budget has gathered into a table and budget.json: every figure is per request.

usage: budget.py DIR perf|strace OP...

DIR holds, per op: OP.plain.json with the growth of the counters around it (CPU, switches, bytes) in OP.growth.json;
OP.syscalls.*, OP.events.* and OP.copies.*, each with the OP.<pass>.json of its own run; OP.stacks with OP.samples.json.
A pass that was not possible is simply absent.
"""

import collections
import glob
import json
import os
import re
import sys

import proc
import stacks

TRACE_HEAD = re.compile(r"^ *\S.* \((\d+)\), \d+ events")
TRACE_ROW = re.compile(r"^ +([a-z_]\w*) +(\d+) +\d+ +[\d.]+ ")
STRACE_ROW = re.compile(r"^ *([a-z_]\w*) +(\d+) *$|^ *(\d+) +([a-z_]\w*) *$")
STAGES = ("copying", "kernel: copying", "allocation", "checksum")


def load(path):
    with open(path, encoding="utf-8") as file:
        return json.load(file)


def watched(directory, op, watch):
    """Yields (process, text) for every file of one pass."""
    prefix = os.path.join(directory, f"{op}.{watch}.")
    for path in sorted(glob.glob(glob.escape(prefix) + "*")):
        process = path[len(prefix):]
        if process not in ("json", "txt"):
            with open(path, encoding="utf-8", errors="replace") as file:
                yield process, file.read()


def syscall_counts(text, counter):
    counts = collections.Counter()
    for line in text.splitlines():
        row = (TRACE_ROW if counter == "perf" else STRACE_ROW).match(line)
        if row:
            name, calls = (row.group(1), row.group(2)) if row.group(1) else (row.group(4), row.group(3))
            if name != "total":
                counts[name] += int(calls)
    return counts


def event_counts(text):
    """perf stat -x, : count,unit,event,..."""
    counts = collections.Counter()
    for line in text.splitlines():
        fields = line.split(",")
        if len(fields) > 3 and fields[0].isdigit():
            name = fields[2]
            key = "allocations" if "alloc" in name else {"sched:sched_wakeup": "wake-ups", "sched:sched_switch": "switches"}.get(name)
            if key:
                counts[key] += int(fields[0])
    return counts


def copy_counts(text):
    """Lines `COUNT bytes=LENGTH`; lengths in hexadecimal with 0x, or decimal."""
    counts = collections.Counter()
    for line in text.splitlines():
        count, _, length = line.strip().partition(" bytes=")
        if count.isdigit() and length:
            counts["copies"] += int(count)
            counts["bytes"] += int(count) * int(length, 0)
    return counts


def undisturbed(directory, op):
    change = load(f"{directory}/{op}.growth.json")
    requests = load(f"{directory}/{op}.plain.json")["requests"] or 1
    processes = {}
    for name, counters in change["processes"].items():
        ticks = counters["user_ns"] + counters["system_ns"]
        processes[name] = {
            "cpu_us": counters["cpu_ns"] / 1e3 / requests,
            "system_share": counters["system_ns"] / ticks if ticks else 0,
            "ready_us": counters["ready_ns"] / 1e3 / requests if "ready_ns" in counters else None,
            "switches": (counters["switches_own"] + counters["switches_forced"]) / requests,
            "disk_written_bytes": counters["disk_written_bytes"] / requests,
            "disk_read_bytes": counters["disk_read_bytes"] / requests,
        }
    return {"loopback_bytes": change["loopback_bytes"] / requests, "processes": processes}


def stage_times(directory, op, budget):
    """Adds µs per request spent copying, allocating and in checksums: shares of the samples of the undisturbed time."""
    path = f"{directory}/{op}.stacks"
    if not os.path.exists(path):
        return
    with open(f"{directory}/{op}.names", encoding="utf-8") as file:
        names = {pid: name for name, pid in proc.parse_processes(file.read().split()).items()}
    seen, total = collections.defaultdict(collections.Counter), collections.Counter()
    with open(path, encoding="utf-8", errors="replace") as file:
        for pid, comm, frames in stacks.read_samples(file):
            process = names.get(pid, comm)
            total[process] += 1
            seen[process][stacks.stage_of(frames)] += 1
    for process, figures in budget["processes"].items():
        if total[process]:
            figures["stage_us"] = {
                stage: figures["cpu_us"] * seen[process][stage] / total[process] for stage in STAGES
            }


def gather(directory, counter, op):
    budget = undisturbed(directory, op)
    stage_times(directory, op, budget)
    watches = {"syscalls": lambda text: syscall_counts(text, counter), "events": event_counts, "copies": copy_counts}
    for watch, count in watches.items():
        result = f"{directory}/{op}.{watch}.json"
        if not os.path.exists(result):
            continue
        requests = load(result)["requests"] or 1
        for process, text in watched(directory, op, watch):
            figures = budget["processes"].setdefault(process, {})
            figures[watch] = {name: calls / requests for name, calls in sorted(count(text).items())}
    budget["qps"] = load(f"{directory}/{op}.plain.json")["qps"]
    return budget


def row(title, processes, value, digits):
    cells = [value(figures) for figures in processes.values()]
    if all(cell is None for cell in cells):
        return
    shown = "".join(f"{'-':>12}" if cell is None else f"{cell:12,.{digits}f}" for cell in cells)
    total = sum(cell for cell in cells if cell is not None)
    print(f"{title:34}{shown}{total:12,.{digits}f}")


def print_budget(op, budget, counter):
    processes = budget["processes"]
    print(f"\nOne 4 KiB {op}, at {budget['qps']:,.0f} a second")
    print(f"{'':34}" + "".join(f"{name:>12}" for name in processes) + f"{'all':>12}")
    row("CPU, µs", processes, lambda figures: figures.get("cpu_us"), 2)
    row("  of it in the kernel, µs", processes, lambda figures: figures["cpu_us"] * figures["system_share"], 2)
    for stage in STAGES:
        row(f"  of it {stage}, µs", processes, lambda figures: figures.get("stage_us", {}).get(stage), 2)
    row("ready, waiting for a CPU, µs", processes, lambda figures: figures.get("ready_us"), 2)
    row("context switches", processes, lambda figures: figures.get("switches"), 3)
    row("wake-ups of another thread", processes, lambda figures: figures.get("events", {}).get("wake-ups"), 3)
    row("allocations", processes, lambda figures: figures.get("events", {}).get("allocations"), 2)
    row("bytes copied, user code", processes, lambda figures: figures.get("copies", {}).get("bytes"), 0)
    row("  in copies of 512 bytes or more", processes, lambda figures: figures.get("copies", {}).get("copies"), 2)
    row("bytes to the disk", processes, lambda figures: figures.get("disk_written_bytes"), 0)
    row("bytes from the disk", processes, lambda figures: figures.get("disk_read_bytes"), 0)
    print(f"{'bytes over loopback, all directions':34}{'':>{12 * len(processes)}}{budget['loopback_bytes']:12,.0f}")
    everything = collections.Counter()
    for figures in processes.values():
        everything.update(figures.get("syscalls", {}))
    print(f"system calls ({'perf trace' if counter == 'perf' else 'strace'}):")
    for name, _ in everything.most_common(14):
        row(f"  {name}", processes, lambda figures: figures.get("syscalls", {}).get(name, 0), 3)
    row("  all", processes, lambda figures: sum(figures.get("syscalls", {}).values()), 3)


def main():
    if len(sys.argv) < 4:
        sys.exit(__doc__)
    directory, counter, ops = sys.argv[1], sys.argv[2], sys.argv[3:]
    budgets = {op: gather(directory, counter, op) for op in ops}
    for op, budget in budgets.items():
        print_budget(op, budget, counter)
    path = os.path.join(directory, "budget.json")
    with open(path, "w", encoding="utf-8") as file:
        json.dump(budgets, file, indent=2)
        file.write("\n")
    print(f"\n{path}")


if __name__ == "__main__":
    main()
