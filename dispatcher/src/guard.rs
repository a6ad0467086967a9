//! What leaves this process on behalf of tenants goes through here: names are resolved, every address is judged, and the
//! addresses that were judged are the ones that are connected to.
//!
//! There is no other way to a connection: pool, tokens and polls have only this. It knows the scheme, so plain `http` is
//! judged with the addresses. It follows no redirect and uses no proxy, because it speaks no HTTP.

mod dial;
mod names;

pub(crate) use dial::{Trust, TrustError};
#[cfg(test)]
pub(crate) use names::Asking;
pub(crate) use names::{NameError, Names, SystemNames};

use dial::Stream;
use model::id::TenantId;
use model::webhook::reach::{Forbidden, Host};
use model::webhook::{Destination, Reach};
use std::io;
use std::net::IpAddr;
use std::sync::Arc;

/// How many addresses of a name are tried.
const ADDRESSES_MAX: usize = 8;

/// Connects to where it may.
#[derive(Clone)]
pub(crate) struct Guard {
    reach: Reach,
    names: Arc<dyn Names>,
    trust: Trust,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    /// It may not be connected to.
    #[error(transparent)]
    Forbidden(#[from] Forbidden),
    /// Its name has no address.
    #[error(transparent)]
    Name(#[from] NameError),
    /// None of its addresses took the connection.
    #[error("the connection was not made: {0}")]
    Refused(io::Error),
    /// TLS was not agreed on.
    #[error("TLS was not agreed on: {0}")]
    Tls(io::Error),
}

impl Guard {
    /// One that connects to what `reach` allows.
    pub(crate) fn new(reach: Reach, names: Arc<dyn Names>, trust: Trust) -> Self {
        Self { reach, names, trust }
    }

    /// Connects on behalf of this tenant. Not bounded in time: its caller's deadline holds for the whole exchange.
    pub(crate) async fn connect(
        &self,
        to: &Destination,
        tenant: &TenantId,
    ) -> Result<Box<dyn Stream>, ConnectError> {
        let addresses = match to.host() {
            Host::Address(address) => Arc::from([*address]),
            Host::Name(name) => self.names.addresses(name, tenant).await?,
        };
        self.reach.addresses(to, &addresses)?;
        let tcp = dial::tcp(&in_turns(&addresses), to.port()).await;
        let tcp = tcp.map_err(ConnectError::Refused)?;
        if !to.is_tls() {
            return Ok(Box::new(tcp));
        }
        let tls = self.trust.handshake(to.host(), tcp).await;
        Ok(Box::new(tls.map_err(ConnectError::Tls)?))
    }
}

/// Addresses in the order that they are tried in: of both families in turns, beginning with the resolver's first (RFC 8305
/// §4).
fn in_turns(addresses: &[IpAddr]) -> Vec<IpAddr> {
    let Some(first) = addresses.first() else { return Vec::new() };
    let (ours, others): (Vec<IpAddr>, Vec<IpAddr>) =
        addresses.iter().partition(|address| address.is_ipv4() == first.is_ipv4());
    let mut others = others.into_iter();
    let mut order = Vec::with_capacity(addresses.len());
    for address in ours {
        order.push(address);
        order.extend(others.next());
    }
    order.extend(others);
    order.truncate(ADDRESSES_MAX);
    order
}

#[cfg(test)]
mod tests;
