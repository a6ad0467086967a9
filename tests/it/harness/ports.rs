//! Ports that nobody listens on, below those that the kernel gives to outgoing connections: none is lost between finding
//! it and listening on it.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU16, Ordering};

const FIRST: u16 = 11_000;
const COUNT: u16 = 9_000;

/// Each test process begins elsewhere, so that two of them seldom try the same.
static NEXT: LazyLock<AtomicU16> = LazyLock::new(|| {
    let start = std::process::id().wrapping_mul(97) % u32::from(COUNT);
    AtomicU16::new(u16::try_from(start).unwrap())
});

/// The first of so many free ports in a row. Within this process no port is given twice.
pub(crate) fn free(count: u16) -> u16 {
    for _ in 0..COUNT {
        let offset = NEXT.fetch_add(count, Ordering::Relaxed) % COUNT;
        let first = FIRST + offset.min(COUNT - count);
        if (first..first + count).all(|port| TcpListener::bind(local(port)).is_ok()) {
            return first;
        }
    }
    panic!("no {count} ports in a row are free between {FIRST} and {}", FIRST + COUNT);
}

/// This port of the loopback address.
pub(crate) fn local(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}
