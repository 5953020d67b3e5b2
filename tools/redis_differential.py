#!/usr/bin/env python3
"""Drives the same random commands at RingKV and at a real Redis and compares every answer, byte for byte.

usage: redis_differential.py --subject HOST:PORT [--seed N] [--commands N] [--only EPISODE]

Commands come in episodes of their own seed, each on an empty keyspace: one by one or pipelined, RESP2 or RESP3, with
transactions in between; the whole keyspace is compared after each. Then come fixed scripts: expiry, scans, dumps,
handshakes, and bytes that are no protocol. A difference is shrunk to the commands it needs and printed; exit 1.

What must differ is listed in `ALLOWED`; everything else has to be the same to the byte.
"""

import argparse
import random
import sys
import time

from redis_commands import TAGS, Commands
from redis_reference import Raw, Redis

EPISODE_COMMANDS = 500
CLOCK_SLACK_MS = 5000
DIFFERENCES_MAX = 25
# Expired keys may lie around, and count, for so long.
EXPIRED_SECONDS = 10


def same_order_aside(_, one, other):
    return one.kind == other.kind and sorted(map(repr, one.value)) == sorted(map(repr, other.value))


def same_kind(_, one, other):
    return one.kind == other.kind and (one.value is None) == (other.value is None)


def same_time(command, one, other):
    if one.kind != b":" or other.kind != b":":
        return one.raw == other.raw
    slack = CLOCK_SLACK_MS if command[0].upper().startswith(b"P") else CLOCK_SLACK_MS // 1000
    if min(one.value, other.value) < 0:
        return one.value == other.value
    return abs(one.value - other.value) <= slack


def same_idle(command, one, other):
    if command[1:2] and command[1].upper() == b"IDLETIME" and one.kind == other.kind == b":":
        return True
    return one.raw == other.raw


# Commands whose answers may differ, why, and what must be the same nevertheless.
ALLOWED = {
    b"KEYS": same_order_aside,  # the order of keys is nobody's promise
    b"RANDOMKEY": same_kind,  # random
    b"DBSIZE": same_kind,  # keys that have expired count until they are removed; exact in counts_differ
    b"TTL": same_time,  # the two were asked at slightly different moments
    b"PTTL": same_time,
    b"EXPIRETIME": same_time,
    b"PEXPIRETIME": same_time,
    b"OBJECT": same_idle,  # idle times: as above
    b"HELLO": same_kind,  # id of the connection, mode
}


def same_error(one, other):
    """Error texts are text at RingKV: bytes of a client that are none come back as U+FFFD, three bytes of the few told."""
    one, other = one.raw.decode("utf-8", "replace"), other.raw.decode("utf-8", "replace")
    return one == other or "\ufffd" in one and one.split("'")[:2] == other.split("'")[:2]


def equal(command, one, other):
    if one.raw == other.raw:
        return True
    if one.kind == other.kind == b"-" and isinstance(one.raw, bytes):
        return same_error(one, other)
    if not command or isinstance(command[0], list):  # EXEC: what was queued
        if one.kind != b"*" or other.kind != b"*" or one.value is None or other.value is None:
            return False
        if not len(one.value) == len(other.value) == len(command):
            return False
        return all(equal(queued, Part(*a), Part(*b)) for queued, a, b in zip(command, one.value, other.value))
    rule = ALLOWED.get(command[0].upper())
    return rule is not None and rule(command, one, other)


class Part:
    """One reply inside another."""

    def __init__(self, kind, value):
        self.kind, self.value, self.raw = kind, value, (kind, value)


