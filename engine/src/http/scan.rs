//! Scans as JSON. Keys come in the order of the cluster: by slot, then by key. A cursor is a position in it.

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use bytes::Bytes;
use net::protocol::ScanItem;
use net::slot::SLOT_COUNT;
use serde_json::{Map, Value};

use super::reply::Problem;

/// A position as the shards take it: the slot, big-endian, then the key.
pub fn wire_position(slot: u16, key: &[u8]) -> Bytes {
    [&slot.to_be_bytes()[..], key].concat().into()
}

/// A position as clients give it back.
pub fn cursor_of(position: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(position)
}

/// The position of a cursor.
pub fn position_of(cursor: &[u8]) -> Result<(u16, Bytes), Problem> {
    let wrong = || Problem::invalid("`cursor` is not one that a scan gave; begin again without it");
    let position = Bytes::from(URL_SAFE_NO_PAD.decode(cursor).map_err(|_| wrong())?);
    let (slot, _) = position.split_first_chunk::<2>().ok_or_else(wrong)?;
    let slot = u16::from_be_bytes(*slot);
    if slot >= SLOT_COUNT {
        return Err(wrong());
    }
    Ok((slot, position.slice(2..)))
}

/// The position just after a key.
pub fn position_after(key: &[u8]) -> Bytes {
    wire_position(net::slot::slot_of(key), &[key, &[0]].concat())
}

/// An item as JSON.
pub fn item(item: &ScanItem, values: bool) -> Value {
    let mut fields = Map::new();
    put_bytes(&mut fields, "key", &item.key);
    if values {
        put_bytes(&mut fields, "value", &item.value.data);
    }
    fields.insert("version".to_owned(), item.value.version.into());
    Value::Object(fields)
}

/// Puts bytes into an object: as text where they are text, else in base64 under another name.
pub fn put_bytes(fields: &mut Map<String, Value>, name: &str, bytes: &[u8]) {
    match std::str::from_utf8(bytes) {
        Ok(text) => fields.insert(name.to_owned(), text.into()),
        Err(_) => fields.insert(format!("{name}_base64"), STANDARD.encode(bytes).into()),
    };
}
