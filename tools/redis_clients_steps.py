"""Every supported command as users of redis-py call it: plain, pipelined and in transactions.

The same steps run at a real Redis and at RingKV; what comes back is compared. `Recorder` keeps the outcome of each
call: `same` in full, `shape` only its kind, for what no two servers can tell alike.
"""

import redis


def described(outcome):
    if isinstance(outcome, Exception):
        return f"{type(outcome).__name__}: {outcome}"
    if isinstance(outcome, dict):
        return {key: described(value) for key, value in sorted(outcome.items(), key=repr)}
    if isinstance(outcome, (list, tuple)):
        return [described(part) for part in outcome]
    if isinstance(outcome, set):
        return sorted(outcome)
    return outcome


class Recorder:
    def __init__(self, client):
        self.client = client
        self.told = []

    def record(self, name, call, told):
        try:
            outcome = call()
        except (redis.RedisError, redis.exceptions.RedisClusterException) as error:
            outcome = error
        self.told.append((name, told(outcome)))
        return outcome

    def same(self, name, *args, **kwargs):
        label = " ".join([name, *map(repr, args), *(f"{key}={value!r}" for key, value in kwargs.items())])
        return self.record(label, lambda: getattr(self.client, name)(*args, **kwargs), described)

    def sorted(self, name, *args, **kwargs):
        label = " ".join([name, *map(repr, args)])
        return self.record(label, lambda: getattr(self.client, name)(*args, **kwargs),
                           lambda outcome: sorted(outcome) if isinstance(outcome, list) else described(outcome))

    def on_all(self, name, *args):
        """At all masters: their answers together, whichever node gave which part."""
        def asked():
            answers = getattr(self.client, name)(*args, target_nodes=type(self.client).PRIMARIES)
            answers = list(answers.values()) if isinstance(answers, dict) else [answers]
            if all(isinstance(answer, list) for answer in answers):
                return sorted(sum(answers, []))
            return sum(answers) if type(answers[0]) is int else all(answers)
        return self.record(" ".join([name, *map(repr, args), "everywhere"]), asked, described)

    def shape(self, name, *args, keys=(), near=None, **kwargs):
        """Only what kind of answer it is; which of these `keys` a dictionary has; that a number is near another."""
        def told(outcome):
            if isinstance(outcome, Exception):
                return described(outcome)
            if isinstance(outcome, dict):
                return ("dict", [key for key in keys if key in outcome])
            if near is not None and not isinstance(outcome, (list, tuple)):
                return f"near {near}" if abs(outcome - near) <= max(5, near // 10) else f"{outcome}, not near {near}"
            return type(outcome).__name__
        return self.record(" ".join([name, *map(repr, args)]), lambda: getattr(self.client, name)(*args, **kwargs), told)

    def check(self, label, truth):
        self.told.append(("check: " + label, bool(truth)))


FAR = 4102444800


def strings(r):
    """Commands on single keys; `{t}` keeps those together that one command takes."""
    r.same("set", "s", "v")
    r.same("get", "s")
    r.same("set", "s", "w", nx=True)
    r.same("set", "s", "w", xx=True, get=True)
    r.same("set", "fresh", "w", nx=True, ex=100)
    r.shape("ttl", "fresh", near=100)
    r.same("set", "fresh", "x", keepttl=True)
    r.shape("pttl", "fresh", near=100000)
    r.same("set", "s", "v", px=100000)
    r.same("set", "s", "v", exat=FAR)
    r.same("expiretime", "s")
    r.same("set", "s", "v", pxat=FAR * 1000)
    r.same("pexpiretime", "s")
    r.same("setnx", "s", "no")
    r.same("setex", "s", 100, "v")
    r.same("psetex", "s", 100000, "v")
    r.same("getset", "s", "old")
    r.same("getdel", "s")
    r.same("getdel", "s")
    r.same("set", "s", "hello")
    r.same("getex", "s", ex=100)
    r.same("getex", "s", persist=True)
    r.same("ttl", "s")
    r.same("append", "s", " world")
    r.same("strlen", "s")
    r.same("getrange", "s", 0, 4)
    r.same("substr", "s", -5, -1)
    r.same("setrange", "s", 6, "Redis")
    r.same("get", "s")
    r.same("type", "s")
    r.same("object", "encoding", "s")
    r.shape("object", "idletime", "s")
    r.same("object", "freq", "s")
    r.same("get", b"\x00\xff\r\n")
    r.same("set", b"\x00\xff\r\n", bytes(range(256)))
    r.same("get", b"\x00\xff\r\n")
    r.same("set", "big", "x" * 100000)
    r.same("strlen", "big")
    r.same("get", "big")
    r.same("get", "nothing")


def numbers(r):
    for name, *args in (["execute_command", "INCR", "n"], ["execute_command", "DECR", "n"], ["incr", "n"], ["incr", "n", 10], ["decr", "n"], ["decr", "n", 3], ["incrby", "n", 5],
                        ["decrby", "n", 2], ["incrbyfloat", "f", 1.5], ["incrbyfloat", "f", "-0.25"], ["get", "f"],
                        ["object", "encoding", "n"], ["set", "n", "text"], ["incr", "n"],
                        ["set", "n", "9223372036854775807"], ["incr", "n"], ["incrbyfloat", "s", 1]):
        r.same(name, *args)


def bits(r):
    for name, *args in (["setbit", "{b}1", 7, 1], ["setbit", "{b}1", 100, 1], ["getbit", "{b}1", 7],
                        ["getbit", "{b}1", 8], ["bitcount", "{b}1"], ["bitcount", "{b}1", 0, 0],
                        ["bitcount", "{b}1", 0, 7, "BIT"], ["bitpos", "{b}1", 1], ["bitpos", "{b}1", 0, 0, -1],
                        ["set", "{b}2", "abc"], ["bitop", "AND", "{b}3", "{b}1", "{b}2"],
                        ["bitop", "OR", "{b}3", "{b}1", "{b}2"], ["bitop", "XOR", "{b}3", "{b}1", "{b}2"],
                        ["bitop", "NOT", "{b}3", "{b}1"], ["get", "{b}3"],
                        ["execute_command", "BITFIELD", "{b}4", "SET", "u8", 0, 200, "INCRBY", "i5", 100, 1, "GET", "u4", 0],
                        ["execute_command", "BITFIELD", "{b}4", "OVERFLOW", "FAIL", "INCRBY", "u8", 0, 100],
                        ["execute_command", "BITFIELD_RO", "{b}4", "GET", "u8", 0],
                        ["execute_command", "BITFIELD_RO", "{b}4", "SET", "u8", 0, 1],
                        ["setbit", "{b}1", -1, 1], ["setbit", "{b}1", 1, 2]):
        r.same(name, *args)


def keys(r):
    for name, *args in (["set", "{k}1", "ohmytext"], ["set", "{k}2", "mynewtext"], ["lcs", "{k}1", "{k}2"],
                        ["exists", "{k}1", "{k}2", "{k}none"], ["touch", "{k}1", "{k}none"],
                        ["rename", "{k}1", "{k}3"], ["rename", "{k}1", "{k}3"], ["renamenx", "{k}3", "{k}2"],
                        ["renamenx", "{k}3", "{k}1"], ["copy", "{k}1", "{k}4"], ["copy", "{k}1", "{k}4"],
                        ["get", "{k}4"], ["expire", "{k}1", 100], ["expire", "{k}1", 200, ],
                        ["persist", "{k}1"], ["persist", "{k}1"], ["pexpire", "{k}1", 100000],
                        ["expireat", "{k}1", FAR], ["pexpireat", "{k}1", FAR * 1000 + 5], ["pexpiretime", "{k}1"],
                        ["expiretime", "{k}1"], ["ttl", "{k}none"], ["pttl", "{k}2"], ["delete", "{k}1", "{k}none"],
                        ["unlink", "{k}2", "{k}4"], ["exists", "{k}1"], ["type", "{k}1"],
                        ["mset", {"{m}1": "a", "{m}2": "b"}], ["mget", "{m}1", "{m}2", "{m}3"],
                        ["msetnx", {"{m}3": "c", "{m}4": "d"}], ["msetnx", {"{m}4": "c", "{m}5": "d"}],
                        ["mget", ["{m}3", "{m}4", "{m}5"]], ["expireat", "{m}1", 1], ["get", "{m}1"]):
        r.same(name, *args)
    r.same("lcs", "{m}3", "{m}4", len=True)
    r.same("lcs", "{m}3", "{m}3", idx=True, withmatchlen=True)
    r.same("copy", "{m}2", "{m}3", replace=True)
    for condition, seconds in (("nx", 1000), ("xx", 1000), ("gt", 2000), ("lt", 500), ("gt", 100), ("lt", 9000)):
        r.same("expire", "{m}2", seconds, **{condition: True})
        r.same("pexpire", "{m}3", seconds * 1000, **{condition: True})
        r.same("expireat", "{m}4", FAR, **{condition: True})
        r.same("pexpireat", "{m}4", FAR * 1000, **{condition: True})
    payload = r.record("dump", lambda: r.client.dump("{m}3"), lambda outcome: type(outcome).__name__)
    r.record("restore", lambda: r.client.restore("{m}r", 0, payload), described)
    r.record("restore again", lambda: r.client.restore("{m}r", 0, payload), described)
    r.record("restore replace", lambda: r.client.restore("{m}r", 100000, payload, replace=True), described)
    r.record("restore damaged", lambda: r.client.restore("{m}x", 0, payload[:-1] + b"?"), described)
    r.same("get", "{m}r")


def pipelines(r, transaction):
    """A pipeline with an error in the middle, and a long one."""
    def run(count):
        pipe = r.client.pipeline(transaction=transaction)
        pipe.set("{p}k", "1").incr("{p}k").append("{p}k", "x").incr("{p}k").get("{p}k").strlen("{p}k")
        for number in range(count):
            pipe.set("{p}%d" % number, number)
            pipe.get("{p}%d" % number)
        return pipe.execute(raise_on_error=False)
    r.record(f"pipeline, transaction={transaction}", lambda: run(3), described)
    r.record(f"long pipeline, transaction={transaction}", lambda: run(500), described)


def transactions(r):
    def optimistic():
        def increment(pipe):
            current = int(pipe.get("{w}k") or 0)
            pipe.multi()
            pipe.set("{w}k", current + 1)
            pipe.get("{w}k")
        return r.client.transaction(increment, "{w}k")

    def disturbed():
        with r.client.pipeline() as pipe:
            pipe.watch("{w}k")
            r.client.set("{w}k", "other")
            pipe.multi()
            pipe.set("{w}k", "mine")
            return pipe.execute()

    def unwatched():
        with r.client.pipeline() as pipe:
            pipe.watch("{w}k")
            pipe.unwatch()
            r.client.set("{w}k", "other")
            pipe.multi()
            pipe.get("{w}k")
            return pipe.execute()

    r.record("transaction", optimistic, described)
    r.record("transaction again", optimistic, described)
    r.record("disturbed transaction", disturbed, described)
    r.record("unwatched transaction", unwatched, described)


def raw_transaction(r):
    """MULTI, DISCARD and an aborted EXEC on one connection."""
    connection = r.client.connection_pool.get_connection()
    try:
        for words in ("MULTI", "SET {x}k 1", "DISCARD", "MULTI", "NOSUCH", "EXEC", "MULTI", "SET {x}k 2", "INCR {x}k", "EXEC",
                      "EXEC", "DISCARD", "WATCH {x}k", "UNWATCH", "RESET", "AUTH wrong", "ECHO x",
                      "CLIENT REPLY SKIP", "SET {x}k 3", "CLIENT REPLY ON", "GET {x}k"):
            connection.send_command(*words.split())
            if words in ("CLIENT REPLY SKIP", "SET {x}k 3"):
                continue
            r.record(words, connection.read_response, described)
        connection.send_command("QUIT")
        r.record("QUIT", connection.read_response, described)
    finally:
        connection.disconnect()
        r.client.connection_pool.release(connection)


def whole_keyspace(r):
    r.same("flushall")
    r.same("dbsize")
    for number in range(150):
        r.client.set(f"key:{number}", number)
    r.sorted("keys", "*")
    r.sorted("keys", "key:1?")
    r.check("scan", sorted(r.client.scan_iter(count=7)) == sorted(b"key:%d" % number for number in range(150)))
    r.check("scan match", len(list(r.client.scan_iter(match="key:1*"))) == 61)
    r.check("scan type", len(list(r.client.scan_iter(_type="list"))) == 0)
    r.same("dbsize")
    r.check("randomkey", r.client.randomkey().startswith(b"key:"))
    r.same("flushdb")
    r.same("dbsize")
    r.same("randomkey")


def server(r):
    r.same("config_resetstat")
    r.same("ping")
    r.same("echo", "text")
    r.shape("time")
    r.shape("info", keys=("redis_version", "uptime_in_seconds", "connected_clients", "used_memory", "role", "tcp_port"))
    r.shape("config_get", "maxmemory", keys=("maxmemory",))
    r.same("config_get", "nosuchthing")
    r.same("config_set", "nosuchthing", "1")
    r.same("function_flush")
    r.shape("wait", 0, 100)
    r.same("execute_command", "COMMAND GETKEYS", "MSET", "a", "1", "b", "2")
    r.shape("command_count")
    r.shape("command", keys=("get", "set", "mget"))
    r.shape("execute_command", "COMMAND INFO", "get")
    r.shape("execute_command", "COMMAND DOCS", "get")
    r.same("execute_command", "NOSUCHCOMMAND", "a", "b")
    r.same("execute_command", "GET")


def connection(r):
    r.shape("client_id")
    r.same("client_setname", "tester")
    r.same("client_getname")
    r.shape("client_info", keys=("id", "addr", "name", "db", "cmd"))
    r.shape("client_list")
    r.same("client_no_evict", "ON")


def namespaces(make):
    """Sixteen keyspaces that know nothing of each other."""
    told = []
    make(0).flushall()
    for number in (0, 1, 15):
        make(number).set("where", number)
    for number in (0, 1, 15, 7):
        told.append((f"get in namespace {number}", make(number).get("where")))
    make(1).flushdb()
    told.append(("after flushdb of 1", [make(number).dbsize() for number in (0, 1, 15)]))
    r = Recorder(make(0))
    r.same("execute_command", "COPY", "where", "{where}there", "DB", "3")
    r.same("execute_command", "SELECT", "16")
    return told + r.told


def plain(client):
    """All of it at one port."""
    r = Recorder(client)
    for part in (server, connection, whole_keyspace, strings, numbers, bits, keys, transactions, raw_transaction):
        part(r)
    pipelines(r, True)
    pipelines(r, False)
    r.same("mset", {f"far{number}": number for number in range(20)})
    r.same("mget", [f"far{number}" for number in range(22)])
    r.same("delete", *(f"far{number}" for number in range(22)))
    r.same("execute_command", "DEBUG", "SLEEP", "0")
    return r.told


def cluster(client):
    """All of it through a client that knows the cluster."""
    # RingKV serves followers' reads at its plain port, too, where a Redis without a cluster refuses READONLY: asked here.
    r = Recorder(client)
    for part in (strings, numbers, bits, keys):
        r.on_all("flushall")
        part(r)
    pipelines(r, False)
    pipelines(r, True)
    transactions(r)
    r.on_all("flushall")
    r.check("keys of all nodes", not client.keys("*"))
    r.same("mset_nonatomic", {f"far{number}": number for number in range(50)})
    r.same("mget_nonatomic", [f"far{number}" for number in range(52)])
    r.same("mset", {"far1": 1, "far2": 2})
    r.same("mget", "far1", "far2")
    r.on_all("keys", "far*")
    r.check("scan of all nodes", len(set(client.scan_iter(count=5))) == 50)
    r.on_all("dbsize")
    r.same("delete", *(f"far{number}" for number in range(52)))
    r.same("exists", "far1", "far2")
    for number in range(100):
        client.set(f"many{number}", number)

    def scattered():
        pipe = client.pipeline()
        for number in range(100):
            pipe.incr(f"many{number}")
        return pipe.execute(raise_on_error=False)
    r.record("pipeline to all nodes", scattered, described)
    told_of_cluster(r, client)
    return r.told


def told_of_cluster(r, client):
    """CLUSTER ...: answers differ, what they have to say does not."""
    r.same("cluster_keyslot", "{user}name")
    r.same("cluster_countkeysinslot", client.keyslot("many1"))
    r.same("cluster_get_keys_in_slot", client.keyslot("many1"), 10)
    slots = client.cluster_slots()
    covered = sorted(slots)
    r.check("cluster slots cover all", covered[0][0] == 0 and covered[-1][1] == 16383 and all(
        before[1] + 1 == after[0] for before, after in zip(covered, covered[1:])))
    ports = {node.port for node in client.get_nodes()}
    r.check("cluster slots name the ports", all(entry["primary"][1] in ports for entry in slots.values()))
    nodes = client.cluster_nodes()
    r.check("cluster nodes name the ports", ports <= {int(address.split(":")[1]) for address in nodes})
    info = client.cluster_info()
    r.check("cluster info", info["cluster_state"] == "ok" and info["cluster_slots_assigned"] == "16384")
    ids = {node["node_id"] for node in nodes.values()}
    identity = client.cluster_myid(client.get_random_node())
    r.check("cluster myid", (identity.decode() if isinstance(identity, bytes) else identity) in ids)
    r.shape("cluster_shards")
    r.record("readonly", lambda: client.readonly(), described)
    r.record("readwrite", lambda: client.readwrite(), described)