class Pair:
    """Connections to both servers, in the same state."""

    def __init__(self, reference, subject, connections=2):
        self.addresses = (reference, subject)
        self.sides = []
        self.open(connections)

    def open(self, connections=2):
        self.close()
        self.sides = [[Raw(address) for _ in range(connections)] for address in self.addresses]

    def close(self):
        for side in self.sides:
            for raw in side:
                raw.close()
        self.sides = []

    def fresh(self, version):
        """New connections, and nothing stored."""
        self.open()
        for side in self.sides:
            for raw in side:
                hello = raw.call(b"HELLO", b"%d" % version)
                if hello.is_error:
                    raise SystemExit(f"HELLO {version}: {hello}")
            flushed = side[0].call(b"FLUSHALL")
            if flushed.raw != b"+OK\r\n":
                raise SystemExit(f"FLUSHALL: {flushed}")

    def batch(self, connection, commands):
        """The answers of both to commands sent together."""
        data = b"".join(Raw.pack(command) for command in commands)
        for side in self.sides:
            side[connection].send(data)
        answers = []
        for side in self.sides:
            replies = []
            for command in commands:
                try:
                    replies.append(side[connection].reply())
                except (EOFError, ConnectionError, TimeoutError) as error:
                    replies.append(Part(b"closed", type(error).__name__))
            answers.append(replies)
        return list(zip(*answers))

    def counts_differ(self):
        """Compares the numbers of keys, once expired ones have been removed."""
        deadline = time.monotonic() + EXPIRED_SECONDS
        while True:
            ((one, other),) = self.batch(0, [[b"DBSIZE"]])
            if one.raw == other.raw:
                return None
            if time.monotonic() > deadline:
                return [b"DBSIZE"], one, other
            time.sleep(0.05)


class Queue:
    """What a connection has queued: whose replies an EXEC brings."""

    def __init__(self):
        self.commands = None

    def view(self, command, reply):
        """What to compare the reply to this command with."""
        name = command[0].upper()
        if name == b"EXEC" and self.commands is not None and len(command) == 1:
            queued, self.commands = self.commands, None
            return queued
        if name in (b"DISCARD", b"RESET") and len(command) == 1:
            self.commands = None
        elif name == b"MULTI" and self.commands is None and not reply.is_error:
            self.commands = []
        elif reply.raw == b"+QUEUED\r\n":
            self.commands.append(command)
        return command


def make_steps(seed, count):
    """(connection, command) of one episode, and how many of them are sent together."""
    rnd = random.Random(seed)
    commands = Commands(rnd)
    steps = []
    while len(steps) < count:
        if rnd.random() > 0.03:
            steps.append((0, commands.next()))
            continue
        tag = rnd.choice(TAGS)
        if rnd.random() < 0.5:
            steps.append((0, [b"WATCH", *(tag + b"%d" % rnd.randint(1, 5) for _ in range(rnd.randint(1, 3)))]))
            if rnd.random() < 0.5:
                # What was absent and is absent again has not changed, for RingKV: versions are compared.
                name = rnd.choice([b"SET", b"APPEND", b"GETSET"])
                steps.append((1, [name, tag + b"%d" % rnd.randint(1, 5), commands.value()]))
        steps.append((0, [b"MULTI"]))
        steps += [(0, command) for command in commands.in_slot(tag, rnd.randint(0, 8))]
        if rnd.random() < 0.1:
            steps.append((0, rnd.choice([[b"MULTI"], [b"WATCH", tag], [b"PING"], [b"ECHO", b"x"], [b"UNWATCH"]])))
        steps.append((0, rnd.choice([[b"EXEC"]] * 6 + [[b"DISCARD"], [b"exec"]])))
    return steps, rnd.choice([1, 1, 2, 7, 30, 100])


def batches(steps, together):
    """Neighbours on the same connection, so many at once."""
    group = []
    for step in steps:
        if group and (group[0][0] != step[0] or len(group) >= together):
            yield group
            group = []
        group.append(step)
    if group:
        yield group


def run_steps(pair, steps, together):
    """The place of the first difference with both answers, or None."""
    queues = [Queue(), Queue()]
    done = 0
    for group in batches(steps, together):
        connection = group[0][0]
        answers = pair.batch(connection, [command for _, command in group])
        for (_, command), (one, other) in zip(group, answers):
            view = queues[connection].view(command, one)
            if not equal(view, one, other):
                return done, one, other
            done += 1
    return None


