"""Random Redis commands for the differential test: well-formed ones, and ones with something wrong.

Everything comes from one seeded generator. The keyspace is small, so that commands meet each other's keys. Keys that
one command takes together share a hash tag where the command is bound to one slot.
"""

TAGS = [b"{a}", b"{b}", b"{c}", b"{d}"]
NAMES = [b"1", b"2", b"3", b"4", b"5", b""]
LOOSE = [b"k%d" % number for number in range(12)] + [b"", b"{}", b"{}x", b"{", b"bin\x00\xff\r\n", b"}{a}{", b"user:{a}:x"]

INTEGERS = [b"0", b"1", b"-1", b"10", b"100", b"4294967296", b"9223372036854775807", b"-9223372036854775808",
            b"9223372036854775806"]
NOT_INTEGERS = [b"", b"abc", b"1.5", b" 1", b"1 ", b"+1", b"01", b"9223372036854775808", b"-9223372036854775809", b"-0",
                b"0x10", b"1e3", b"\x00", b"nan", b"inf", b"--1"]
FLOATS = [b"0", b"1.5", b"-2.25", b"3.0e3", b"0.1", b"1e17", b"-1e-5", b"10.50", b"5.0e-10", b"123456789.123456789",
          b"+2", b"1e308", b".5", b"3."]
NOT_FLOATS = [b"", b"abc", b" 1.5", b"1.5 ", b"nan", b"inf", b"-inf", b"1e400", b"1,5", b"1.5x", b"infinity"]
TEXTS = [b"", b"a", b"hello", b"foobar", b"\x00", b"\xff\xf0\x00", b"\x00\xff\xff", b"x" * 43, b"x" * 44, b"x" * 45,
         b"y" * 300, b"hello world", b"ohmytext", b"mynewtext", b"line\r\nbreak", "é∂".encode()]
JUNK = [b"", b"abc", b"NX", b"XX", b"GET", b"EX", b"10", b"-5", b"KEEPTTL", b"GT", b"MATCH", b"1.5", b"\x00\xff", b"*"]
UNKNOWN = [b"NOSUCH", b"GETT", b"foo bar", b"", b"\xff\xfe", b"x" * 200, b"GET\r\n"]
FAR_SECONDS, FAR_MS = 4102444800, 4102444800000


