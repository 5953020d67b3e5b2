"""A real Redis on loopback, alone or as a cluster, to compare RingKV with; and a raw connection that keeps the bytes.

The servers are children of this process, keep their files in a temporary folder and end with it. Nothing else is
touched: ports are taken from those that are free, below the range the kernel gives to outgoing connections.
"""

import ctypes
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time

START_SECONDS = 30


PR_SET_PDEATHSIG = 1


def end_with_parent():
    """In a child: it is killed when the thread that started it ends, however that ends."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def free_ports(count):
    """Free ports whose cluster bus ports (10000 higher) are free, too."""
    found = []
    candidates = list(range(11000, 22000))
    random.shuffle(candidates)
    for port in candidates:
        try:
            for number in (port, port + 10000):
                with socket.socket() as probe:
                    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    probe.bind(("127.0.0.1", number))
        except OSError:
            continue
        found.append(port)
        if len(found) == count:
            return found
    raise SystemExit("too few free ports on loopback")


def until(what, seconds, condition):
    """Waits for `condition` to return something true."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            result = condition()
            if result:
                return result
        except (OSError, EOFError):
            pass
        if time.monotonic() > deadline:
            raise SystemExit(f"{what}: not within {seconds} s")
        time.sleep(0.05)


class Redis:
    """One redis-server."""

    def __init__(self, *options, port=None, folder=None):
        if shutil.which("redis-server") is None:
            raise SystemExit("redis-server is not installed: tools/setup")
        self.port = port or free_ports(1)[0]
        self.folder = folder or tempfile.mkdtemp(prefix="reference-redis-")
        self.options = options
        self.process = None
        self.start()

    def start(self):
        with open(os.path.join(self.folder, "log"), "ab") as log:
            self.process = subprocess.Popen(
                ["redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--dir", self.folder,
                 "--save", "", "--daemonize", "no", *self.options],
                stdout=log, stderr=log, stdin=subprocess.DEVNULL, preexec_fn=end_with_parent)
        until("the real Redis to answer", START_SECONDS, self.answers)

    def answers(self):
        if self.process.poll() is not None:
            raise SystemExit(f"redis-server has ended; its log is in {self.folder}")
        with Raw(("127.0.0.1", self.port)) as raw:
            return raw.call(b"PING").raw == b"+PONG\r\n"

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def address(self):
        return ("127.0.0.1", self.port)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()


class RedisCluster:
    """A real Redis Cluster: three masters, each with a replica when wanted."""

    def __init__(self, *options, replicas=0):
        count = 3 * (1 + replicas)
        self.replicas = replicas
        self.nodes = []
        try:
            for port in free_ports(count):
                self.nodes.append(Redis(
                    "--cluster-enabled", "yes", "--cluster-config-file", "nodes.conf",
                    "--cluster-node-timeout", "1000", "--repl-diskless-sync-delay", "0", *options, port=port))
            subprocess.run(
                ["redis-cli", "--cluster", "create", *(f"127.0.0.1:{node.port}" for node in self.nodes),
                 "--cluster-replicas", str(replicas), "--cluster-yes"],
                check=True, stdout=subprocess.DEVNULL)
            until("the real cluster to be well", START_SECONDS, self.well)
        except BaseException:
            self.stop()
            raise

    def well(self):
        for node in self.nodes:
            with Raw(node.address) as raw:
                info = raw.call(b"CLUSTER", b"INFO").raw
                if b"cluster_state:ok" not in info or b"cluster_slots_ok:16384" not in info:
                    return False
                role = raw.call(b"INFO", b"replication").raw
                if b"role:slave" in role and b"master_link_status:up" not in role:
                    return False
        return True

    def stop(self):
        for node in self.nodes:
            node.stop()

    @property
    def addresses(self):
        return [node.address for node in self.nodes]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()


class Reply:
    """A reply: the bytes as sent, and what they say."""

    __slots__ = ("raw", "kind", "value")

    def __init__(self, raw, kind, value):
        self.raw, self.kind, self.value = raw, kind, value

    def __repr__(self):
        return repr(self.raw if len(self.raw) <= 300 else self.raw[:300] + b"...")

    @property
    def is_error(self):
        return self.kind in b"-!"


class Raw:
    """A connection that sends any bytes and returns replies with the bytes they came in."""

    def __init__(self, address, timeout=20):
        self.socket = socket.create_connection(address, timeout=timeout)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.buffer = b""
        self.at = 0

    def close(self):
        self.socket.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    @staticmethod
    def pack(args):
        parts = [b"*%d\r\n" % len(args)]
        parts += [b"$%d\r\n%s\r\n" % (len(arg), arg) for arg in args]
        return b"".join(parts)

    def send(self, data):
        self.socket.sendall(data)

    def call(self, *args):
        self.send(self.pack(args))
        return self.reply()

    def more(self):
        data = self.socket.recv(1 << 16)
        if not data:
            raise EOFError("the server closed the connection")
        self.buffer += data

    def line(self):
        while True:
            end = self.buffer.find(b"\r\n", self.at)
            if end >= 0:
                line = self.buffer[self.at:end]
                self.at = end + 2
                return line
            self.more()

    def take(self, count):
        while len(self.buffer) < self.at + count:
            self.more()
        data = self.buffer[self.at:self.at + count]
        self.at += count
        return data

    def reply(self):
        """The next reply; EOFError when the server has closed instead."""
        self.buffer, self.at = self.buffer[self.at:], 0
        kind, value = self.parse()
        return Reply(self.buffer[:self.at], kind, value)

    def parse(self):
        line = self.line()
        kind, rest = line[:1], line[1:]
        if kind in (b"+", b"-", b":", b",", b"#", b"_", b"("):
            return kind, int(rest) if kind == b":" else rest
        if kind in (b"$", b"=", b"!"):
            length = int(rest)
            if length < 0:
                return kind, None
            data = self.take(length)
            self.take(2)
            return kind, data
        if kind in (b"*", b"~", b">"):
            length = int(rest)
            return kind, None if length < 0 else [self.parse() for _ in range(length)]
        if kind == b"%":
            return kind, [(self.parse(), self.parse()) for _ in range(int(rest))]
        raise ValueError(f"no RESP reply begins so: {line[:80]!r}")

    def rest_until_closed(self, seconds):
        """What comes until the server closes; and whether it closed in time."""
        self.socket.settimeout(seconds)
        try:
            while True:
                self.more()
        except EOFError:
            closed = True
        except ConnectionError:
            closed = True
        except TimeoutError:
            closed = False
        data, self.buffer, self.at = self.buffer[self.at:], b"", 0
        return data, closed