def compare_stores(pair):
    """Compares all keys with their values, encodings and times to live."""
    for namespace in (b"0", b"1", b"3", b"15"):
        for command in ([b"SELECT", namespace], [b"KEYS", b"*"]):
            ((one, other),) = pair.batch(0, [command])
            if not equal(command, one, other):
                return command, one, other
        keys = [key for _, key in one.value]
        found = pair.counts_differ()
        if found:
            return found
        looks = [[name, *more, key] for key in keys
                 for name, *more in ([b"GET"], [b"PTTL"], [b"OBJECT", b"ENCODING"], [b"STRLEN"])]
        for command, (one, other) in zip(looks, pair.batch(0, looks) if looks else []):
            if not equal(command, one, other):
                return command, one, other
    return None


def shrink(pair, version, steps, together):
    """Fewer commands that still end in a difference."""
    def differs(candidate):
        pair.fresh(version)
        found = run_steps(pair, candidate, together)
        return candidate[:found[0] + 1] if found else None

    last = steps[-1]
    chunk = max(len(steps) // 2, 1)
    tries = 0
    while chunk >= 1 and tries < 400:
        at, shorter = 0, False
        while at < len(steps) - 1 and tries < 400:
            tries += 1
            candidate = steps[:at] + steps[min(at + chunk, len(steps) - 1):]
            found = differs(candidate)
            if found and found[-1] == last:
                steps, shorter = found, True
            else:
                at += chunk
        if chunk == 1 and not shorter:
            break
        chunk = max(chunk // 2, 1) if chunk > 1 or not shorter else 1
    return steps


def show(command):
    return " ".join(repr(argument)[1:] for argument in command)


class Report:
    """The differences found."""

    def __init__(self):
        self.count = 0

    def add(self, title, lines, one, other):
        self.count += 1
        print(f"\nDIFFERENCE {self.count}: {title}")
        for line in lines:
            print(f"    {line}")
        print(f"  redis:  {one!r}" if not isinstance(one, Part) else f"  redis:  {one.raw}")
        print(f"  ringkv: {other!r}" if not isinstance(other, Part) else f"  ringkv: {other.raw}", flush=True)
        if self.count >= DIFFERENCES_MAX:
            raise SystemExit(f"{self.count} differences: that is enough")


def run_episode(pair, seed, report):
    steps, together = make_steps(seed, EPISODE_COMMANDS)
    version = 2 + seed % 2
    pair.fresh(version)
    found = run_steps(pair, steps, together)
    where = f"episode {seed}, RESP{version}, {together} at once"
    if found:
        small = shrink(pair, version, steps[:found[0] + 1], together)
        pair.fresh(version)
        again = run_steps(pair, small, together)
        _, one, other = again or found
        note = "" if again else " (not again when repeated)"
        report.add(where + note, [f"{connection}> {show(command)}" for connection, command in small], one, other)
        return found[0] + 1
    pair.batch(0, [[b"DISCARD"]])
    found = compare_stores(pair)
    if found:
        command, one, other = found
        key = command[-1]
        related = [f"{connection}> {show(step)}" for connection, step in steps if key in step]
        report.add(where + f", the keyspace: {show(command)}", related[-30:], one, other)
    return len(steps)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--subject", required=True, help="RingKV's plain Redis port")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--commands", type=int, default=20000)
    parser.add_argument("--only", type=int, help="run this episode alone")
    parser.add_argument("--skip-scripts", action="store_true")
    options = parser.parse_args()
    host, port = options.subject.rsplit(":", 1)
    began = time.monotonic()
    report = Report()
    done = 0
    with Redis("--enable-debug-command", "yes") as reference:
        pair = Pair(reference.address, (host, int(port)))
        seeds = range(options.seed, 1 << 62) if options.only is None else [options.only]
        for seed in seeds:
            if done >= options.commands:
                break
            done += run_episode(pair, seed, report)
        if not options.skip_scripts and options.only is None:
            from redis_scripts import SCRIPTS
            for script in SCRIPTS:
                pair.fresh(2)
                done += script(pair, report)
        pair.close()
    took = time.monotonic() - began
    print(f"{done} commands in {took:.1f} s, first seed {options.seed}: {report.count} differences")
    sys.exit(1 if report.count else 0)


if __name__ == "__main__":
    main()