class Commands:
    """The generator."""

    def __init__(self, rnd):
        self.rnd = rnd
        makers = [name for name in dir(type(self)) if name.startswith("make_")]
        self.makers = [getattr(self, name) for name in sorted(makers)]
        self.tag = None

    # The parts of commands.

    def slot_key(self):
        return (self.tag or self.rnd.choice(TAGS)) + self.rnd.choice(NAMES)

    def key(self):
        if self.tag or self.rnd.random() < 0.6:
            return self.slot_key()
        return self.rnd.choice(LOOSE)

    def keys(self, low=1, high=4):
        return [self.key() for _ in range(self.rnd.randint(low, high))]

    def bound_keys(self, low, high):
        """Keys of one slot."""
        tag = self.tag or self.rnd.choice(TAGS)
        return [tag + self.rnd.choice(NAMES) for _ in range(self.rnd.randint(low, high))]

    def pick(self, good, bad, chance=0.12):
        return self.rnd.choice(bad if self.rnd.random() < chance else good)

    def integer(self):
        if self.rnd.random() < 0.5:
            return b"%d" % self.rnd.randint(-1000, 1000)
        return self.pick(INTEGERS, NOT_INTEGERS)

    def float(self):
        return self.pick(FLOATS + INTEGERS[:6], NOT_FLOATS)

    def index(self):
        return self.pick([b"%d" % self.rnd.randint(-12, 12)] * 6 + INTEGERS[6:], NOT_INTEGERS, 0.08)

    def value(self):
        draw = self.rnd.random()
        if draw < 0.25:
            return self.integer()
        if draw < 0.35:
            return self.float()
        return self.rnd.choice(TEXTS)

    def flag(self, *words):
        word = self.rnd.choice(words)
        return self.rnd.choice([word, word.lower(), word.capitalize()])

    def seconds(self):
        return self.pick([b"100", b"1000", b"100000"], [b"0", b"-1", b"abc", b"9223372036854775807", b"1.5",
                                                        b"9223372036854775", b"-9223372036854775808"], 0.2)

    def milliseconds(self):
        return self.pick([b"100000", b"10000000"], [b"0", b"-1", b"abc", b"9223372036854775807"], 0.2)

    def at_seconds(self):
        return self.pick([b"%d" % FAR_SECONDS, b"%d" % (FAR_SECONDS + 5)],
                         [b"0", b"1", b"-1", b"1000", b"abc", b"9223372036854775807"], 0.25)

    def at_ms(self):
        return self.pick([b"%d" % FAR_MS, b"%d" % (FAR_MS + 5)],
                         [b"0", b"1", b"-1", b"1000", b"abc", b"9223372036854775807"], 0.25)

    def expiry(self, *more):
        """An expiry option with its argument."""
        kinds = [(b"EX", self.seconds), (b"PX", self.milliseconds), (b"EXAT", self.at_seconds), (b"PXAT", self.at_ms)]
        word, argument = self.rnd.choice(kinds)
        options = [[self.flag(word), argument()]] * 4 + [[self.flag(extra)] for extra in more]
        return self.rnd.choice(options)

    # The commands, one family each; weights by being listed more than once.

    def make_set(self):
        command = [b"SET", self.key(), self.value()]
        if self.rnd.random() < 0.5:
            options = []
            if self.rnd.random() < 0.5:
                options.append(self.expiry(b"KEEPTTL"))
            if self.rnd.random() < 0.5:
                options.append([self.flag(b"NX", b"XX")])
            if self.rnd.random() < 0.4:
                options.append([self.flag(b"GET")])
            if self.rnd.random() < 0.1:
                options.append(self.rnd.choice([self.expiry(b"KEEPTTL"), [b"NX"], [b"XX"], [b"GET"], [b"BAD"]]))
            self.rnd.shuffle(options)
            for option in options:
                command += option
        return command

    make_set_again = make_set

    def make_get(self):
        return [b"GET", self.key()]

    make_get_again = make_get

    def make_set_families(self):
        return self.rnd.choice([
            [b"SETNX", self.key(), self.value()],
            [b"SETEX", self.key(), self.seconds(), self.value()],
            [b"PSETEX", self.key(), self.milliseconds(), self.value()],
            [b"GETSET", self.key(), self.value()],
            [b"GETDEL", self.key()],
        ])

    def make_getex(self):
        command = [b"GETEX", self.key()]
        if self.rnd.random() < 0.8:
            command += self.expiry(b"PERSIST")
        if self.rnd.random() < 0.08:
            command += self.expiry(b"PERSIST")
        return command

    def make_many(self):
        pairs = []
        for key in self.keys():
            pairs += [key, self.value()]
        bound = []
        for key in self.bound_keys(1, 3):
            bound += [key, self.value()]
        return self.rnd.choice([[b"MGET", *self.keys()], [b"MSET", *pairs], [b"MSETNX", *bound],
                                [b"EXISTS", *self.keys()], [b"TOUCH", *self.keys()]])

    def make_delete(self):
        return [self.rnd.choice([b"DEL", b"UNLINK"]), *self.keys(1, 2)]

    def make_text(self):
        return self.rnd.choice([
            [b"APPEND", self.key(), self.value()],
            [b"STRLEN", self.key()],
            [self.rnd.choice([b"GETRANGE", b"SUBSTR"]), self.key(), self.index(), self.index()],
            [b"SETRANGE", self.key(), self.pick([b"0", b"1", b"5", b"20"], [b"-1", b"abc", b"536870912", b"9223372036854775807"]),
             self.value()],
        ])

    make_text_again = make_text

    def make_number(self):
        return self.rnd.choice([
            [self.rnd.choice([b"INCR", b"DECR"]), self.key()],
            [self.rnd.choice([b"INCRBY", b"DECRBY"]), self.key(), self.integer()],
            [b"INCRBYFLOAT", self.key(), self.float()],
        ])

    make_number_again = make_number

    def offset(self):
        return self.pick([b"%d" % self.rnd.randint(0, 70)], [b"-1", b"4294967296", b"abc", b"1.5", b""], 0.1)

    def bit(self):
        return self.pick([b"0", b"1"], [b"2", b"-1", b"abc", b""], 0.1)

    def range(self):
        command = []
        if self.rnd.random() < 0.7:
            command += [self.index()]
            if self.rnd.random() < 0.9:
                command += [self.index()]
                if self.rnd.random() < 0.5:
                    command += [self.pick([self.flag(b"BIT", b"BYTE")], [b"BITE"], 0.1)]
        return command

    def make_bits(self):
        return self.rnd.choice([
            [b"SETBIT", self.key(), self.offset(), self.bit()],
            [b"GETBIT", self.key(), self.offset()],
            [b"BITCOUNT", self.key(), *self.range()],
            [b"BITPOS", self.key(), self.bit(), *self.range()],
            [b"BITOP", self.pick([self.flag(b"AND", b"OR", b"XOR", b"NOT")], [b"NAND"], 0.08), *self.bound_keys(2, 4)],
            [b"BITOP", self.flag(b"NOT"), *self.bound_keys(2, 2)],
        ])

    make_bits_again = make_bits

    def make_bitfield(self):
        only_reads = self.rnd.random() < 0.3
        command = [b"BITFIELD_RO" if only_reads else b"BITFIELD", self.key()]
        for _ in range(self.rnd.randint(0, 4)):
            kind = self.pick([b"u%d" % self.rnd.randint(1, 63), b"i%d" % self.rnd.randint(1, 64), b"u8", b"i8", b"I16"],
                             [b"u64", b"i65", b"u0", b"x8", b"u", b"8", b""], 0.07)
            place = self.pick([b"%d" % self.rnd.randint(0, 100), b"#%d" % self.rnd.randint(0, 4)],
                              [b"-1", b"#-1", b"#", b"abc", b"4294967296"], 0.07)
            word = self.flag(b"GET") if only_reads and self.rnd.random() < 0.9 else self.flag(
                b"GET", b"SET", b"INCRBY", b"OVERFLOW")
            if word.upper() == b"OVERFLOW":
                command += [word, self.pick([self.flag(b"WRAP", b"SAT", b"FAIL")], [b"SPILL"], 0.1)]
            elif word.upper() == b"GET":
                command += [word, kind, place]
            else:
                command += [word, kind, place, self.integer()]
        return command

    def make_lcs(self):
        command = [b"LCS", *self.bound_keys(2, 2)]
        for _ in range(self.rnd.randint(0, 3)):
            command += self.rnd.choice([[b"LEN"], [b"IDX"], [b"WITHMATCHLEN"], [b"MINMATCHLEN", self.integer()], [b"BAD"]])
        return command

    def make_keys_about(self):
        return self.rnd.choice([
            [b"TYPE", self.key()],
            [b"OBJECT", b"ENCODING", self.key()],
            [b"OBJECT", b"FREQ", self.key()],
            [b"OBJECT", b"IDLETIME", self.key()],
            [b"OBJECT", self.rnd.choice([b"NOSUCH", b"encoding", b"REFCOUNTS"])],
            [b"PERSIST", self.key()],
            [self.rnd.choice([b"TTL", b"PTTL", b"EXPIRETIME", b"PEXPIRETIME"]), self.key()],
        ])

    def make_expire(self):
        word, argument = self.rnd.choice([(b"EXPIRE", self.seconds), (b"PEXPIRE", self.milliseconds),
                                          (b"EXPIREAT", self.at_seconds), (b"PEXPIREAT", self.at_ms)])
        command = [word, self.key(), argument()]
        for _ in range(self.rnd.choice([0, 0, 1, 1, 1, 2])):
            command.append(self.pick([self.flag(b"NX", b"XX", b"GT", b"LT")], [b"BAD"], 0.1))
        return command

    def make_move(self):
        pair = self.bound_keys(2, 2)
        command = self.rnd.choice([[b"RENAME", *pair], [b"RENAMENX", *pair], [b"COPY", *pair]])
        if command[0] == b"COPY":
            if self.rnd.random() < 0.3:
                command.append(self.flag(b"REPLACE"))
            if self.rnd.random() < 0.3:
                command += [self.flag(b"DB"), self.rnd.choice([b"0", b"1", b"15", b"16", b"-1", b"abc"])]
        return command

    def make_whole(self):
        pattern = self.rnd.choice([b"*", b"k*", b"{a}*", b"k[0-5]", b"k?", b"k1[^0]", b"\\k1", b"*1*", b"[", b"{[ab]}*"])
        return self.rnd.choice([[b"KEYS", pattern], [b"DBSIZE"], [b"RANDOMKEY"]])

    def make_connection(self):
        return self.rnd.choice([
            [b"PING"], [b"PING", self.value()], [b"PING", b"a", b"b"], [b"ECHO", self.value()], [b"ECHO"],
            [b"SELECT", self.pick([b"0", b"0", b"0", b"3", b"15"], [b"16", b"-1", b"abc", b"9999999999", b""], 0.3)],
            [b"CLIENT", b"GETNAME"], [b"CLIENT", b"SETNAME", self.rnd.choice([b"me", b"", b"a b", b"x\n"])],
            [b"CLIENT", b"NO-EVICT", self.rnd.choice([b"on", b"OFF", b"maybe"])],
            [b"CLIENT", self.rnd.choice([b"NOSUCH", b"SETNAME"])],
            [b"EXEC"], [b"DISCARD"], [b"UNWATCH"],
            [b"COMMAND", b"GETKEYS", *self.rnd.choice([
                [b"GET", b"a"], [b"MSET", b"a", b"1", b"b", b"2"], [b"BITOP", b"AND", b"d", b"s", b"t"], [b"PING"],
                [b"NOSUCH"], [b"GET"], [b"LCS", b"a", b"b"], [b"OBJECT", b"ENCODING", b"k"], [b"COPY", b"a", b"b"]])],
            [b"COMMAND", b"NOSUCH"],
        ])

    def make_unknown(self):
        return [self.rnd.choice(UNKNOWN), *(self.value() for _ in range(self.rnd.randint(0, 4)))]

    # Whole commands.

    ONE_SLOT = {b"MSETNX", b"BITOP", b"LCS", b"RENAME", b"RENAMENX", b"COPY"}
    MANY = {b"MGET", b"MSET", b"EXISTS", b"TOUCH", b"DEL", b"UNLINK"}
    WHOLE = {b"SELECT", b"CLIENT", b"COMMAND", b"DBSIZE", b"KEYS", b"RANDOMKEY"}

    def next(self):
        """A command; one in twelve has something wrong with it."""
        command = self.rnd.choice(self.makers)()
        if self.rnd.random() < 0.08 and command[0] != b"COMMAND":
            command = self.damaged(command)
        if self.rnd.random() < 0.1:
            command[0] = self.rnd.choice([command[0].lower(), command[0].capitalize()])
        return command

    def damaged(self, command):
        """One argument too many, too few or replaced. The keys of commands bound to one slot stay what they are."""
        how = self.rnd.choice(["drop", "add", "replace"])
        if how == "drop" and len(command) > 1:
            return command[:-1]
        if self.tag and command[0].upper() in self.MANY:
            return command
        fixed = {b"LCS": 3, b"COPY": 3, b"RENAME": 3, b"RENAMENX": 3}.get(command[0].upper(), len(command))
        first = fixed if command[0].upper() in self.ONE_SLOT else 2
        if how == "replace" and first < len(command):
            at = self.rnd.randrange(first, len(command))
            return command[:at] + [self.rnd.choice(JUNK)] + command[at + 1:]
        if command[0].upper() in (b"BITOP", b"MSETNX"):
            return command
        return command + [self.rnd.choice(JUNK)]

    def in_slot(self, tag, count):
        """Commands of one slot, for a transaction."""
        self.tag = tag
        try:
            commands = []
            while len(commands) < count:
                command = self.next()
                if command[0].upper() in (b"EXEC", b"DISCARD", b"UNWATCH") or command[0].upper() in self.WHOLE:
                    continue
                commands.append(command)
            return commands
        finally:
            self.tag = None
