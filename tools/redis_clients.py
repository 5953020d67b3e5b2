#!/usr/bin/env python3
"""Drives RingKV with redis-py, redis-py's cluster client and coredis, and compares with a real Redis and Redis Cluster.

usage: redis_clients.py --plain HOST:PORT[,...] --cluster HOST:PORT[,...] [--control WORDS | --control-pipe]
                        [--only redis-py|coredis]

Every supported command is called through both kinds of client, in both versions of the protocol, pipelined and in
transactions. Then, with a way to end and start nodes, counters are counted up while a node dies and returns: no
increment that was acknowledged may be lost, and nothing but errors that ask for another try may be seen.
  --control WORDS  a command to which `kill I` or `restart I` is appended, such as "tools/cluster"
  --control-pipe   instead, `kill I` and `restart I` are printed, and a line is read when it has been done
Without addresses the clients meet the real servers alone: what is compared then is the test with itself.
Needs the packages that tools/redis-clients installs. Exit 0 only when nothing differed.
"""

import argparse
import shlex
import subprocess
import sys
import time

import redis
from redis.cluster import ClusterNode, RedisCluster
from redis.retry import Retry
from redis.backoff import NoBackoff

import redis_clients_steps as steps
from redis_reference import Redis as RealRedis, RedisCluster as RealCluster
from redis_supported import SUPPORTED

COUNTERS = 40
CHANGE_SECONDS = 14
KILL_AFTER_SECONDS = 2
RESTART_AFTER_SECONDS = 8
# No counter may be stuck for longer than this.
PATIENCE_SECONDS = 30
# INDETERMINATE is what a lost connection would say: done or not, and so it counts as an attempt.
TRY_AGAIN = ("TRYAGAIN", "CLUSTERDOWN", "LOADING", "MASTERDOWN", "READONLY", "UNBLOCKED", "INDETERMINATE")


def addresses(text):
    return [(host, int(port)) for host, port in (part.rsplit(":", 1) for part in text.split(","))]


class Control:
    """Ends and starts nodes, counted from 1."""

    def __init__(self, options):
        self.words = shlex.split(options.control) if options.control else None
        self.pipe = options.control_pipe

    def __bool__(self):
        return bool(self.words or self.pipe)

    def do(self, what, node):
        if self.pipe:
            print(what, node, flush=True)
            if sys.stdin.readline().strip() != "done":
                raise SystemExit("nobody ends nodes")
            return
        subprocess.run([*self.words, what, str(node)], check=True, stdout=sys.stderr)


class RealControl:
    """The same for the real cluster."""

    def __init__(self, cluster):
        self.cluster = cluster

    def __bool__(self):
        return True

    def do(self, what, node):
        node = self.cluster.nodes[node - 1]
        if what == "kill":
            time.sleep(0.5)  # Its replicas follow a little behind; the test is not about what Redis loses.
            node.kill()
        else:
            node.start()


def plain_client(address, version, namespace=0):
    return redis.Redis(*address, protocol=version, db=namespace, socket_timeout=20)


def cluster_client(nodes, version):
    return RedisCluster(startup_nodes=[ClusterNode(*address) for address in nodes], protocol=version, socket_timeout=20)


class Differences:
    def __init__(self):
        self.count = 0

    def compare(self, title, expected, got):
        """Lists of (what, outcome) of the real server and of RingKV."""
        found = 0
        for one, other in zip(expected, got):
            if one != other:
                found += 1
                print(f"DIFFERENCE ({title}): {one[0]}\n  redis:  {str(one[1])[:600]}\n  ringkv: {str(other[1])[:600]}")
        if len(expected) != len(got):
            found += 1
            print(f"DIFFERENCE ({title}): {len(expected)} outcomes and {len(got)}")
        self.count += found
        say(f"{title}: {len(expected)} calls compared, {found} differences")
        for what, outcome in expected:
            if outcome is False and what.startswith("check: "):
                raise SystemExit(f"the test is wrong: {what} fails at the real Redis ({title})")


def say(text):
    print(f"redis_clients: {text}", file=sys.stderr, flush=True)


def retriable(error):
    if isinstance(error, (redis.ConnectionError, redis.TimeoutError)):
        return True
    return isinstance(error, redis.ResponseError) and str(error).startswith(TRY_AGAIN) or isinstance(
        error, (redis.exceptions.ClusterDownError, redis.exceptions.TryAgainError))


