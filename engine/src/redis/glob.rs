//! Glob patterns as in KEYS, SCAN MATCH and CONFIG GET: `*`, `?`, `[a-z]`, `[^a-z]` and `\` before a sign.
//!
//! Only the last `*` is ever widened, so the time is at most the product of both lengths, whatever the pattern.

/// Does the whole text match the pattern?
pub fn matches(pattern: &[u8], text: &[u8], ignore_case: bool) -> bool {
    if text.is_empty() {
        // As in Redis, of the patterns that could, only the plainest matches nothing.
        return pattern.is_empty() || pattern == b"*";
    }
    let (mut at, mut seen) = (0, 0);
    // After a `*`: where the pattern goes on, and where in the text what it covers ends.
    let mut star: Option<(usize, usize)> = None;
    while seen < text.len() {
        if pattern.get(at) == Some(&b'*') {
            at += 1;
            star = Some((at, seen));
        } else if let Some(next) = matches_one(pattern, at, text[seen], ignore_case) {
            at = next;
            seen += 1;
        } else if let Some((after_star, covered)) = star {
            star = Some((after_star, covered + 1));
            at = after_star;
            seen = covered + 1;
        } else {
            return false;
        }
    }
    pattern[at..].iter().all(|&sign| sign == b'*')
}

/// Where the pattern goes on if its sign at `at` matches the byte.
fn matches_one(pattern: &[u8], at: usize, byte: u8, ignore_case: bool) -> Option<usize> {
    let fold = |byte: u8| if ignore_case { byte.to_ascii_lowercase() } else { byte };
    let same = |sign: u8| fold(sign) == fold(byte);
    match *pattern.get(at)? {
        b'?' => Some(at + 1),
        b'[' => {
            let (is_in, next) = class(pattern, at + 1, fold(byte), fold);
            is_in.then_some(next)
        }
        b'\\' if at + 1 < pattern.len() => same(pattern[at + 1]).then_some(at + 2),
        sign => same(sign).then_some(at + 1),
    }
}

/// Is the byte in the class that begins at `at`, and where does the pattern go on? A class that is not closed ends with
/// the pattern.
fn class(pattern: &[u8], mut at: usize, byte: u8, fold: impl Fn(u8) -> u8) -> (bool, usize) {
    let negated = pattern.get(at) == Some(&b'^');
    at += usize::from(negated);
    let mut is_in = false;
    while at < pattern.len() {
        match &pattern[at..] {
            [b'\\', sign, ..] => {
                is_in |= *sign == byte;
                at += 2;
            }
            [b']', ..] => return (is_in != negated, at + 1),
            [first, b'-', last, ..] => {
                let (first, last) = (fold(*first.min(last)), fold(*first.max(last)));
                is_in |= first <= byte && byte <= last;
                at += 3;
            }
            signs => {
                is_in |= fold(signs[0]) == byte;
                at += 1;
            }
        }
    }
    (is_in != negated, at)
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn signs_stand_for_what_redis_says() {
        let cases: &[(&str, &str, bool)] = &[
            ("", "", true),
            ("", "a", false),
            ("*", "", true),
            ("**", "", false),
            ("*", "abc", true),
            ("h?llo", "hello", true),
            ("h?llo", "hllo", false),
            ("h*llo", "heeeello", true),
            ("h[ae]llo", "hallo", true),
            ("h[^e]llo", "hello", false),
            ("h[^e]llo", "hallo", true),
            ("h[a-c]llo", "hbllo", true),
            ("h[c-a]llo", "hbllo", true),
            ("h\\*llo", "h*llo", true),
            ("h\\*llo", "hxllo", false),
            ("[\\]]", "]", true),
            ("[ab", "b", true),
            ("a*b*c", "axxbyybzzc", true),
            ("a*b*c", "axxbyybzzcd", false),
            ("\\", "\\", true),
        ];
        for &(pattern, text, expected) in cases {
            assert_eq!(matches(pattern.as_bytes(), text.as_bytes(), false), expected, "{pattern} {text}");
        }
        assert!(matches(b"AbC", b"aBc", true));
        assert!(!matches(b"AbC", b"aBc", false));
        assert!(matches(b"[A-C]", b"b", true));
    }

    #[test]
    fn a_hostile_pattern_takes_no_exponential_time() {
        let pattern = "a*".repeat(2000) + "b";
        assert!(!matches(pattern.as_bytes(), "a".repeat(10_000).as_bytes(), false));
    }
}
