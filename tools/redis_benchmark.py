"""Rounds of redis-benchmark at RingKV and at real Redis servers, medians, a table and JSON. See tools/redis-benchmark."""

import argparse
import csv
import io
import json
import platform
import statistics
import subprocess
import sys
import time

from redis_reference import Raw, Redis, RedisCluster

WORKLOADS = {"3 bytes": [], "4096 bytes": ["-d", "4096"], "3 bytes, pipeline of 16": ["-P", "16"]}
ALWAYS = ("--appendonly", "yes", "--appendfsync", "always")
# What redis-benchmark prints when something is wrong, with its exit code 0 all the same.
COMPLAINTS = ("error", "ERR ", "MOVED", "WARN", "refused", "closed", "could not")
ROUND_SECONDS_MAX = 600


def run(address, options, cluster):
    """Requests per second and latencies of one run, by operation."""
    command = ["redis-benchmark", "-h", address[0], "-p", str(address[1]), "-t", "set,get", "--csv", *options]
    if cluster:
        command.append("--cluster")
    done = subprocess.run(command, capture_output=True, text=True, timeout=ROUND_SECONDS_MAX, check=False)
    said = done.stdout + done.stderr
    rows = [line for line in done.stdout.splitlines() if line.startswith('"')]
    others = [line for line in said.splitlines() if not line.startswith('"')]
    wrong = [line for line in others if any(complaint.lower() in line.lower() for complaint in COMPLAINTS)]
    results = {row["test"]: row for row in csv.DictReader(io.StringIO("\n".join(rows)))}
    if done.returncode or wrong or set(results) != {"SET", "GET"}:
        raise SystemExit(f"FAILED: {' '.join(command)}: exit {done.returncode}\n{said[-3000:]}")
    return {name: {key: float(value) for key, value in row.items() if key != "test"} for name, row in results.items()}


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
            arguments = ["-n", str(options.requests), "-c", str(options.clients), *more]
            if options.keys:
                arguments += ["-r", str(options.keys)]
            for name, (address, cluster) in targets.items():
                with Raw(address) as raw:
                    raw.call(b"FLUSHALL")
                result = run(address, arguments, cluster)
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
    print(f"{'':32}" + "".join(f"{name:>24}" for name in names))
    print(f"{'requests/s (p50 / p99 ms)':32}")
    for workload in WORKLOADS:
        for operation in ("SET", "GET"):
            cells = []
            for name in names:
                row = next(row for row in table if (row["workload"], row["operation"], row["server"]) == (workload, operation, name))
                cells.append(f"{row['rps']:.0f} ({row['p50_latency_ms']:.2f} / {row['p99_latency_ms']:.2f})")
            print(f"{operation + ' ' + workload:32}" + "".join(f"{cell:>24}" for cell in cells))
    ratios = {}
    for row in table:
        if row["server"] == "ringkv cluster":
            plain = next(other for other in table if other["server"] == "ringkv plain" and
                         (other["workload"], other["operation"]) == (row["workload"], row["operation"]))
            ratios[f"{row['operation']} {row['workload']}"] = row["rps"] / plain["rps"]
    print("cluster port : plain port   " + ", ".join(f"{name} {ratio:.2f}" for name, ratio in ratios.items()))
    return ratios


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--plain", required=True)
    parser.add_argument("--cluster", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--rounds", type=int, required=True)
    parser.add_argument("--requests", type=int, required=True)
    parser.add_argument("--clients", type=int, required=True)
    parser.add_argument("--keys", type=int, default=0)
    options = parser.parse_args()

    def address(text):
        host, port = text.rsplit(":", 1)
        return host, int(port)

    with Redis() as default, Redis(*ALWAYS) as always, RedisCluster(*ALWAYS) as cluster:
        targets = {
            "ringkv plain": (address(options.plain), False),
            "ringkv cluster": (address(options.cluster), True),
            "redis, fsync always": (always.address, False),
            "redis cluster, always": (cluster.addresses[0], True),
            "redis, default": (default.address, False),
        }
        table = medians(measure(targets, options))
    ratios = show(table)
    with open(options.out, "w", encoding="utf-8") as file:
        json.dump({"time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "machine": platform.platform(),
                   "requests": options.requests, "clients": options.clients, "keys": options.keys, "results": table,
                   "cluster_to_plain": ratios}, file, indent=1)
        file.write("\n")


if __name__ == "__main__":
    main()
