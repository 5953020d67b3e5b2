"""Loses nodes of a cluster on this machine and measures what that costs; called by tools/recovery, which see."""

import argparse
import atexit
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

LOST = 3
GIVE_UP_S = 300
# Seconds of the load that are kept out of the rate before: connections and caches warm up.
WARM_UP_S = 3
# Seconds of the load after the recovery, so that its end does not fall into the time measured.
AFTER_S = 3


def run(*words, check=True):
    return subprocess.run(words, check=check, stdout=subprocess.PIPE, text=True).stdout


class Cluster:
    def __init__(self, options, nodes, *more):
        self.options = options
        self.dir = os.environ["RINGKV_CLUSTER_DIR"]
        self.nodes = nodes
        self.tool("start", "--fresh", "--nodes", str(nodes), *more)
        self.endpoints = self.tool("endpoints").strip()

    def tool(self, *words):
        return run(self.options.cluster, *words)

    def stop(self):
        self.tool("stop")

    def data(self, node):
        return os.path.join(self.dir, f"node-{node}", "data")

    def log(self, node):
        with open(os.path.join(self.dir, f"node-{node}", "log"), encoding="utf-8", errors="replace") as file:
            return file.read()

    def groups(self):
        """All shards as their leaders see them; none while a shard has no leader."""
        words = ["admin", "describe", "--endpoints", self.endpoints, "--output", "json", "--timeout", "5"]
        done = subprocess.run([self.options.ringkv, *words], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        groups = json.loads(done.stdout) if done.stdout else []
        return [] if any("error" in group for group in groups) else groups

    def shards_of(self, node):
        """The replicas a node says it has."""
        text = run(self.options.ringkv, "status", "--endpoints", self.endpoints, "--output", "json", check=False)
        found = [entry for entry in json.loads(text)["nodes"] if entry["id"] == node and entry["up"]]
        return [shard for entry in found for core in entry["status"]["cores"] for shard in core["shards"]]

    def admin(self, *words):
        """Asks again while it is refused: a group makes one change at a time, and may be at one of its own."""
        words = [self.options.ringkv, "admin", *words, "--wait", "--timeout", "120", "--endpoints", self.endpoints]
        wait(" ".join(words[1:4]), lambda: subprocess.run(words, stdout=subprocess.DEVNULL).returncode == 0)


class Load:
    """Writes in the background."""

    def __init__(self, options, cluster, name):
        self.json = os.path.join(options.out, f"{name}.json")
        words = [options.bench, "write", "--endpoints", cluster.endpoints, "--value-size", "4096", "--warmup", "0"]
        words += ["--clients", str(options.clients), "--pipeline", str(options.pipeline), "--keys", str(options.keys)]
        words += ["--seconds", "3600", "--timeout-ms", "20000", "--json", self.json]
        with open(os.path.join(options.out, f"{name}.txt"), "w", encoding="utf-8") as text:
            self.process = subprocess.Popen(words, stdout=text, stderr=text)
        self.started = time.monotonic()
        # Whatever happens, it does not outlive this script.
        atexit.register(self.process.kill)

    def now(self):
        return time.monotonic() - self.started

    def end(self):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait()
        with open(self.json, encoding="utf-8") as file:
            self.report = json.load(file)

    def rate(self, begin, end):
        """Writes per second over the whole seconds between."""
        rows = [row for row in self.report["series"] if row["second"] >= begin and row["second"] + 1 <= end]
        rows = rows or [row for row in self.report["series"] if row["second"] <= begin < row["second"] + 1]
        return sum(row["requests"] - row["errors"] for row in rows) / max(len(rows), 1)


def wait(what, look):
    deadline = time.monotonic() + GIVE_UP_S
    while not look():
        if time.monotonic() > deadline:
            sys.exit(f"recovery: waited {GIVE_UP_S} s for {what}, in vain")
        time.sleep(0.1)


def bytes_below(path):
    total = 0
    for folder, _, names in os.walk(path):
        for name in names:
            try:
                total += os.stat(os.path.join(folder, name)).st_blocks * 512
            except FileNotFoundError:
                pass
    return total


def is_back(group):
    """Whether the node that was lost votes again under a new name, and lacks hardly anything."""
    own = [member for member in group["members"] if member["node"] == LOST]
    return not group["joint"] and len(own) == 1 and own[0]["role"] == "voter" and own[0]["raft_id"] != str(LOST)


def wipe(options):
    cluster = Cluster(options, 3)
    load = Load(options, cluster, "wipe")
    time.sleep(options.seconds)
    lost_at = load.now()
    cluster.tool("kill", str(LOST))
    shutil.rmtree(cluster.data(LOST))
    cluster.tool("restart", str(LOST))
    wait("node 3 to be back", lambda: (groups := cluster.groups()) and all(map(is_back, groups)))
    back_at = load.now()
    time.sleep(AFTER_S)
    load.end()
    received = [int(size) for size in re.findall(r"received a snapshot.*? bytes=(\d+)", cluster.log(LOST))]
    before, during = load.rate(WARM_UP_S, lost_at), load.rate(lost_at, back_at)
    cluster.stop()
    return {
        "writes_per_s_before": before,
        "writes_per_s_while_recovering": during,
        "ratio": during / before,
        "seconds": back_at - lost_at,
        "snapshots": len(received),
        "snapshot_bytes": sum(received),
        "requests": load.report["requests"],
        "failed_requests": load.report["errors"],
    }


def replace(options):
    cluster = Cluster(options, 4, "--replicas", "3")
    load = Load(options, cluster, "replace")
    time.sleep(options.seconds)
    begun_at = load.now()
    moved = 0
    for group in sorted(cluster.groups(), key=lambda group: group["shard"]):
        homes = {member["node"] for member in group["members"]}
        if LOST not in homes:
            continue
        shard = str(group["shard"])
        joins = min(set(range(1, 5)) - homes)
        cluster.admin("add-replica", "--shard", shard, "--node", str(joins))
        cluster.admin("remove-replica", "--shard", shard, "--node", str(LOST))
        moved += 1
    wait("node 3 to have no replicas", lambda: not cluster.shards_of(LOST))
    ended_at = load.now()
    cluster.tool("kill", str(LOST))
    time.sleep(AFTER_S)
    load.end()
    before, during = load.rate(WARM_UP_S, begun_at), load.rate(begun_at, ended_at)
    cluster.stop()
    return {
        "writes_per_s_before": before,
        "writes_per_s_while_replacing": during,
        "ratio": during / before,
        "seconds": ended_at - begun_at,
        "shards_moved": moved,
        "requests": load.report["requests"],
        "failed_requests": load.report["errors"],
    }


def restart(options):
    cluster = Cluster(options, 3)
    load = Load(options, cluster, "restart")
    time.sleep(options.seconds)
    load.end()
    wait("node 3 to tell of itself", lambda: cluster.shards_of(LOST))
    shards = cluster.shards_of(LOST)
    unflushed = sum(shard["last_index"] - shard["applied_durable"] for shard in shards)
    data = bytes_below(os.path.join(cluster.data(LOST)))
    log = sum(bytes_below(os.path.join(folder, "wal")) for folder, _, _ in os.walk(cluster.data(LOST)))
    cluster.tool("kill", str(LOST))
    before = len(cluster.log(LOST))
    begun = time.monotonic()
    cluster.tool("restart", str(LOST))
    told = re.search(r"serving .*?seconds=([0-9.]+)", cluster.log(LOST)[before:])
    goal = {shard["shard"]: shard["last_index"] for shard in shards}

    def caught_up():
        now = {shard["shard"]: shard["applied"] for shard in cluster.shards_of(LOST)}
        return all(now.get(shard, 0) >= index for shard, index in goal.items())

    wait("node 3 to catch up", caught_up)
    caught_up_s = time.monotonic() - begun
    cluster.stop()
    return {
        "writes": load.report["requests"] - load.report["errors"],
        "failed_requests": load.report["errors"],
        "data_bytes": data - log,
        "log_bytes": log,
        "entries_since_the_last_flush": unflushed,
        "bytes_since_the_last_flush": unflushed * 4096,
        "seconds_to_serving": float(told.group(1)) if told else None,
        "seconds_to_caught_up": caught_up_s,
    }


def shown(name, value):
    if value is None:
        return "unknown"
    if name.endswith("bytes") or "bytes_" in name:
        return f"{value / 1e6:,.1f} MB"
    if isinstance(value, float):
        return f"{value:,.2f}" if value < 100 else f"{value:,.0f}"
    return f"{value:,}"


def main():
    parser = argparse.ArgumentParser()
    for name in ("ringkv", "bench", "cluster", "out"):
        parser.add_argument(f"--{name}", required=True)
    for name in ("seconds", "keys", "clients", "pipeline"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("parts", nargs="+")
    options = parser.parse_args()
    parts = {"wipe": wipe, "replace": replace, "restart": restart}
    report = {}
    for part in options.parts:
        report[part] = parts[part](options)
        print(part)
        for name, value in report[part].items():
            print(f"  {name.replace('_', ' '):<32}{shown(name, value):>16}")
        with open(os.path.join(options.out, "recovery.json"), "w", encoding="utf-8") as file:
            json.dump(report, file, indent=2)
            file.write("\n")
    failed = sum(result["failed_requests"] for result in report.values())
    if failed:
        sys.exit(f"recovery: {failed} requests failed")


main()
