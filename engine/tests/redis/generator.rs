//! Random Redis commands, well-formed and not, from a seed.

use bytes::Bytes;

/// The values that `proto-max-bulk-len` of the real server must have, and the longest value here.
pub const VALUE_BYTES_MAX: usize = 1 << 20;
/// Keys are few, so that commands meet each other's values.
pub const KEYS: [&str; 10] = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j"];
/// Namespaces in use.
pub const NAMESPACES: u8 = 3;
/// An expiry in the year 2200, in seconds.
const FAR: u64 = 7_258_118_400;

/// SplitMix64: the same commands for the same seed.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    /// Once in so many times.
    pub fn once_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }

    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[usize::try_from(self.below(from.len() as u64)).expect("an index")]
    }
}

/// What an argument may be.
#[derive(Clone, Copy)]
enum Arg {
    Key,
    Value,
    Integer,
    Float,
    /// Positions of bytes or bits.
    Index,
    BitOffset,
    Bit,
    FieldType,
    FieldOffset,
    /// How long from now: far away, or no time there can be.
    Seconds,
    Milliseconds,
    /// When: far away or in the past.
    SecondsAt,
    MillisecondsAt,
    Payload,
    Word(&'static str),
    /// One of these words.
    One(&'static [&'static str]),
    /// None or some of these sequences, in any order.
    Some(&'static [&'static [Arg]]),
    /// One to three times this sequence.
    Many(&'static [Arg]),
}

use Arg::*;

const EXPIRIES: [&[Arg]; 4] = [
    &[Word("EX"), Seconds],
    &[Word("PX"), Milliseconds],
    &[Word("EXAT"), SecondsAt],
    &[Word("PXAT"), MillisecondsAt],
];
const SET_OPTIONS: &[&[Arg]] = &[
    EXPIRIES[0],
    EXPIRIES[1],
    EXPIRIES[2],
    EXPIRIES[3],
    &[Word("nx")],
    &[Word("XX")],
    &[Word("Get")],
    &[Word("KEEPTTL")],
];
const GETEX_OPTIONS: &[&[Arg]] = &[EXPIRIES[0], EXPIRIES[1], EXPIRIES[2], EXPIRIES[3], &[Word("PERSIST")]];
const EXPIRE_OPTIONS: &[&[Arg]] = &[&[Word("NX")], &[Word("xx")], &[Word("GT")], &[Word("lt")]];
const COPY_OPTIONS: &[&[Arg]] =
    &[&[Word("REPLACE")], &[Word("DB"), One(&["0", "1", "2", "2", "16", "-1", "x", "4294967296"])]];
const LCS_OPTIONS: &[&[Arg]] = &[
    &[Word("LEN")],
    &[Word("IDX")],
    &[Word("MINMATCHLEN"), One(&["0", "1", "2", "3", "-1", "x"])],
    &[Word("WITHMATCHLEN")],
];
const RESTORE_OPTIONS: &[&[Arg]] = &[
    &[Word("REPLACE")],
    &[Word("ABSTTL")],
    &[Word("IDLETIME"), One(&["0", "1000", "-1", "x"])],
    &[Word("FREQ"), One(&["0", "255", "256", "-1"])],
];
const FIELD_OPERATIONS: &[&[Arg]] = &[
    &[Word("GET"), FieldType, FieldOffset],
    &[Word("set"), FieldType, FieldOffset, Integer],
    &[Word("INCRBY"), FieldType, FieldOffset, Integer],
    &[Word("OVERFLOW"), One(&["WRAP", "sat", "FAIL", "none"])],
];
const UNITS: Arg = One(&["BIT", "byte", "BYTE", "bits"]);

