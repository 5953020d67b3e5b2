"""Joins the load generator's JSON files of one run into report.json and prints them as a table.

usage: report.py DIR     DIR holds write.json and read.json
"""

import json
import os
import platform
import sys


def cpu_model():
    with open("/proc/cpuinfo", encoding="ascii", errors="replace") as file:
        for line in file:
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.machine()


def milliseconds(microseconds):
    return f"{microseconds / 1000:.1f}"


def row(result):
    latency = result["latency_us"]
    figures = [milliseconds(latency[name]) for name in ("p50", "p90", "p99", "p999", "max")]
    return [
        result["op"],
        f"{result['requests']:,}",
        f"{result['errors']:,}",
        f"{result['qps']:,.0f}",
        f"{result['mb_per_s']:,.1f}",
        *figures,
    ]


def print_table(rows):
    head = ["", "requests", "errors", "req/s", "MB/s", "P50 ms", "P90 ms", "P99 ms", "P99.9 ms", "max ms"]
    table = [head, *rows]
    widths = [max(len(line[column]) for line in table) for column in range(len(head))]
    for line in table:
        print("  ".join(cell.rjust(width) for cell, width in zip(line, widths)))


def main():
    directory = sys.argv[1]
    report = {}
    for op in ("write", "read"):
        path = os.path.join(directory, f"{op}.json")
        if os.path.exists(path):
            with open(path, encoding="utf-8") as file:
                report[op] = json.load(file)
    if len(report) < 2:
        sys.exit(f"report: a measurement is missing in {directory}: the load generator did not finish")
    path = os.path.join(directory, "report.json")
    with open(path, "w", encoding="utf-8") as file:
        json.dump(report, file, indent=2)
        file.write("\n")
    print(f"three nodes and the load generator on {os.cpu_count()} CPUs ({cpu_model()}), Linux {platform.release()};")
    print("4 KiB values; a write is answered when a majority has it on disk, reads are linearizable")
    print_table([row(result) for result in report.values()])
    print(f"report: {path}")


if __name__ == "__main__":
    main()
