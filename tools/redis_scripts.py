"""The fixed scripts of the differential test: what random commands do not reach."""

import random
import time

from redis_reference import Raw

SHORT_MS = 60


def compare(pair, report, title, commands, check=None, connection=0):
    """Sends commands one by one; the answers have to be the same, or `check` says they are equal enough."""
    for command in commands:
        ((one, other),) = pair.batch(connection, [command])
        same = one.raw == other.raw if check is None else check(command, one, other)
        if not same:
            report.add(title, [" ".join(repr(part)[1:] for part in command)], one, other)
    return len(commands)


def words(*lines):
    return [line.encode().split() for line in lines]


def handshakes(pair, report):
    """HELLO, AUTH, RESET, CLIENT REPLY, SELECT: how connections begin and what they may ask of themselves.

    Not asked, because RingKV means to differ: READONLY, which a Redis without a cluster refuses, and a WAIT that
    succeeds, which counts replicas."""
    done = compare(pair, report, "handshake", words(
        "HELLO 4", "HELLO 1", "HELLO abc", "HELLO 3 BAD", "HELLO 3 AUTH", "HELLO 3 AUTH default", "HELLO 2 SETNAME",
        "AUTH", "AUTH x", "AUTH default x", "AUTH nobody x", "AUTH a b c", "HELLO 3 AUTH nobody x",
        "PING", "RESET", "PING", "MULTI", "RESET", "EXEC", "SELECT 3", "SET k three", "RESET", "GET k", "SELECT 3",
        "GET k", "SELECT 16", "SELECT 1 2", "SELECT", "CLIENT SETNAME name", "CLIENT GETNAME", "RESET",
        "CLIENT GETNAME", "TIME x", "DBSIZE x", "FLUSHDB BAD", "FLUSHALL BAD", "FLUSHDB ASYNC",
        "FLUSHALL SYNC", "FUNCTION FLUSH", "FUNCTION FLUSH SYNC", "FUNCTION FLUSH BAD", "FUNCTION NOSUCH", "WAIT",
        "WAIT a 0", "WAIT 0 a", "WAIT 0 -1", "CONFIG", "CONFIG NOSUCH", "CONFIG GET", "CONFIG SET",
        "CONFIG SET maxmemory", "CONFIG SET nosuch 1", "CONFIG GET nosuch", "CONFIG RESETSTAT", "CONFIG RESETSTAT x",
        "CLIENT REPLY BAD", "CLIENT REPLY", "CLIENT LIST BAD", "CLIENT LIST ID abc", "CLIENT ID x", "CLIENT INFO x",
        "COMMAND COUNT x", "COMMAND GETKEYS", "DEBUG", "DEBUG SLEEP 0", "DEBUG SET-ACTIVE-EXPIRE 1",
        "OBJECT", "OBJECT HELP x", "QUIT"))
    pair.open()
    done += compare(pair, report, "values as RESP3 tells them", words(
        "SET k v", "MSET a 1 b 2"))
    skipped = b"".join(Raw.pack(command) for command in words(
        "CLIENT REPLY SKIP", "SET skipped 1", "CLIENT REPLY OFF", "SET off 1", "GET off", "CLIENT REPLY ON", "GET skipped"))
    for side in pair.sides:
        side[0].send(skipped)
    for expected in ("CLIENT REPLY ON", "GET skipped"):
        one, other = (side[0].reply() for side in pair.sides)
        if one.raw != other.raw:
            report.add("CLIENT REPLY", [expected], one, other)
    return done + 9


def queues(pair, report):
    """Transactions, step by step."""
    done = compare(pair, report, "transactions", words(
        "EXEC", "DISCARD", "UNWATCH", "WATCH", "MULTI x", "MULTI", "MULTI", "WATCH {a}k", "SET {a}k 1", "INCR {a}k",
        "EXEC", "MULTI", "NOSUCH", "SET {a}k 2", "EXEC", "GET {a}k", "MULTI", "SET {a}k", "EXEC", "MULTI",
        "SET {a}k text", "INCR {a}k", "SET {a}k 5", "EXEC", "GET {a}k", "MULTI", "EXEC", "MULTI", "PING", "ECHO x",
        "EXEC", "MULTI", "GET {a}k", "DISCARD", "WATCH {a}k", "SET {a}k 6", "MULTI", "GET {a}k", "EXEC",
        "WATCH {a}k {a}none", "UNWATCH", "SET {a}k 7", "MULTI", "GET {a}k", "EXEC",
        "WATCH {a}k", "SET {a}k 9", "MULTI", "EXEC"))
    for touch in ("SET {a}k 8", "APPEND {a}k 1", "DEL {a}k", "SET {a}none 1", "EXPIRE {a}k 100", "PERSIST {a}k",
                  "RENAME {a}k {a}other", "GET {a}k", "GETRANGE {a}k 0 1", "TYPE {a}k", "DEL {a}missing",
                  "SETNX {a}k 2", "SETRANGE {a}k 0 x", "GETDEL {a}k", "COPY {a}none {a}k REPLACE", "INCR {a}none",
                  "FLUSHDB", "FLUSHALL"):
        done += compare(pair, report, "a watched key", words("SET {a}k 8", "DEL {a}none", "WATCH {a}k {a}none"))
        done += compare(pair, report, "a watched key, changed meanwhile", words(touch), connection=1)
        done += compare(pair, report, f"a watched key after {touch}", words("MULTI", "SET {a}z 1", "EXEC"))
    return done