/// Every command over keys, each as often as it is here.
const COMMANDS: &[(&str, &[Arg])] = &[
    ("GET", &[Key]),
    ("SET", &[Key, Value]),
    ("SET", &[Key, Value, Some(SET_OPTIONS)]),
    ("SET", &[Key, Value, Some(SET_OPTIONS)]),
    ("SETNX", &[Key, Value]),
    ("SETEX", &[Key, Seconds, Value]),
    ("PSETEX", &[Key, Milliseconds, Value]),
    ("GETSET", &[Key, Value]),
    ("GETDEL", &[Key]),
    ("GETEX", &[Key, Some(GETEX_OPTIONS)]),
    ("MGET", &[Many(&[Key])]),
    ("MSET", &[Many(&[Key, Value])]),
    ("MSETNX", &[Many(&[Key, Value])]),
    ("APPEND", &[Key, Value]),
    ("STRLEN", &[Key]),
    ("GETRANGE", &[Key, Index, Index]),
    ("SUBSTR", &[Key, Index, Index]),
    ("SETRANGE", &[Key, Index, Value]),
    ("SETBIT", &[Key, BitOffset, Bit]),
    ("GETBIT", &[Key, BitOffset]),
    ("BITCOUNT", &[Key]),
    ("BITCOUNT", &[Key, Index, Index]),
    ("BITCOUNT", &[Key, Index, Index, UNITS]),
    ("BITPOS", &[Key, Bit]),
    ("BITPOS", &[Key, Bit, Index]),
    ("BITPOS", &[Key, Bit, Index, Index]),
    ("BITPOS", &[Key, Bit, Index, Index, UNITS]),
    ("BITOP", &[One(&["AND", "or", "XOR"]), Key, Many(&[Key])]),
    ("BITOP", &[One(&["NOT", "not", "nand"]), Key, Key]),
    ("BITFIELD", &[Key, Some(FIELD_OPERATIONS)]),
    ("BITFIELD", &[Key, Many(&[Word("INCRBY"), FieldType, FieldOffset, Integer])]),
    ("BITFIELD_RO", &[Key, Many(&[Word("GET"), FieldType, FieldOffset])]),
    ("BITFIELD_RO", &[Key, Some(FIELD_OPERATIONS)]),
    ("INCR", &[Key]),
    ("DECR", &[Key]),
    ("INCRBY", &[Key, Integer]),
    ("DECRBY", &[Key, Integer]),
    ("INCRBYFLOAT", &[Key, Float]),
    ("INCRBYFLOAT", &[Key, Integer]),
    ("LCS", &[Key, Key, Some(LCS_OPTIONS)]),
    ("DEL", &[Many(&[Key])]),
    ("UNLINK", &[Key]),
    ("EXISTS", &[Many(&[Key])]),
    ("TOUCH", &[Many(&[Key])]),
    ("TYPE", &[Key]),
    ("RENAME", &[Key, Key]),
    ("RENAMENX", &[Key, Key]),
    ("COPY", &[Key, Key, Some(COPY_OPTIONS)]),
    ("EXPIRE", &[Key, Seconds, Some(EXPIRE_OPTIONS)]),
    ("PEXPIRE", &[Key, Milliseconds, Some(EXPIRE_OPTIONS)]),
    ("EXPIREAT", &[Key, SecondsAt, Some(EXPIRE_OPTIONS)]),
    ("PEXPIREAT", &[Key, MillisecondsAt, Some(EXPIRE_OPTIONS)]),
    ("TTL", &[Key]),
    ("PTTL", &[Key]),
    ("EXPIRETIME", &[Key]),
    ("PEXPIRETIME", &[Key]),
    ("PERSIST", &[Key]),
    ("OBJECT", &[One(&["ENCODING", "encoding", "REFCOUNT", "FREQ", "IDLETIME", "WHAT"]), Key]),
    ("OBJECT", &[Word("HELP")]),
    ("DUMP", &[Key]),
    ("RESTORE", &[Key, One(&["0", "0", "1000000000", "-1", "x"]), Payload, Some(RESTORE_OPTIONS)]),
    ("RESTORE", &[Key, MillisecondsAt, Payload, Word("ABSTTL"), Word("REPLACE")]),
    ("NOSUCHCOMMAND", &[Some(&[&[Key], &[Word("with words")]])]),
];

/// Gives one command after the other.
pub struct Generator {
    pub random: Random,
    payloads: Vec<Bytes>,
}