def leader_change(title, client, control, node, differences):
    """Counts while a node dies and returns."""
    names = [f"counter:{number}" for number in range(COUNTERS)]
    client.delete(*names)
    acknowledged, attempts, errors = dict.fromkeys(names, 0), dict.fromkeys(names, 0), {}
    began = time.monotonic()
    killed = restarted = False
    while time.monotonic() - began < CHANGE_SECONDS:
        elapsed = time.monotonic() - began
        if not killed and elapsed > KILL_AFTER_SECONDS:
            control.do("kill", node)
            killed = True
        if not restarted and elapsed > RESTART_AFTER_SECONDS:
            control.do("restart", node)
            restarted = True
        for name in names:
            deadline = time.monotonic() + PATIENCE_SECONDS
            while True:
                attempts[name] += 1
                try:
                    count = client.incr(name)
                    if not acknowledged[name] < count <= attempts[name]:
                        differences.count += 1
                        print(f"DIFFERENCE ({title}): {name} is {count} after {acknowledged[name]} acknowledged, "
                              f"{attempts[name]} tried")
                    acknowledged[name] = count
                    break
                except redis.RedisError as error:
                    kind = f"{type(error).__name__}: {str(error)[:60]}"
                    errors[kind] = errors.get(kind, 0) + 1
                    if not retriable(error) or time.monotonic() > deadline:
                        differences.count += 1
                        print(f"DIFFERENCE ({title}): not an error to try again on, or for too long: {kind}")
                        return
                    time.sleep(0.05)
    for name in names:
        value = int(client.get(name))
        if not acknowledged[name] <= value <= attempts[name]:
            differences.count += 1
            print(f"DIFFERENCE ({title}): {name} ended as {value}, {acknowledged[name]} acknowledged, {attempts[name]} tried")
    say(f"{title}: a node died and returned; {sum(acknowledged.values())} increments, errors to try again on: {errors or 'none'}")


def check_coverage(servers):
    """Were all supported commands called? The real servers counted."""
    called = {"quit"}  # Counted by no Redis of this version.
    for address in servers:
        with redis.Redis(*address) as client:
            called |= {name.removeprefix("cmdstat_") for name in client.info("commandstats")}
    wanted = {name.lower().replace(" ", "|") for name in SUPPORTED}
    missing = sorted(name for name in wanted if name not in called)
    if missing:
        raise SystemExit(f"the test calls not all supported commands: {missing}")


def compare_redis_py(differences, real, real_cluster, options, control):
    plain, cluster = options.plain or [real.address], options.cluster or real_cluster.addresses
    for version in (2, 3):
        for title, run, one, other in (
                ("redis-py", steps.plain, plain_client(real.address, version), plain_client(plain[0], version)),
                ("redis-py cluster", steps.cluster, cluster_client(real_cluster.addresses, version), cluster_client(cluster, version))):
            outcomes = []
            for client in (one, other):
                client.flushall()
                outcomes.append(run(client))
                client.close()
            differences.compare(f"{title}, RESP{version}", *outcomes)
        pairs = [steps.namespaces(lambda number, at=address: plain_client(at, version, number))
                 for address in (real.address, plain[0])]
        differences.compare(f"redis-py namespaces, RESP{version}", *pairs)
    check_coverage([real.address, *real_cluster.addresses])
    if not control:
        return
    if options.plain:
        client = redis.Redis(*plain[0], socket_timeout=20, retry=Retry(NoBackoff(), 0))
        leader_change("redis-py", client, control, 2, differences)
    leader_change("redis-py cluster", cluster_client(cluster, 3), control, 2 if options.plain else 1, differences)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plain", type=addresses)
    parser.add_argument("--cluster", type=addresses)
    parser.add_argument("--control")
    parser.add_argument("--control-pipe", action="store_true")
    parser.add_argument("--only", choices=["redis-py", "coredis"])
    options = parser.parse_args()
    if bool(options.plain) != bool(options.cluster):
        parser.error("--plain and --cluster go together")
    differences = Differences()
    debug = ("--enable-debug-command", "yes")
    with RealRedis(*debug) as real, RealCluster(*debug, replicas=0 if options.plain else 1) as real_cluster:
        control = Control(options) if options.plain else RealControl(real_cluster)
        if options.only != "coredis":
            compare_redis_py(differences, real, real_cluster, options, control)
        if options.only != "redis-py":
            import redis_clients_coredis
            redis_clients_coredis.compare(differences, real, real_cluster, options, control, say)
    say(f"{differences.count} differences")
    sys.exit(1 if differences.count else 0)


if __name__ == "__main__":
    main()