def expiry(pair, report):
    """Keys that go."""
    done = compare(pair, report, "expiry", words(
        f"SET a 1 PX {SHORT_MS}", f"PSETEX b {SHORT_MS} 1", "SET c 1", f"PEXPIRE c {SHORT_MS}", "SET d 1",
        "SET e 1 EX 100", f"SET {{a}}1 x PX {SHORT_MS}", f"GETEX d PX {SHORT_MS}", "SET f 1", "PEXPIREAT f 1", "GET f",
        "SET g 1 PXAT 1", "EXISTS g", "SETEX h 0 v", "SET i 1 EX 0", "GETEX e EXAT 1", "GET e"))
    time.sleep(0.2)
    done += compare(pair, report, "expired keys", words(
        "GET a", "STRLEN b", "EXISTS c d", "TYPE c", "TTL d", "PTTL a", "EXPIRETIME b", "PERSIST a", "DEL a", "UNLINK b",
        "TOUCH c", "GETDEL d", "OBJECT ENCODING c", "RENAME {a}1 {a}2", "COPY {a}1 {a}2", "SETNX a again", "INCR b", "APPEND c x",
        "SET d v XX", "SET d v NX", "KEYS *[efgh]", "DUMP none"))
    found = pair.counts_differ()
    if found:
        report.add("expired keys still count after a while", ["DBSIZE"], *found[1:])
    return done


def scan_all(raw, *options):
    cursor, found = b"0", []
    while True:
        reply = raw.call(b"SCAN", cursor, *options)
        if reply.is_error:
            return reply.raw
        (_, cursor), (_, keys) = reply.value
        found += [key for _, key in keys]
        if cursor == b"0":
            return sorted(set(found))


def scans(pair, report):
    """SCAN finds everything, with every option."""
    keys = [b"k%d" % number for number in range(300)] + [b"{a}%d" % number for number in range(100)] + [b""]
    for side in pair.sides:
        for key in keys:
            side[0].send(Raw.pack([b"SET", key, b"v"]))
        for _ in keys:
            side[0].reply()
    for options in ([], [b"COUNT", b"1"], [b"COUNT", b"1000"], [b"MATCH", b"k1*"], [b"MATCH", b"{a}[0-4]*", b"COUNT", b"7"],
                    [b"TYPE", b"string"], [b"TYPE", b"list"], [b"TYPE", b"STRING", b"MATCH", b"k?"], [b"MATCH", b"none"],
                    [b"COUNT", b"0"], [b"COUNT", b"abc"], [b"BAD"], [b"MATCH"], [b"BAD", b"x"], [b"TYPE", b"nosuch"]):
        one, other = (scan_all(side[0], *options) for side in pair.sides)
        if one != other:
            missing = [key for key in one if key not in other] if isinstance(one, list) and isinstance(other, list) else ""
            report.add("SCAN " + repr(options), [f"missing: {missing[:10]}"], one[:200], other[:200])
    compare(pair, report, "SCAN", words("SCAN", "SCAN abc", "SCAN 1.5", "SCAN 18446744073709551616"))
    return 800


def dumps(pair, report):
    """A value dumped by one is restored by the other, and what is damaged is refused."""
    values = [b"", b"1", b"-12345678901", b"text", b"x" * 5000, bytes(range(256)) * 40, b"9" * 30, b"128", b"40000", b"2147483648"]
    reference, subject = (side[0] for side in pair.sides)
    for number, value in enumerate(values):
        key = b"dump%d" % number
        for source, target, way in ((reference, subject, "Redis's dump"), (subject, reference, "RingKV's dump")):
            source.call(b"SET", key, value)
            payload = source.call(b"DUMP", key).value
            target.call(b"DEL", key)
            restored = target.call(b"RESTORE", key, b"0", payload or b"")
            got = target.call(b"GET", key)
            if restored.raw != b"+OK\r\n" or got.value != value:
                report.add(f"{way} of {value[:40]!r} restored by the other", [repr(payload)], restored, got)
    payload = reference.call(b"DUMP", b"dump3").value
    compare(pair, report, "RESTORE", [
        [b"RESTORE", b"dump3", b"0", payload], [b"RESTORE", b"dump3", b"0", payload, b"REPLACE"],
        [b"RESTORE", b"r", b"0", payload[:-1]], [b"RESTORE", b"r", b"0", payload[:-1] + b"\x00"], [b"RESTORE", b"r", b"0", b""],
        [b"RESTORE", b"r", b"abc", payload], [b"RESTORE", b"r", b"-1", payload], [b"RESTORE", b"r", b"0", payload, b"BAD"],
        [b"RESTORE", b"r", b"0", payload, b"IDLETIME", b"5"], [b"RESTORE", b"r2", b"0", payload, b"FREQ", b"5"],
        [b"RESTORE", b"r3", b"0", payload, b"IDLETIME", b"-5"], [b"RESTORE", b"r3", b"0", payload, b"FREQ", b"500"],
        [b"RESTORE", b"r3", b"1000", payload, b"ABSTTL"], [b"EXISTS", b"r3"], [b"RESTORE", b"r4", b"100000", payload],
        [b"RESTORE", b"r5", b"4102444800000", payload, b"ABSTTL"], [b"PEXPIRETIME", b"r5"], [b"GET", b"r5"],
        [b"RESTORE", b"r"], [b"DUMP", b"none"], [b"DUMP"]])
    return 40 + 21


