//! Any bytes as a request to the HTTP adapter: method, path, parameters, conditions, a body, one per line. Whoever
//! includes this has the adapter as `http` beside it.

use super::http::route::{Condition, Head, Route, route};
use super::http::{body, scan};

/// Nothing panics, keys that must be there are there, and positions survive being told to a client.
pub fn http_requests(data: &[u8]) {
    let mut lines = data.splitn(6, |byte| *byte == b'\n');
    let mut next = || lines.next().unwrap_or_default();
    let [method, path, query, if_match, if_none_match] = [(); 5].map(|()| String::from_utf8_lossy(next()));
    let rest = next();
    let present = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let (if_match, if_none_match) = (present(&if_match), present(&if_none_match));
    let head = Head {
        method: &method,
        path: &path,
        query: &query,
        if_match: if_match.as_deref(),
        if_none_match: if_none_match.as_deref(),
        ..Head::default()
    };
    match route(&head).map(|routed| routed.route) {
        Ok(Route::GetRaw(read, _)) => assert!(!read.key.is_empty() && read.namespace < 16),
        Ok(Route::PutRaw(key, options) | Route::DeleteRaw(key, options)) => {
            assert!(!key.is_empty() && options.namespace < 16);
            assert!(options.condition == Condition::None || options.ttl_ms.is_none());
        }
        Ok(Route::Scan(scan)) => assert!((1..=1000).contains(&scan.limit)),
        Ok(_) => {}
        Err(problem) => assert!((400..500).contains(&problem.into_reply().status)),
    }
    for set in [body::set_of_json(rest), body::set_of_form(rest)].into_iter().flatten() {
        assert!(set.options.namespace < 16 && set.key.len() + set.value.len() <= rest.len());
    }
    if let Ok((slot, key)) = scan::position_of(rest) {
        let told = scan::cursor_of(&scan::wire_position(slot, &key));
        assert_eq!(scan::position_of(told.as_bytes()).ok(), Some((slot, key)));
    }
}
