//! What to do with a key that another node leads: ask there for the client, or send the client there.

use hyper::Uri;
use net::protocol::ReadConsistency;

use super::super::gateway::Gateway;
use crate::http::redirect::Elsewhere;
use crate::http::reply::Problem;
use crate::http::route::Route;

/// What a client wishes.
#[derive(Clone, Copy)]
pub(super) struct Wish<'a> {
    /// The path and the query that it asked for, if it would rather go to the leader itself.
    target: Option<&'a str>,
}

impl<'a> Wish<'a> {
    pub fn new(redirect: bool, uri: &'a Uri) -> Wish<'a> {
        let target = uri.path_and_query().map_or("/", |target| target.as_str());
        Wish { target: redirect.then_some(target) }
    }

    /// The redirection of a request whose head names its key: its body needs not be read.
    pub fn redirect_early(self, gateway: &Gateway, route: &Route) -> Result<(), Problem> {
        route.key().map_or(Ok(()), |(key, consistency)| self.redirect(gateway, key, consistency))
    }

    /// The redirection of a request for a key. There is none where this node should answer, nor while nobody is known to
    /// lead the shard or the leader has no door for HTTP: then the request is sent on, which waits an election out.
    pub fn redirect(
        self,
        gateway: &Gateway,
        key: &[u8],
        consistency: ReadConsistency,
    ) -> Result<(), Problem> {
        let Some(target) = self.target else { return Ok(()) };
        let shard = gateway.shard_of_key(key);
        if gateway.reads(shard, consistency) {
            return Ok(());
        }
        let Some(leader) = gateway.leader_of(shard).filter(|leader| *leader != gateway.config().node.id)
        else {
            return Ok(());
        };
        let Some(address) = gateway.node(leader).and_then(|node| node.http_addr) else { return Ok(()) };
        Err(Elsewhere { shard, epoch: gateway.epoch(), leader, address: &address }.redirection(target))
    }
}