def commands_told(pair, report):
    """COMMAND INFO of every supported command: name, arity, flags and keys as Redis tells them."""
    from redis_supported import SUPPORTED

    def told(_, one, other):
        return one.kind == other.kind == b"*" and [part(one)] == [part(other)]

    def part(reply):
        (_, entry), = reply.value
        if entry is None:
            return None
        name, arity, (_, flags), first, last, step = entry[:6]
        return name, arity, sorted(flags), first, last, step

    names = sorted({line.split()[0].lower() for line in SUPPORTED})
    done = compare(pair, report, "COMMAND INFO", [[b"COMMAND", b"INFO", name.encode()] for name in names], told)
    return done + compare(pair, report, "COMMAND", words("COMMAND INFO nosuch", "COMMAND DOCS nosuch"))


# Without NUL, which ends a line for Redis (it takes its buffer for a C string) and is any other byte for RingKV, and
# without bytes that are no text, which come back as U+FFFD in RingKV's errors.
BYTES = [
    b"PING\r\n", b"PING\n", b"\r\n\r\nPING\r\n", b"  PING  x  \r\n", b'SET "a b" "c\\x41\\n"\r\nGET "a b"\r\n', b"SET 'q' 'it\\'s'\r\nGET q\r\n",
    b'SET "a\r\n', b'SET "a"b c\r\n', b"GET\r\n", b"*1\r\n$4\r\nPING\r\n*1\r\n$4\r\nPING\r\n", b"*0\r\nPING\r\n", b"*-1\r\nPING\r\n",
    b"*-10\r\nPING\r\n", b"*abc\r\n", b"*2147483648\r\n", b"*99999999999999999999\r\n", b"*\r\n", b"* 1\r\n", b"*1 \r\n",
    b"*1\r\nPING\r\n", b"*1\r\n:4\r\nPING\r\n", b"*1\r\n$-1\r\n", b"*1\r\n$abc\r\n", b"*1\r\n$\r\n", b"*1\r\n$536870913\r\n", b"*1\r\n$99999999999999999999\r\n",
    b"*1\r\n$4\r\nPINGxx*1\r\n$4\r\nPING\r\n", b"*2\r\n$4\r\nECHO\r\n$0\r\n\r\n", b"*1\r\n$0\r\n\r\n", b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$5\r\nab\r\nc\r\n",
    b"*2\r\n$3\r\nGET\r\n$1\r\nk\r\n*2\r\n$3\r\nGET\r\n", b"*1\r\n$4\r\nQUIT\r\n*1\r\n$4\r\nPING\r\n", b"", b"\r\n", b"*1\r\n$4\r\nPI",
    b"a" * 70000, b"*1\r\n$" + b"1" * 70000,
    b"*" + b"1" * 70000, b"$4\r\nPING\r\n", b"+PING\r\n", b":1\r\n", b"*1\r\n*1\r\n$4\r\nPING\r\n",
]


def abuse(pair, report):
    """Bytes that are no protocol, then the end of the stream: the same answers, and both close."""
    rnd = random.Random(7)
    good = b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$5\r\nvalue\r\n*2\r\n$3\r\nGET\r\n$1\r\nk\r\n*1\r\n$4\r\nPING\r\n"
    inputs = list(BYTES)
    for _ in range(150):
        changed = bytearray(good)
        for _ in range(rnd.randint(1, 3)):
            changed[rnd.randrange(len(changed))] = rnd.choice(b"*$\r\n-0129a ")
        inputs.append(bytes(changed))
    for data in inputs:
        answers = [after_end(address, data) for address in pair.addresses]
        if answers[0] != answers[1]:
            report.add("bytes", [repr(data if len(data) < 200 else data[:80] + b"...%d bytes" % len(data))], *answers)
    return len(inputs)


def after_end(address, data):
    """What a server says to these bytes and the end of the stream; and whether it closes."""
    with Raw(address, timeout=5) as raw:
        try:
            raw.send(data)
            raw.socket.shutdown(1)
        except OSError:
            pass  # It may have closed already.
        return raw.rest_until_closed(5)


SCRIPTS = [handshakes, queues, expiry, scans, dumps, commands_told, abuse]
