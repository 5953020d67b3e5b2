"""Rounds of redis-benchmark at RingKV and at real Redis servers, medians, a table and JSON. See tools/redis-benchmark.

With --cluster redis-benchmark runs a thread per node, and these look whether they are done every 250 ms: a run is measured
up to so much too long. So runs must last seconds, pipelined ones have more requests.
"""

import argparse
import csv
import io
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time

from redis_reference import Raw, Redis, RedisCluster

WORKLOADS = {"3 bytes": [], "4096 bytes": ["-d", "4096"], "3 bytes, pipeline of 16": ["-P", "16"]}
ALWAYS = ("--appendonly", "yes", "--appendfsync", "always")
# What redis-benchmark prints when something is wrong, with its exit code 0 all the same.
COMPLAINTS = ("error", "ERR ", "MOVED", "WARN", "refused", "closed", "could not")
# What --cluster brings, at RingKV and at Redis.
PAIRS = {"ringkv cluster": "ringkv plain", "redis cluster, always": "redis, fsync always", "redis cluster, default": "redis, default"}
ROUND_SECONDS_MAX = 600
PIPELINED_FACTOR = 10
TICKS = os.sysconf("SC_CLK_TCK")


def cpu_of_generators():
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def cpu_of(pids):
    """Seconds of CPU that processes have used: fields 14 and 15 of proc(5) stat."""
    total = 0
    for pid in pids:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as stat:
            fields = stat.read().rsplit(")", 1)[1].split()
        total += int(fields[11]) + int(fields[12])
    return total / TICKS


def run(target, operation, requests, options):
    """Requests per second, latencies and CPU of one run."""
    address, cluster, pids = target
    command = ["redis-benchmark", "-h", address[0], "-p", str(address[1]), "-t", operation.lower(), "--csv",
               "-n", str(requests), *options]
    if cluster:
        command.append("--cluster")
    before = cpu_of_generators(), cpu_of(pids)
    done = subprocess.run(command, capture_output=True, text=True, timeout=ROUND_SECONDS_MAX, check=False)
    said = done.stdout + done.stderr
    rows = [line for line in done.stdout.splitlines() if line.startswith('"')]
    others = [line for line in said.splitlines() if not line.startswith('"')]
    wrong = [line for line in others if any(complaint.lower() in line.lower() for complaint in COMPLAINTS)]
    results = {row["test"]: row for row in csv.DictReader(io.StringIO("\n".join(rows)))}
    if done.returncode or wrong or set(results) != {operation}:
        raise SystemExit(f"FAILED: {' '.join(command)}: exit {done.returncode}\n{said[-3000:]}")
    figures = {key: float(value) for key, value in results[operation].items() if key != "test"}
    figures["client_cpu_us"] = (cpu_of_generators() - before[0]) / requests * 1e6
    figures["server_cpu_us"] = (cpu_of(pids) - before[1]) / requests * 1e6
    return figures


def stored(address, size):
    """Is there a value of the right size? A benchmark can be quick because it does nothing."""
    with Raw(address) as raw:
        reply = raw.call(b"STRLEN", b"key:__rand_int__")
    if reply.raw != b":%d\r\n" % size:
        raise SystemExit(f"the benchmark has not stored what it should have: {reply}")


def measure(targets, options):
    runs = {}
    for number in range(options.rounds):
        for workload, more in WORKLOADS.items():
            arguments = ["-c", str(options.clients), *more]
            if options.keys:
                arguments += ["-r", str(options.keys)]
            requests = options.requests * (PIPELINED_FACTOR if "-P" in more else 1)
            for name, target in targets.items():
                address, cluster, _ = target
                with Raw(address) as raw:
                    raw.call(b"FLUSHALL")
                result = {operation: run(target, operation, requests, arguments) for operation in ("SET", "GET")}
                if not cluster and not options.keys:
                    stored(address, 4096 if "-d" in more else 3)
                for operation, figures in result.items():
                    runs.setdefault((workload, operation, name), []).append(figures)
                print(f"round {number + 1}: {name}, {workload}: " + ", ".join(
                    f"{operation} {figures['rps']:.0f}/s" for operation, figures in result.items()), file=sys.stderr, flush=True)
    return runs


def medians(runs):
    table = []
    for (workload, operation, name), rounds in runs.items():
        row = {"workload": workload, "operation": operation, "server": name, "rounds": len(rounds)}
        for key in rounds[0]:
            row[key] = statistics.median(figures[key] for figures in rounds)
        row["rps_of_rounds"] = [figures["rps"] for figures in rounds]
        table.append(row)
    return table


def show(table):
    names = list(dict.fromkeys(row["server"] for row in table))
    print(f"{'':32}" + "".join(f"{name:>36}" for name in names))
    print("requests/s (p50 / p99 ms) client + server CPU in µs per request")
    for workload in WORKLOADS:
        for operation in ("SET", "GET"):
            cells = []
            for name in names:
                row = next(row for row in table if (row["workload"], row["operation"], row["server"]) == (workload, operation, name))
                cells.append(f"{row['rps']:.0f} ({row['p50_latency_ms']:.2f} / {row['p99_latency_ms']:.2f}) "
                             f"{row['client_cpu_us']:.1f} + {row['server_cpu_us']:.1f}")
            print(f"{operation + ' ' + workload:32}" + "".join(f"{cell:>36}" for cell in cells))
    ratios = {}
    for row in table:
        if row["server"] in PAIRS:
            single = next(other for other in table if other["server"] == PAIRS[row["server"]] and
                          (other["workload"], other["operation"]) == (row["workload"], row["operation"]))
            of_server = ratios.setdefault(f"{row['server']} : {single['server']}", {})
            of_server[f"{row['operation']} {row['workload']}"] = row["rps"] / single["rps"]
    for pair, of_pair in ratios.items():
        print(f"{pair:46}" + ", ".join(f"{name} {ratio:.2f}" for name, ratio in of_pair.items()))
    return ratios


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--plain", required=True)
    parser.add_argument("--cluster", required=True)
    parser.add_argument("--pids", required=True, help="of the nodes, with commas")
    parser.add_argument("--out", required=True)
    parser.add_argument("--rounds", type=int, required=True)
    parser.add_argument("--requests", type=int, required=True)
    parser.add_argument("--clients", type=int, required=True)
    parser.add_argument("--keys", type=int, default=0)
    options = parser.parse_args()

    def address(text):
        host, port = text.rsplit(":", 1)
        return host, int(port)

    nodes = [int(pid) for pid in options.pids.split(",")]
    pids = lambda cluster: [node.process.pid for node in cluster.nodes]
    with Redis() as default, RedisCluster() as spread, Redis(*ALWAYS) as always, RedisCluster(*ALWAYS) as cluster:
        targets = {
            "ringkv plain": (address(options.plain), False, nodes),
            "ringkv cluster": (address(options.cluster), True, nodes),
            "redis, fsync always": (always.address, False, [always.process.pid]),
            "redis cluster, always": (cluster.addresses[0], True, pids(cluster)),
            "redis, default": (default.address, False, [default.process.pid]),
            "redis cluster, default": (spread.addresses[0], True, pids(spread)),
        }
        table = medians(measure(targets, options))
    ratios = show(table)
    with open(options.out, "w", encoding="utf-8") as file:
        json.dump({"time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "machine": platform.platform(),
                   "requests": options.requests, "clients": options.clients, "keys": options.keys, "results": table,
                   "cluster_to_single": ratios}, file, indent=1)
        file.write("\n")


if __name__ == "__main__":
    main()