impl Generator {
    pub fn new(seed: u64) -> Generator {
        Generator { random: Random::new(seed), payloads: vec![Bytes::from_static(b"no payload at all")] }
    }

    /// The next command. One in ten is broken in some way.
    pub fn command(&mut self) -> Vec<Bytes> {
        let (name, shape) = *self.random.pick(COMMANDS);
        let name = if self.random.once_in(4) { name.to_lowercase() } else { name.to_owned() };
        let mut args = vec![Bytes::from(name)];
        for &arg in shape {
            self.push(&mut args, arg);
        }
        if self.random.once_in(10) {
            self.break_one(&mut args);
        }
        args
    }

    /// What a DUMP has answered may be given to a RESTORE.
    pub fn remember(&mut self, payload: Bytes) {
        if payload.len() < 1 << 12 {
            self.payloads.push(payload);
        }
        if self.payloads.len() > 16 {
            self.payloads.remove(1);
        }
    }

    fn break_one(&mut self, args: &mut Vec<Bytes>) {
        let at = usize::try_from(self.random.below(args.len() as u64)).expect("an index");
        match self.random.below(4) {
            0 if at > 0 => drop(args.remove(at)),
            1 if at > 0 => args.insert(at, args[at].clone()),
            2 => args.push(Bytes::from_static(b"junk")),
            _ if at > 0 => args[at] = Bytes::from_static(b"more\0junk"),
            _ => args.truncate(1),
        }
    }

    fn push(&mut self, args: &mut Vec<Bytes>, arg: Arg) {
        match arg {
            Some(sequences) => {
                for _ in 0..self.random.below(4) {
                    let sequence = *self.random.pick(sequences);
                    sequence.iter().for_each(|&arg| self.push(args, arg));
                }
            }
            Many(sequence) => {
                for _ in 0..=self.random.below(3) {
                    sequence.iter().for_each(|&arg| self.push(args, arg));
                }
            }
            Value => args.push(self.value()),
            Payload => args.push(self.payload()),
            _ => args.push(Bytes::from(self.text(arg))),
        }
    }

    fn payload(&mut self) -> Bytes {
        let payload = self.random.pick(&self.payloads).clone();
        if !self.random.once_in(8) {
            return payload;
        }
        let mut broken = payload.to_vec();
        let at = usize::try_from(self.random.below(broken.len() as u64)).expect("an index");
        broken[at] ^= 1 << self.random.below(8);
        broken.into()
    }

    fn value(&mut self) -> Bytes {
        match self.random.below(8) {
            0..=2 => Bytes::from(self.text(Integer)),
            3 => Bytes::from(self.text(Float)),
            4 => Bytes::from_static(b""),
            5 => (0..self.random.below(8)).map(|_| self.random.next().to_le_bytes()[0]).collect(),
            // Around the lengths at which Redis changes how it holds a value, from few letters for LCS.
            6 => (0..self.random.below(60)).map(|_| *self.random.pick(b"abcd")).collect(),
            _ => (0..self.random.below(50)).map(|_| *self.random.pick(&[0, 0xff, 0xff, 1, 0x80])).collect(),
        }
    }

