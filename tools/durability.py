"""Judges what tools/durability recorded.

usage: durability.py --client PID --rate R CONNECTIONS EVENTS

CONNECTIONS is the output of `ss -tnp`, EVENTS that of `perf script -F pid,time,event,trace`.
"""

import argparse
import re
import statistics
import sys

REQUEST_BYTES_MIN = 4096
BLOCK_BYTES = 4096


def client_sockets(lines, client):
    """File descriptors of the connections between the client and the nodes: {pid: {fd}}, the client's among them."""
    ends = {}
    for line in lines:
        match = re.match(r"ESTAB\s+\d+\s+\d+\s+(\S+)\s+(\S+)\s+users:\(\(\"[^\"]+\",pid=(\d+),fd=(\d+)\)", line)
        if match:
            ends[match[1], match[2]] = (int(match[3]), int(match[4]))
    sockets = {}
    for (local, remote), (pid, _) in ends.items():
        if pid == client and (remote, local) in ends:
            for end_pid, end_fd in (ends[local, remote], ends[remote, local]):
                sockets.setdefault(end_pid, set()).add(end_fd)
    return sockets


def parse(lines):
    pattern = re.compile(r"\s*(\d+)\s+([\d.]+):\s+(\S+?):?\s+(.*)")
    events = []
    for line in lines:
        match = pattern.match(line)
        if match:
            events.append((float(match[2]), int(match[1]), match[3], match[4]))
    return sorted(events)


def value(text, name):
    return re.search(rf"{name}:? (\S+?)[,\s]", text + " ")[1]


def timeline(events, sockets, client):
    """When requests were sent, when answers were, and (submitted, completed, node) of every write of a log."""
    requests, answers, writes, pending = [], [], [], {}
    for time, pid, event, text in events:
        if event.endswith("io_uring_submit_req"):
            # The log writes from registered buffers; nothing else of a node does.
            if "opcode WRITE_FIXED" in text:
                pending[value(text, "ring"), value(text, "user_data")] = (time, pid)
        elif event.endswith("io_uring_complete"):
            begun = pending.pop((value(text, "ring"), value(text, "user_data")), None)
            if begun and int(value(text, "result")) >= BLOCK_BYTES:
                writes.append((begun[0], time, begun[1]))
        elif int(value(text, "fd"), 16) in sockets.get(pid, ()):
            if pid != client:
                answers.append(time)
            elif int(value(text, "len"), 16) >= REQUEST_BYTES_MIN:
                requests.append(time)
    return requests, answers, writes


def judge(requests, answers, writes, interval):
    """Per answered request: how long before the answer the second node had it on disk, or None if it had not.

    A request that the client sends again long before the next one is due was answered "ask the leader": no promise.
    """
    margins = []
    for begun, following in zip(requests, requests[1:] + [float("inf")]):
        answer = next((time for time in answers if begun < time < following), None)
        if answer is None or following - begun < interval / 2:
            continue
        first_done = {}
        for submitted, completed, node in writes:
            if begun < submitted and completed < answer:
                first_done[node] = min(completed, first_done.get(node, completed))
        durable = sorted(first_done.values())
        margins.append(answer - durable[1] if len(durable) >= 2 else None)
    return margins


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--client", type=int, required=True)
    parser.add_argument("--rate", type=float, required=True)
    parser.add_argument("connections")
    parser.add_argument("events")
    args = parser.parse_args()
    with open(args.connections, encoding="utf-8") as file:
        sockets = client_sockets(file, args.client)
    with open(args.events, encoding="utf-8") as file:
        margins = judge(*timeline(parse(file), sockets, args.client), 1 / args.rate)
    kept = [margin * 1e6 for margin in margins if margin is not None]
    if not margins:
        sys.exit("no answered write was seen: nothing is shown")
    print(f"{len(margins)} writes answered; {len(kept)} of them after two nodes' log writes were on disk")
    if kept:
        print(f"the second was on disk before the answer left by {min(kept):.0f} us at least, "
              f"{statistics.median(kept):.0f} us in the median")
    sys.exit(0 if len(kept) == len(margins) else 1)


main()
