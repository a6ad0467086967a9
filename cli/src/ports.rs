//! Ports are asked for before anything starts, so that a busy one is named at once.

use anyhow::bail;
use std::net::{SocketAddr, TcpListener};

/// Binds an address for a listener of ours, or says who wanted it and how to choose another.
pub(crate) fn bind(what: &str, address: SocketAddr, hint: &str) -> anyhow::Result<TcpListener> {
    match TcpListener::bind(address) {
        Ok(listener) => {
            listener.set_nonblocking(true)?;
            Ok(listener)
        }
        Err(error) => bail!("{address} is not free for the {what} ({error}); {hint}"),
    }
}
