"""What the kernel counts about some processes, from /proc: two snapshots and the difference between them.

usage: proc.py snapshot FILE NAME=PID...
       proc.py delta BEFORE AFTER [REQUESTS_PER_SECOND]
       proc.py around FILE NAME=PID... -- COMMAND...

A snapshot holds, per process, CPU time, time spent waiting for a CPU, context switches, bytes from and to the disk and
memory; and for the machine, bytes over the loopback device. `delta` prints where each process's time went: on a CPU,
ready but waiting for one, or blocked. `around` runs a command and writes the growth of every counter from before it
began until after it ended, the command's own under the name `bench`. Units: ns, bytes, counts.
"""

import json
import os
import sys
import time

TICK_NS = 1_000_000_000 // os.sysconf("SC_CLK_TCK")


def read_text(path):
    with open(path, encoding="ascii", errors="replace") as file:
        return file.read()


def keyed_lines(path):
    """Lines of the form `key: number [unit]`."""
    pairs = {}
    for line in read_text(path).splitlines():
        key, _, value = line.partition(":")
        words = value.split()
        if words and words[0].isdigit():
            pairs[key] = int(words[0])
    return pairs


def thread_counters(pid):
    """Summed over the threads that live now: CPU ns, ns ready to run, context switches of both kinds."""
    totals = {"cpu_ns": 0, "ready_ns": 0, "switches_own": 0, "switches_forced": 0, "threads": 0}
    for tid in os.listdir(f"/proc/{pid}/task"):
        folder = f"/proc/{pid}/task/{tid}"
        try:
            ran, ready, _ = read_text(f"{folder}/schedstat").split()
            status = keyed_lines(f"{folder}/status")
        except (OSError, ValueError):
            continue  # the thread ended, or the kernel keeps no schedstat
        totals["cpu_ns"] += int(ran)
        totals["ready_ns"] += int(ready)
        totals["switches_own"] += status.get("voluntary_ctxt_switches", 0)
        totals["switches_forced"] += status.get("nonvoluntary_ctxt_switches", 0)
        totals["threads"] += 1
    return totals


def process_counters(pid):
    counters = thread_counters(pid)
    # Fields after the command name, which may hold spaces: user and system time are the 12th and 13th.
    fields = read_text(f"/proc/{pid}/stat").rpartition(")")[2].split()
    counters["user_ns"] = int(fields[11]) * TICK_NS
    counters["system_ns"] = int(fields[12]) * TICK_NS
    try:
        io = keyed_lines(f"/proc/{pid}/io")
    except OSError:
        io = {}
    counters["disk_read_bytes"] = io.get("read_bytes", 0)
    counters["disk_written_bytes"] = io.get("write_bytes", 0)
    counters["resident_bytes"] = keyed_lines(f"/proc/{pid}/status").get("VmRSS", 0) * 1024
    return counters


def loopback_bytes():
    for line in read_text("/proc/net/dev").splitlines():
        name, _, numbers = line.partition(":")
        if name.strip() == "lo":
            return int(numbers.split()[8])
    return 0


def snapshot(processes):
    taken = {"at_ns": time.monotonic_ns(), "loopback_bytes": loopback_bytes(), "processes": {}}
    for name, pid in processes.items():
        taken["processes"][name] = process_counters(pid)
    return taken


def delta(before, after):
    """Per process the growth of every counter; memory is no counter and stays as it is."""
    processes = {}
    for name, counters in after["processes"].items():
        earlier = before["processes"].get(name, {})
        processes[name] = {
            key: value if key in ("threads", "resident_bytes") else value - earlier.get(key, 0)
            for key, value in counters.items()
        }
    return {
        "seconds": (after["at_ns"] - before["at_ns"]) / 1e9,
        "loopback_bytes": after["loopback_bytes"] - before["loopback_bytes"],
        "processes": processes,
    }


def around(processes, command):
    """The command's own counters come from the kernel when it has ended; it does not say how long it was ready."""
    before = snapshot(processes)
    child = os.spawnvp(os.P_NOWAIT, command[0], command)
    _, status, usage = os.wait4(child, 0)
    change = delta(before, snapshot(processes))
    change["processes"]["bench"] = {
        "cpu_ns": int((usage.ru_utime + usage.ru_stime) * 1e9),
        "user_ns": int(usage.ru_utime * 1e9),
        "system_ns": int(usage.ru_stime * 1e9),
        "switches_own": usage.ru_nvcsw,
        "switches_forced": usage.ru_nivcsw,
        "disk_read_bytes": usage.ru_inblock * 512,
        "disk_written_bytes": usage.ru_oublock * 512,
    }
    return change, os.waitstatus_to_exitcode(status)


def print_delta(change, requests_per_second):
    seconds = change["seconds"]
    requests = requests_per_second * seconds
    print(f"{'process':12} {'threads':>7} {'CPU s':>7} {'ready s':>8} {'blocked s':>9} {'switches/s':>11} {'forced/s':>9}"
          f" {'RSS MiB':>8}" + (f" {'CPU µs/req':>11} {'switches/req':>13}" if requests else ""))
    for name, counters in change["processes"].items():
        running, ready = counters["cpu_ns"] / 1e9, counters["ready_ns"] / 1e9
        blocked = max(0.0, counters["threads"] * seconds - running - ready)
        switches = counters["switches_own"] + counters["switches_forced"]
        line = (f"{name:12} {counters['threads']:7} {running:7.2f} {ready:8.2f} {blocked:9.2f}"
                f" {switches / seconds:11,.0f} {counters['switches_forced'] / seconds:9,.0f}"
                f" {counters['resident_bytes'] / 2**20:8.0f}")
        if requests:
            line += f" {running * 1e6 / requests:11.1f} {switches / requests:13.3f}"
        print(line)
    print("ready: could have run, but another thread had the CPU; blocked: waiting for I/O, a message or a timer,")
    print("summed over the threads, idle ones included")


def parse_processes(words):
    return {name: int(pid) for name, _, pid in (word.partition("=") for word in words)}


def main():
    if len(sys.argv) >= 4 and sys.argv[1] == "snapshot":
        with open(sys.argv[2], "w", encoding="utf-8") as file:
            json.dump(snapshot(parse_processes(sys.argv[3:])), file)
    elif len(sys.argv) in (4, 5) and sys.argv[1] == "delta":
        before, after = (json.loads(read_text(path)) for path in sys.argv[2:4])
        print_delta(delta(before, after), float(sys.argv[4]) if len(sys.argv) == 5 else 0)
    elif len(sys.argv) >= 5 and sys.argv[1] == "around" and "--" in sys.argv:
        split = sys.argv.index("--")
        change, code = around(parse_processes(sys.argv[3:split]), sys.argv[split + 1:])
        with open(sys.argv[2], "w", encoding="utf-8") as file:
            json.dump(change, file)
        sys.exit(code if code >= 0 else 128 - code)
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    main()