    fn text(&mut self, arg: Arg) -> String {
        let random = &mut self.random;
        match arg {
            Key => (*random.pick(&KEYS)).to_owned(),
            Word(word) => word.to_owned(),
            One(words) => (*random.pick(words)).to_owned(),
            Integer => integer(random),
            Float => float(random),
            Index => match random.below(6) {
                0 => integer(random),
                1 => random.below(400).to_string(),
                2 => format!("-{}", random.below(70)),
                _ => random.below(70).to_string(),
            },
            BitOffset => match random.below(40) {
                0 => integer(random),
                1 => (VALUE_BYTES_MAX as u64 * 8 - 1 - random.below(2)).to_string(),
                2 => (VALUE_BYTES_MAX as u64 * 8 + random.below(2)).to_string(),
                _ => random.below(300).to_string(),
            },
            Bit => (*random.pick(&["0", "0", "0", "1", "1", "1", "2", "-1", "x"])).to_owned(),
            FieldType => match random.below(20) {
                0 => (*random.pick(&["u64", "i65", "x8", "u0", "i", "", "u-1", "i08"])).to_owned(),
                _ => format!("{}{}", random.pick(&['u', 'i']), 1 + random.below(63)),
            },
            FieldOffset => match random.below(20) {
                0 => (*random.pick(&["-1", "#-1", "#", "x", "9223372036854775807", "#9223372036854775807"]))
                    .to_owned(),
                1..=6 => format!("#{}", random.below(8)),
                _ => random.below(200).to_string(),
            },
            Seconds => match random.below(8) {
                0 => integer_but_soon(random),
                _ => (1_000_000 + random.below(1 << 40)).to_string(),
            },
            Milliseconds => match random.below(8) {
                0 => integer_but_soon(random),
                _ => (1_000_000_000 + random.below(1 << 50)).to_string(),
            },
            SecondsAt => match random.below(6) {
                0 => integer_but_soon(random),
                1 => random.below(1_000_000_000).to_string(),
                _ => (FAR + random.below(1 << 30)).to_string(),
            },
            MillisecondsAt => match random.below(6) {
                0 => integer_but_soon(random),
                1 => random.below(1_000_000_000_000).to_string(),
                _ => (FAR * 1000 + random.below(1 << 40)).to_string(),
            },
            Value | Payload | Some(_) | Many(_) => unreachable!("not one text"),
        }
    }
}

/// Integers of all lengths, those at the ends of types more often, and what only looks like one.
fn integer(random: &mut Random) -> String {
    const EDGES: [i128; 12] = [
        0,
        127,
        128,
        255,
        9999,
        10_000,
        32_768,
        1 << 31,
        i64::MAX as i128,
        i64::MAX as i128 / 1000,
        i64::MAX as i128 + 1,
        u64::MAX as i128,
    ];
    let number = match random.below(8) {
        0 | 1 => *random.pick(&EDGES) + i128::from(random.below(3)) - 1,
        2 => i128::from(random.next() >> random.below(64)),
        3 => {
            return (*random.pick(&["", "x", "1.5", "+1", " 1", "1 ", "01", "-0", "0x10", "1e3"])).to_owned();
        }
        _ => i128::from(random.below(200)),
    };
    if random.once_in(3) { (-number).to_string() } else { number.to_string() }
}

/// An integer that is no time within the next hours, so that nothing expires while the test runs: too large, zero,
/// negative or no number.
fn integer_but_soon(random: &mut Random) -> String {
    let choices = [
        "0",
        "-1",
        "-1000",
        "x",
        "",
        "9223372036854775807",
        "9223372036854775806",
        "9223372036854775",
        "9223372036854776",
        "-9223372036854775808",
        "9223372036854775808",
        "1.5",
    ];
    (*random.pick(&choices)).to_owned()
}

/// Numbers with a point, an exponent, or neither; hexadecimal; infinite; and none.
pub fn float(random: &mut Random) -> String {
    let sign = *random.pick(&["", "", "", "-", "+"]);
    let digits = random.next() >> random.below(64);
    match random.below(12) {
        0 => (*random
            .pick(&["inf", "-inf", "nan", "Infinity", "1e", ".", "e5", "1.2.3", "0x", " 1", "1 ", "1e5000"]))
        .to_owned(),
        1 => format!("{sign}0x{digits:x}.{:x}p{}", random.next() >> 40, random.below(80)),
        2 => format!("{sign}{digits}e{}", random.below(40)),
        3 => format!("{sign}{digits}e-{}", random.below(40)),
        4 => format!("{sign}.{digits}"),
        5 => format!("{sign}{}.", random.below(1000)),
        6 => format!("{sign}{}.{:019}e{}", random.below(10), digits, random.below(20)),
        7 if random.once_in(8) => format!("{sign}{digits}e{}", 4900 + random.below(30)),
        8 if random.once_in(4) => format!("{sign}{digits}e-{}", 4900 + random.below(80)),
        _ => format!("{sign}{}.{}", random.below(100_000), random.below(1_000_000)),
    }
}
