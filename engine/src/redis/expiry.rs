//! When keys cease to exist.

use net::resp::Value;

use super::arguments::{Complaint, integer_argument, is_word, word};
use super::execute::{Context, Outcome};
use super::keyspace::{Entry, Keyspace};
use super::table::printable;

/// Under which condition an EXPIRE has an effect.
#[derive(Default)]
struct Conditions {
    none_yet: bool,
    some_already: bool,
    later: bool,
    sooner: bool,
}

impl Conditions {
    fn parse(options: &[bytes::Bytes]) -> Result<Conditions, Complaint> {
        let mut conditions = Conditions::default();
        for option in options {
            let names: [(&[u8], &mut bool); 4] = [
                (b"nx", &mut conditions.none_yet),
                (b"xx", &mut conditions.some_already),
                (b"gt", &mut conditions.later),
                (b"lt", &mut conditions.sooner),
            ];
            let Some((_, condition)) = names.into_iter().find(|(name, _)| is_word(option, name)) else {
                let shown = printable(word(option), option.len());
                return Err(Complaint(format!("ERR Unsupported option {shown}").into()));
            };
            *condition = true;
        }
        if conditions.none_yet && (conditions.some_already || conditions.later || conditions.sooner) {
            let text = "ERR NX and XX, GT or LT options at the same time are not compatible";
            return Err(Complaint::new(text));
        }
        if conditions.later && conditions.sooner {
            return Err(Complaint::new("ERR GT and LT options at the same time are not compatible"));
        }
        Ok(conditions)
    }

    /// Does an expiry at `when` take effect, given the present one, if any? A key without one lasts for ever.
    fn allow(&self, when: i64, present: Option<i64>) -> bool {
        match present {
            None => !self.some_already && !self.later,
            Some(present) => {
                !self.none_yet && (!self.later || when > present) && (!self.sooner || when < present)
            }
        }
    }
}

fn present(entry: &Entry) -> Option<i64> {
    (entry.expiry_ms != 0).then(|| i64::try_from(entry.expiry_ms).unwrap_or(i64::MAX))
}

/// EXPIRE, PEXPIRE, EXPIREAT and PEXPIREAT. An expiry in the past removes the key.
pub(super) fn expire<K: Keyspace>(context: &mut Context<'_, K>) -> Outcome<K> {
    let conditions = Conditions::parse(&context.args[3..])?;
    let name = context.spec.name.as_str();
    let invalid = || Complaint(format!("ERR invalid expire time in '{name}' command").into());
    let given = integer_argument(&context.args[2])?;
    let in_seconds = !name.starts_with('p');
    let milliseconds = if in_seconds { given.checked_mul(1000).ok_or_else(invalid)? } else { given };
    let base = if name.ends_with("at") { 0 } else { context.now_ms() };
    let when = milliseconds.checked_add(base).ok_or_else(invalid)?;
    let key = &context.args[1];
    let Some(entry) = context.get(key)? else {
        return Ok(Value::Integer(0));
    };
    if !conditions.allow(when, present(&entry)) {
        return Ok(Value::Integer(0));
    }
    match u64::try_from(when) {
        Ok(when) if when > context.keyspace.now_ms() => {
            context.put(key, Entry { expiry_ms: when, ..entry })?
        }
        _ => context.delete(key)?,
    }
    Ok(Value::Integer(1))
}

/// TTL, PTTL, EXPIRETIME and PEXPIRETIME.
pub(super) fn ttl<K: Keyspace>(context: &mut Context<'_, K>) -> Outcome<K> {
    let Some(entry) = context.get(&context.args[1])? else {
        return Ok(Value::Integer(-2));
    };
    let Some(when) = present(&entry) else {
        return Ok(Value::Integer(-1));
    };
    let name = context.spec.name.as_str();
    let milliseconds = if name.ends_with("time") { when } else { (when - context.now_ms()).max(0) };
    let in_milliseconds = name.starts_with('p');
    // Halves are rounded up; dividing first, for there may be no room above.
    let seconds = milliseconds / 1000 + i64::from(milliseconds % 1000 >= 500);
    Ok(Value::Integer(if in_milliseconds { milliseconds } else { seconds }))
}

pub(super) fn persist<K: Keyspace>(context: &mut Context<'_, K>) -> Outcome<K> {
    let key = &context.args[1];
    match context.get(key)? {
        Some(entry) if entry.expiry_ms != 0 => {
            context.put(key, Entry { expiry_ms: 0, ..entry })?;
            Ok(Value::Integer(1))
        }
        _ => Ok(Value::Integer(0)),
    }
}
