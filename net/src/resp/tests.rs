use bytes::{Bytes, BytesMut};
use proptest::prelude::*;

use super::*;

fn encoded(value: &Value, version: Version) -> Bytes {
    let mut out = BytesMut::new();
    encode(value, version, &mut out);
    out.freeze()
}

fn decoded(bytes: &[u8]) -> Result<Option<Value>, ProtocolError> {
    decode_value(&mut Bytes::copy_from_slice(bytes))
}

/// Everything a decoder finds in `bytes` when it gets them in pieces of these lengths, over and over.
fn requests(bytes: &[u8], pieces: &[usize]) -> (Vec<Vec<Bytes>>, Option<ProtocolError>) {
    requests_within(DecoderLimits::default(), bytes, pieces)
}

fn requests_within(
    limits: DecoderLimits,
    mut bytes: &[u8],
    pieces: &[usize],
) -> (Vec<Vec<Bytes>>, Option<ProtocolError>) {
    let mut decoder = RequestDecoder::new(limits);
    let mut buffer = BytesMut::new();
    let mut found = Vec::new();
    for piece in pieces.iter().cycle() {
        let (now, later) = bytes.split_at((*piece).clamp(1, bytes.len().max(1)).min(bytes.len()));
        buffer.extend_from_slice(now);
        bytes = later;
        loop {
            match decoder.decode(&mut buffer) {
                Ok(Some(request)) => found.push(request),
                Ok(None) => break,
                Err(error) => return (found, Some(error)),
            }
        }
        if bytes.is_empty() {
            return (found, None);
        }
    }
    (found, None)
}

fn one_error(bytes: &[u8]) -> String {
    requests(bytes, &[bytes.len()]).1.expect("an error").to_string()
}

fn words(line: &str) -> Vec<Bytes> {
    let (mut found, error) = requests(line.as_bytes(), &[line.len()]);
    assert_eq!(error, None);
    found.pop().unwrap_or_default()
}

fn request_bytes(args: &[Vec<u8>]) -> Vec<u8> {
    let mut out = format!("*{}\r\n", args.len()).into_bytes();
    for arg in args {
        out.extend_from_slice(format!("${}\r\n", arg.len()).as_bytes());
        out.extend_from_slice(arg);
        out.extend_from_slice(b"\r\n");
    }
    out
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        "[ -~]{0,20}".prop_map(|text| Value::Simple(text.into())),
        "[ -~]{0,20}".prop_map(Value::Error),
        any::<i64>().prop_map(Value::Integer),
        any::<f64>().prop_filter("equal to itself", |number| !number.is_nan()).prop_map(Value::Double),
        any::<bool>().prop_map(Value::Boolean),
        prop::collection::vec(any::<u8>(), 0..40).prop_map(Value::bulk),
        prop::collection::vec(any::<u8>(), 0..40)
            .prop_map(|text| Value::Verbatim { format: *b"txt", text: text.into() }),
        "-?[1-9][0-9]{0,30}".prop_map(Value::BigNumber),
    ];
    leaf.prop_recursive(4, 64, 8, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..8).prop_map(Value::Array),
            prop::collection::vec(inner.clone(), 0..8).prop_map(Value::Set),
            prop::collection::vec(inner.clone(), 0..8).prop_map(Value::Push),
            prop::collection::vec((inner.clone(), inner), 0..8).prop_map(Value::Map),
        ]
    })
}

