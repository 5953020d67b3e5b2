"""The supported commands as users of coredis call them: an asynchronous client, written independently of redis-py."""

import asyncio
import time

import coredis
from coredis.exceptions import ConnectionError as Lost, RedisError, TryAgainError, ClusterDownError, TimeoutError as Late

from redis_clients_steps import FAR, described

CALLS = [
    ("set", "s", "v"), ("get", "s"), ("set", "s", "w", dict(condition=coredis.PureToken.NX)),
    ("set", "s", "w", dict(condition=coredis.PureToken.XX, get=True)), ("set", "s", "v", dict(ex=100)),
    ("set", "s", "v", dict(pxat=FAR * 1000)), ("pexpiretime", "s"), ("set", "s", "x", dict(keepttl=True)), ("expiretime", "s"),
    ("setnx", "s", "no"), ("setnx", "nx", "yes"), ("setex", "s", "v", 100), ("psetex", "s", 100000, "v"), ("getset", "s", "z"),
    ("getdel", "s"), ("set", "s", "hello"), ("getex", "s", dict(ex=100)), ("getex", "s", dict(persist=True)), ("ttl", "s"), ("pttl", "s"),
    ("append", "s", " world"), ("strlen", "s"), ("getrange", "s", 0, 4), ("setrange", "s", 6, "Redis"), ("get", "s"),
    ("type", "s"), ("object_encoding", "s"), ("object_freq", "s"), ("incr", "n"), ("incrby", "n", 10), ("decr", "n"), ("decrby", "n", 4),
    ("incrbyfloat", "f", 1.5), ("incr", "s"), ("setbit", "{b}1", 7, 1), ("getbit", "{b}1", 7), ("bitcount", "{b}1"),
    ("bitpos", "{b}1", 1), ("set", "{b}2", "abc"), ("bitop", ["{b}1", "{b}2"], "OR", "{b}3"), ("get", "{b}3"),
    ("set", "{k}1", "ohmytext"), ("set", "{k}2", "mynewtext"), ("lcs", "{k}1", "{k}2"), ("lcs", "{k}1", "{k}2", dict(len_=True)),
    ("lcs", "{k}1", "{k}2", dict(idx=True, withmatchlen=True)), ("exists", ["{k}1", "{k}2"]), ("touch", ["{k}1", "{k}3"]),
    ("rename", "{k}1", "{k}3"), ("renamenx", "{k}3", "{k}2"), ("copy", "{k}3", "{k}4"), ("copy", "{k}3", "{k}4", dict(replace=True)),
    ("expire", "{k}3", 100), ("expire", "{k}3", 200, dict(condition=coredis.PureToken.GT)), ("pexpire", "{k}3", 100000),
    ("expireat", "{k}3", FAR), ("pexpireat", "{k}3", FAR * 1000), ("persist", "{k}3"), ("delete", ["{k}3"]), ("unlink", ["{k}2"]),
    ("mset", {"{m}1": "a", "{m}2": "b"}), ("mget", ["{m}1", "{m}2", "{m}3"]), ("msetnx", {"{m}3": "c"}), ("msetnx", {"{m}3": "c"}),
    ("rename", "{m}none", "{m}x"),
]
PLAIN_CALLS = [
    ("ping",), ("echo", "text"), ("flushall",), ("dbsize",), ("mset", {"a": "1", "b": "2", "c": "3"}), ("mget", ["a", "b", "c", "d"]),
    ("delete", ["a", "b", "c"]), ("client_id",), ("config_resetstat",), ("config_get", ["nosuch"]), ("function_flush",),
    ("command_getkeys", "MSET", ["a", "1", "b", "2"]),
]
# INDETERMINATE is what a lost connection would say: done or not, and so it counts as an attempt.
TRY_AGAIN = ("TRYAGAIN", "CLUSTERDOWN", "LOADING", "MASTERDOWN", "READONLY", "INDETERMINATE")


def outcome_of(value):
    return sorted(map(repr, value)) if isinstance(value, (set, frozenset)) else described(value)


async def call(client, told, name, *args):
    kwargs = args[-1] if args and isinstance(args[-1], dict) and name not in ("mset", "msetnx") else {}
    positional = args[:-1] if kwargs else args
    try:
        outcome = await getattr(client, name)(*positional, **kwargs)
    except RedisError as error:
        outcome = error
    if name in ("pttl", "client_id") and isinstance(outcome, int):
        outcome = outcome > 0  # Its value differs.
    told.append((" ".join([name, *map(repr, args)]), outcome_of(outcome)))


