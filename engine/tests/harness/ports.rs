//! Loopback ports for nodes that are killed and come back.
//!
//! A port from the kernel's range for outgoing connections could be taken by some client while its node is down, so
//! ports are looked for below that range. Clusters of one target folder exclude each other, see `cluster`, and the
//! place where the search begins differs between processes.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};

const FIRST: u16 = 10_000;
/// Ports looked at before giving up.
const LOOKS_MAX: u16 = 4_000;

/// So many free addresses on loopback.
pub fn free(count: usize) -> Vec<SocketAddr> {
    let range =
        fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").expect("Linux tells its port range");
    let low: u16 =
        range.split_whitespace().next().and_then(|low| low.parse().ok()).expect("two port numbers");
    let span = low.saturating_sub(FIRST);
    assert!(span > LOOKS_MAX, "there are too few ports below {low}, where outgoing connections begin");
    let start = u16::try_from(std::process::id() % u32::from(span)).expect("below a u16");
    // Listeners are held until all are found, so that none is found twice.
    let held: Vec<TcpListener> = (0..LOOKS_MAX)
        .map(|look| FIRST + (start + look) % span)
        .filter_map(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).ok())
        .take(count)
        .collect();
    assert_eq!(held.len(), count, "not enough free ports on loopback");
    held.iter().map(|listener| listener.local_addr().expect("a bound listener has an address")).collect()
}