#[test]
fn values_have_the_forms_redis_sends() {
    let pairs = [
        (Value::Null, "$-1\r\n", "_\r\n"),
        (Value::NullArray, "*-1\r\n", "_\r\n"),
        (Value::OK, "+OK\r\n", "+OK\r\n"),
        (Value::error("ERR a\r\nb"), "-ERR a  b\r\n", "-ERR a  b\r\n"),
        (Value::Integer(i64::MIN), ":-9223372036854775808\r\n", ":-9223372036854775808\r\n"),
        (Value::Integer(0), ":0\r\n", ":0\r\n"),
        (Value::Double(1.5), "$3\r\n1.5\r\n", ",1.5\r\n"),
        (Value::Double(f64::NEG_INFINITY), "$4\r\n-inf\r\n", ",-inf\r\n"),
        (Value::Boolean(true), ":1\r\n", "#t\r\n"),
        (Value::bulk("ab"), "$2\r\nab\r\n", "$2\r\nab\r\n"),
        (Value::Verbatim { format: *b"txt", text: "ab".into() }, "$2\r\nab\r\n", "=6\r\ntxt:ab\r\n"),
        (Value::BigNumber("12".to_owned()), "$2\r\n12\r\n", "(12\r\n"),
        (Value::Map(vec![(Value::Integer(1), Value::Null)]), "*2\r\n:1\r\n$-1\r\n", "%1\r\n:1\r\n_\r\n"),
        (Value::Set(vec![Value::Integer(1)]), "*1\r\n:1\r\n", "~1\r\n:1\r\n"),
        (Value::Push(vec![Value::Integer(1)]), "*1\r\n:1\r\n", ">1\r\n:1\r\n"),
        (Value::Array(vec![]), "*0\r\n", "*0\r\n"),
    ];
    for (value, two, three) in pairs {
        assert_eq!(encoded(&value, Version::Resp2), two.as_bytes(), "{value:?}");
        assert_eq!(encoded(&value, Version::Resp3), three.as_bytes(), "{value:?}");
    }
}

#[test]
fn replies_that_contradict_themselves_are_refused() {
    for bad in [
        "x\r\n",
        "$-2\r\n",
        "$3\r\nabcde",
        "*99999999999\r\n",
        ":1\rx",
        ":one\r\n",
        "\r\n",
        "=2\r\nab\r\n",
        "#x\r\n",
    ] {
        assert!(decoded(bad.as_bytes()).is_err(), "{bad:?}");
    }
    assert!(decoded("*1\r\n".repeat(100_000).as_bytes()).is_err(), "nested without end");
}

#[test]
fn an_announced_array_reserves_nothing() {
    assert_eq!(decoded(b"*4294967295\r\n:1\r\n"), Ok(None));
    assert_eq!(decoded(b"$4294967295\r\nab"), Ok(None));
}

#[test]
fn attributes_are_passed_over() {
    assert_eq!(decoded(b"|1\r\n+ttl\r\n:9\r\n:7\r\n"), Ok(Some(Value::Integer(7))));
}

#[test]
fn arguments_are_slices_of_the_buffer() {
    let mut buffer = BytesMut::from(&b"*2\r\n$3\r\nGET\r\n$1\r\nk\r\n*1\r\n"[..]);
    let range = buffer.as_ptr_range();
    let request = RequestDecoder::new(DecoderLimits::default()).decode(&mut buffer).unwrap().unwrap();
    assert_eq!(request, [&b"GET"[..], b"k"]);
    assert!(request.iter().all(|arg| range.contains(&arg.as_ptr())));
    assert_eq!(&buffer[..], b"*1\r\n");
}

#[test]
fn requests_typed_as_lines_are_split_as_redis_does() {
    assert_eq!(words("PING\r\n"), ["PING"]);
    assert_eq!(words("  set  a\tb \n"), ["set", "a", "b"]);
    assert_eq!(words("set 'a b' \"\\x41\\n\\\"c\"\r\n"), ["set", "a b", "A\n\"c"]);
    assert_eq!(words("set '' \"\"\r\n"), ["set", "", ""]);
    assert_eq!(words("echo 'it\\'s \\n'\r\n"), ["echo", "it's \\n"]);
    assert_eq!(words("\r\n \r\n*0\r\n*-1\r\nPING\r\n"), ["PING"]);
    for unbalanced in ["set 'a\r\n", "set \"a\r\n", "set 'a'b\r\n", "set \"a\"b\r\n", "set \"a\\\r\n"] {
        assert_eq!(one_error(unbalanced.as_bytes()), "Protocol error: unbalanced quotes in request");
    }
}