async def dumped(client, told):
    payload = await client.dump("{m}1")
    await call(client, told, "restore", "{m}r", 0, payload)
    told[-1] = ("restore", told[-1][1])
    await call(client, told, "get", "{m}r")
    operation = client.bitfield("{m}bits")
    told.append(("bitfield", outcome_of(await operation.set("u8", 0, 200).incrby("i5", 100, 1).get("u4", 0).exc())))


async def piped(client, told, transaction):
    pipe = await client.pipeline(transaction=transaction)
    async with pipe:
        for number in range(200):
            await pipe.set("{p}%d" % number, number)
            await pipe.incr("{p}%d" % number)
        told.append((f"pipeline, transaction={transaction}", described(await pipe.execute())))


async def whole(client, told, is_cluster):
    await client.flushall()
    for number in range(100):
        await client.set(f"key:{number}", number)
    told.append(("keys", sorted(await client.keys("key:*"))))
    if not is_cluster:  # There it is told by a node of the client's choice.
        told.append(("dbsize", await client.dbsize()))
    scanned = set()
    async for key in client.scan_iter(count=7):
        scanned.add(key)
    told.append(("scan", sorted(scanned)))
    await client.flushall()
    told.append(("dbsize after flushall", await client.dbsize()))


async def run(client, is_cluster):
    told = []
    await client.flushall()
    for entry in CALLS:
        await call(client, told, *entry)
    await dumped(client, told)
    await piped(client, told, False)
    await piped(client, told, True)
    await whole(client, told, is_cluster)
    for entry in PLAIN_CALLS if not is_cluster else PLAIN_CALLS[:1]:
        await call(client, told, *entry)
    return told


def make(address, version, is_cluster):
    if is_cluster:
        return coredis.RedisCluster(startup_nodes=[{"host": host, "port": port} for host, port in address],
                                    protocol_version=version, stream_timeout=20)
    return coredis.Redis(host=address[0], port=address[1], protocol_version=version, stream_timeout=20)


def retriable(error):
    return isinstance(error, (Lost, Late, TryAgainError, ClusterDownError, OSError)) or str(error).startswith(TRY_AGAIN)


async def leader_change(nodes, control, node, differences, say):
    """Counts through the cluster client while a node dies and returns."""
    client = make(nodes, 3, True)
    names = [f"coredis:{number}" for number in range(40)]
    for name in names:
        await client.delete([name])
    acknowledged, attempts, errors = dict.fromkeys(names, 0), dict.fromkeys(names, 0), {}
    began, done = time.monotonic(), set()
    while time.monotonic() - began < 14:
        for what, after in (("kill", 2), ("restart", 8)):
            if what not in done and time.monotonic() - began > after:
                await asyncio.to_thread(control.do, what, node)
                done.add(what)
        for name in names:
            deadline = time.monotonic() + 30
            while True:
                attempts[name] += 1
                try:
                    acknowledged[name] = await client.incr(name)
                    break
                except (RedisError, OSError) as error:
                    kind = f"{type(error).__name__}: {str(error)[:60]}"
                    errors[kind] = errors.get(kind, 0) + 1
                    if not retriable(error) or time.monotonic() > deadline:
                        differences.count += 1
                        print(f"DIFFERENCE (coredis cluster): not an error to try again on, or for too long: {kind}")
                        return
                    await asyncio.sleep(0.05)
    for name in names:
        value = int(await client.get(name))
        if not acknowledged[name] <= value <= attempts[name]:
            differences.count += 1
            print(f"DIFFERENCE (coredis cluster): {name} ended as {value}, {acknowledged[name]} acknowledged, {attempts[name]} tried")
    say(f"coredis cluster: a node died and returned; {sum(acknowledged.values())} increments, "
        f"errors to try again on: {errors or 'none'}")


def compare(differences, real, real_cluster, options, control, say):
    plain = (options.plain or [real.address])[0]
    cluster = options.cluster or real_cluster.addresses

    async def all_of_it():
        for version in (2, 3):
            for title, is_cluster, one, other in (("coredis", False, real.address, plain),
                                                  ("coredis cluster", True, real_cluster.addresses, cluster)):
                outcomes = [await run(make(address, version, is_cluster), is_cluster) for address in (one, other)]
                differences.compare(f"{title}, RESP{version}", *outcomes)
        if control:
            await leader_change(cluster, control, 3, differences, say)

    asyncio.run(all_of_it())
