use bytes::Bytes;

use super::*;

fn args(line: &str) -> Vec<Bytes> {
    line.split(' ').map(|word| Bytes::copy_from_slice(word.as_bytes())).collect()
}

fn keys_of(line: &str) -> Result<Vec<String>, KeysError> {
    let args = args(line);
    let spec = lookup(&args[0]).expect("there is such a command");
    Ok(keys(spec, &args)?.map(|key| String::from_utf8_lossy(key).into_owned()).collect())
}

#[test]
fn every_command_is_found_in_any_case() {
    for spec in all() {
        assert!(std::ptr::eq(lookup(spec.name.to_uppercase().as_bytes()).expect("listed"), spec));
        assert!(
            !spec.summary.is_empty() && !spec.group.is_empty() && !spec.since.is_empty(),
            "{}",
            spec.name
        );
        let step_counts = spec.first_key == 0 || spec.step > 0;
        assert!(step_counts, "{} has keys", spec.name);
    }
    assert!(lookup(b"").is_none());
    assert!(lookup(&[b'x'; 1000]).is_none());
}

#[test]
fn keys_are_where_redis_says() {
    let cases = [
        ("GET a", Ok(vec!["a"])),
        ("MSET a 1 b 2", Ok(vec!["a", "b"])),
        ("DEL a b c", Ok(vec!["a", "b", "c"])),
        ("bitop and d a b", Ok(vec!["d", "a", "b"])),
        ("BITFIELD a GET u8 0", Ok(vec!["a"])),
        ("copy a b DB 1", Ok(vec!["a", "b"])),
        ("OBJECT ENCODING a", Ok(vec!["a"])),
        ("OBJECT HELP", Ok(vec![])),
        ("PING", Ok(vec![])),
        ("RINGKV.VERSION a", Ok(vec!["a"])),
        ("GET", Err(KeysError::Arity)),
        ("GET a b", Err(KeysError::Arity)),
        ("OBJECT WHAT a", Err(KeysError::UnknownSubcommand)),
    ];
    for (line, expected) in cases {
        let expected = expected.map(|keys: Vec<&str>| keys.into_iter().map(str::to_owned).collect());
        assert_eq!(keys_of(line), expected, "{line}");
    }
}

#[test]
fn what_is_not_there_is_refused_in_the_words_of_redis() {
    let cases = [
        ("NOPE a b", "ERR unknown command 'NOPE', with args beginning with: 'a' 'b' "),
        ("RINGKV.VERSION a", "ERR unknown command 'RINGKV.VERSION', with args beginning with: 'a' "),
        ("get", "ERR wrong number of arguments for 'get' command"),
        ("object encoding", "ERR wrong number of arguments for 'object|encoding' command"),
        ("object what", "ERR unknown subcommand 'what'. Try OBJECT HELP."),
    ];
    for (line, expected) in cases {
        assert_eq!(resolve(&args(line)).err().as_deref(), Some(expected));
    }
    assert_eq!(resolve(&args("OBJECT Encoding a")).map(|spec| spec.name.as_str()), Ok("object|encoding"));
}
