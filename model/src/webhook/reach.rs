//! Which addresses webhooks, tokens and polls may be sent to: public ones, and what the operator allows beside them.
//!
//! Tenants write the addresses, and this process may reach what they may not. So everything that is not known to be public
//! is forbidden, and of a name every address must be allowed. It is pure: who resolves names and connects asks it again.

mod destination;
mod special;

pub use destination::{Destination, DestinationError, Host};
pub use special::Kind;

use ipnet::IpNet;
use special::Judged;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// What may be connected to.
#[derive(Clone, Debug, Default)]
pub struct Reach {
    allow_private: Vec<IpNet>,
}

/// Why an address may be connected to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Allowed {
    /// It is public: by TLS only.
    Public,
    /// The operator lists it: in plain as well.
    Listed,
}

/// Why an address may not be connected to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Forbidden {
    /// It is none of the public internet.
    #[error("{address} is {kind}: operators allow such addresses with `webhooks.allow_private`")]
    Private {
        /// Which one.
        address: IpAddr,
        /// What it is.
        kind: Kind,
    },
    /// It is one that nobody can allow.
    #[error("{address} is {kind}: nothing is ever sent there")]
    Never {
        /// Which one.
        address: IpAddr,
        /// What it is.
        kind: Kind,
    },
    /// Plain `http` goes to listed addresses only.
    #[error(
        "{0} is public: use `https`, plain `http` is for addresses of `webhooks.allow_private`"
    )]
    Plain(IpAddr),
}

impl Reach {
    /// Public addresses, and these. A list may name any range; metadata services of clouds are allowed only by an entry for
    /// the one address, and some kinds of addresses never are.
    pub fn new(allow_private: Vec<IpNet>) -> Self {
        Self { allow_private }
    }

    /// Judges an address.
    pub fn address(&self, address: IpAddr) -> Result<Allowed, Forbidden> {
        let address = address.to_canonical();
        let listed = || self.allow_private.iter().filter(move |net| net.contains(&address));
        match special::judge(address) {
            Judged::Public if listed().next().is_some() => Ok(Allowed::Listed),
            Judged::Public => Ok(Allowed::Public),
            Judged::Never(kind) => Err(Forbidden::Never { address, kind }),
            Judged::Single(_) if listed().any(|net| net.prefix_len() == net.max_prefix_len()) => {
                Ok(Allowed::Listed)
            }
            Judged::Single(kind) => Err(Forbidden::Private { address, kind }),
            Judged::Private(kind) => match listed().max_by_key(|net| net.prefix_len()) {
                Some(net) => self.embedded(address, kind, net),
                None => Err(Forbidden::Private { address, kind }),
            },
            Judged::Translated(to) => match self.address(IpAddr::V4(to)) {
                Ok(allowed) => Ok(allowed),
                Err(Forbidden::Never { kind, .. }) => Err(Forbidden::Never { address, kind }),
                Err(Forbidden::Private { kind, .. }) => Err(Forbidden::Private { address, kind }),
                Err(Forbidden::Plain(_)) => Err(Forbidden::Plain(address)),
            },
        }
    }

    /// A listed address; one of a network's own NAT64 prefix (RFC 8215) must lead to an address that is allowed as well. Where
    /// the IPv4 address stands in it says the length of the prefix that is listed (RFC 6052 §2.2).
    fn embedded(&self, address: IpAddr, kind: Kind, net: &IpNet) -> Result<Allowed, Forbidden> {
        match address {
            IpAddr::V6(v6) if kind == Kind::LocalTranslation => {
                let to = special::embedded(v6, net.prefix_len());
                let judged = self.address(IpAddr::V4(to));
                judged.map(|_| Allowed::Listed).map_err(|_| Forbidden::Private { address, kind })
            }
            IpAddr::V4(_) | IpAddr::V6(_) => Ok(Allowed::Listed),
        }
    }

    /// Judges the addresses that a destination's host has: all must be allowed. None is an error of whoever resolves.
    pub fn addresses(
        &self,
        destination: &Destination,
        addresses: &[IpAddr],
    ) -> Result<(), Forbidden> {
        for address in addresses {
            match self.address(*address)? {
                Allowed::Listed => {}
                Allowed::Public if destination.is_tls() => {}
                Allowed::Public => return Err(Forbidden::Plain(*address)),
            }
        }
        Ok(())
    }

    /// Reads a destination, and judges what can be judged of it without asking anybody: its form, and its host where that is
    /// an address or a name of this machine. Other names are judged at each connection, when they were resolved.
    pub fn judge(&self, url: &str) -> Result<Destination, DestinationError> {
        let destination = Destination::parse(url)?;
        match destination.host() {
            Host::Address(address) => self.addresses(&destination, &[*address])?,
            Host::Name(name) if is_localhost(name) => {
                const V4: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
                const V6: IpAddr = IpAddr::V6(Ipv6Addr::LOCALHOST);
                let either = self.addresses(&destination, &[V4]);
                either.or_else(|error| self.addresses(&destination, &[V6]).map_err(|_| error))?;
            }
            Host::Name(_) => {}
        }
        Ok(destination)
    }
}

/// Names that resolvers answer with the loopback address, whatever else they know (RFC 6761 §6.3).
fn is_localhost(name: &str) -> bool {
    name == "localhost" || name.ends_with(".localhost")
}

#[cfg(test)]
mod tests;
