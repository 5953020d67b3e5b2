//! Sending a client to the node that leads a key's shard, instead of asking there in its place.

use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};

use super::reply::Problem;

/// What may stand in an address as it was sent, but not in a header.
const NOT_IN_HEADERS: &AsciiSet = &CONTROLS.add(b' ');

/// Who can answer what this node cannot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Elsewhere<'a> {
    /// The shard of the key.
    pub shard: u32,
    /// The map by which it has the key.
    pub epoch: u64,
    /// The node that leads it.
    pub leader: u64,
    /// That node's HTTP door, `IP:PORT`.
    pub address: &'a str,
}

impl Elsewhere<'_> {
    /// The redirection of a request for `target`, its path and query. 307 and no other: method and body stay as they are.
    pub fn redirection(&self, target: &str) -> Problem {
        let Elsewhere { shard, epoch, leader, address } = self;
        let location = format!("http://{address}{}", utf8_percent_encode(target, NOT_IN_HEADERS));
        let message = format!("node {leader} leads shard {shard}, which has the key: ask {location}");
        Problem::new(307, "redirect", message)
            .with("location", location)
            .with("ringkv-shard", shard.to_string())
            .with("ringkv-leader", leader.to_string())
            .with("ringkv-epoch", epoch.to_string())
    }
}