#[test]
fn what_is_no_request_is_refused_in_the_words_of_redis() {
    let long = "9".repeat(LINE + 2);
    for (bytes, text) in [
        ("*x\r\n", "invalid multibulk length"),
        ("*1048577\r\n", "invalid multibulk length"),
        ("*99999999999999999999\r\n", "invalid multibulk length"),
        ("*1\r\nGET\r\n", "expected '$', got 'G'"),
        ("*1\r\n$-1\r\n", "invalid bulk length"),
        ("*1\r\n$1073741824\r\n", "invalid bulk length"),
        ("*1\r\n$x\r\n", "invalid bulk length"),
        (&format!("*{long}"), "too big mbulk count string"),
        (&format!("*1\r\n${long}"), "too big bulk count string"),
        (&long, "too big inline request"),
    ] {
        assert_eq!(one_error(bytes.as_bytes()), format!("Protocol error: {text}"));
    }
}

const LINE: usize = 64 << 10;

#[test]
fn who_has_not_given_the_password_may_send_little() {
    let refused = |bytes: &[u8]| {
        let mut decoder = RequestDecoder::new(DecoderLimits::default());
        decoder.set_authenticated(false);
        decoder.decode(&mut BytesMut::from(bytes)).unwrap_err()
    };
    assert_eq!(refused(b"*11\r\n"), ProtocolError::UnauthenticatedCount);
    assert_eq!(refused(b"*1\r\n$16385\r\n"), ProtocolError::UnauthenticatedLength);
}

#[test]
fn a_request_is_bounded_as_a_whole() {
    let limits = DecoderLimits { request_bytes_max: 1000, ..DecoderLimits::default() };
    let bytes = request_bytes(&vec![vec![b'x'; 100]; 7]);
    assert_eq!(requests_within(limits, &bytes, &[10]).1, Some(ProtocolError::RequestTooBig));
    let bytes = request_bytes(&vec![Vec::new(); 20]);
    assert_eq!(
        requests_within(limits, &bytes, &[10]).1,
        Some(ProtocolError::RequestTooBig),
        "empty ones count"
    );
}

#[test]
fn an_announced_argument_reserves_nothing() {
    let mut decoder = RequestDecoder::new(DecoderLimits::default());
    let mut buffer = BytesMut::from(&b"*1048576\r\n$67108864\r\nab"[..]);
    assert_eq!(decoder.decode(&mut buffer), Ok(None));
    assert!(buffer.capacity() < 1000 && decoder.positions_capacity() == 0);
    assert_eq!(decoder.missing_bytes(&buffer), (64 << 20) + 2 - 2);
}

proptest! {
    #[test]
    fn a_value_reads_back_as_it_was(value in value(), cut in any::<prop::sample::Index>()) {
        let bytes = encoded(&value, Version::Resp3);
        prop_assert_eq!(decoded(&bytes[..cut.index(bytes.len())]), Ok(None));
        let mut rest = Bytes::from([&bytes[..], b"+next\r\n"].concat());
        prop_assert_eq!(decode_value(&mut rest), Ok(Some(value.clone())));
        prop_assert_eq!(&rest[..], b"+next\r\n");
        prop_assert!(matches!(decoded(&encoded(&value, Version::Resp2)), Ok(Some(_))));
    }

    #[test]
    fn requests_are_the_same_in_any_pieces(
        commands in prop::collection::vec(
            prop::collection::vec(prop::collection::vec(any::<u8>(), 0..30), 1..6), 0..6),
        pieces in prop::collection::vec(1usize..20, 1..6),
    ) {
        let bytes: Vec<u8> = commands.iter().flat_map(|args| request_bytes(args)).collect();
        let (found, error) = requests(&bytes, &pieces);
        prop_assert_eq!(error, None);
        prop_assert_eq!(found, commands.iter().map(|args| args.iter().map(|arg| Bytes::from(arg.clone())).collect::<Vec<_>>()).collect::<Vec<_>>());
    }

    #[test]
    fn any_bytes_are_read_the_same_in_any_pieces(
        bytes in prop::collection::vec(prop_oneof![
            Just(b'*'), Just(b'$'), Just(b'\r'), Just(b'\n'), Just(b'1'), Just(b'2'), Just(b'"'), Just(b'-'), any::<u8>()
        ], 0..200),
        pieces in prop::collection::vec(1usize..20, 1..6),
    ) {
        prop_assert_eq!(requests(&bytes, &pieces), requests(&bytes, &[bytes.len()]));
        let _ = decoded(&bytes);
    }
}
