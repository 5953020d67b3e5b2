//! Loopback ports for nodes that are killed and come back.
//!
//! A port from the kernel's range for outgoing connections could be taken by some client while its node is down, so
//! ports are looked for below that range. Clusters of one target folder exclude each other, see `cluster`, and the
//! place where the search begins differs between processes.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU32, Ordering};

const FIRST: u16 = 10_000;
/// Ports looked at before giving up.
const LOOKS_MAX: u16 = 4_000;

/// Ports looked at so far: the next search goes on from there, so that a node that is down does not lose its own.
static LOOKED: AtomicU32 = AtomicU32::new(0);

/// So many free addresses on loopback; none that was given before.
pub fn free(count: usize) -> Vec<SocketAddr> {
    let range =
        fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").expect("Linux tells its port range");
    let low: u16 =
        range.split_whitespace().next().and_then(|low| low.parse().ok()).expect("two port numbers");
    let span = low.saturating_sub(FIRST);
    assert!(span > LOOKS_MAX, "there are too few ports below {low}, where outgoing connections begin");
    let process = std::process::id() % u32::from(span);
    let port = |look: u32| FIRST + u16::try_from((process + look) % u32::from(span)).expect("below a u16");
    let begin = LOOKED.load(Ordering::Relaxed);
    // Listeners are held until all are found, so that none is found twice.
    let held: Vec<(u32, TcpListener)> = (begin..begin + u32::from(LOOKS_MAX))
        .filter_map(|look| Some((look, TcpListener::bind((Ipv4Addr::LOCALHOST, port(look))).ok()?)))
        .take(count)
        .collect();
    assert_eq!(held.len(), count, "not enough free ports on loopback");
    LOOKED.store(held.last().map_or(begin, |(look, _)| look + 1), Ordering::Relaxed);
    let address = |listener: &TcpListener| listener.local_addr().expect("a bound listener has an address");
    held.iter().map(|(_, listener)| address(listener)).collect()
}
