//! What a request asks of the counters, and what it then holds.

use super::{Calendar, Limit, Per, Rate, Window};
use crate::exchange::Identity;
use crate::id::{ConsumerId, LimitId, TenantId};
use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

/// Everything that is decided for one request in one step.
#[derive(Clone, Debug)]
pub struct Demand {
    /// Names the permit; unique to the exchange, and the same when it asks again.
    pub permit: PermitId,
    /// Whose counters these are.
    pub tenant: TenantId,
    /// When the tenant's days, weeks and months begin.
    pub calendar: Calendar,
    /// What rates and quotas are charged. Concurrency always takes one slot.
    pub cost: u32,
    /// Whether the permit may be settled at another cost ([`Settlement::Cost`](super::Settlement::Cost)).
    pub costs_later: bool,
    /// After how many microseconds the permit counts as lost: its slots are free, its charges stay.
    pub permit_ttl: i64,
    /// The limits. Keys do not repeat.
    pub limits: Vec<Counted>,
}

impl Demand {
    /// When a permit given now counts as lost.
    pub const fn until(&self, now: i64) -> i64 {
        now.saturating_add(self.permit_ttl)
    }
}

/// A limit and the counter that it is judged by.
#[derive(Clone, Debug)]
pub struct Counted {
    /// The counter.
    pub key: CounterKey,
    /// The limit.
    pub limit: Arc<Limit>,
}

impl Counted {
    /// A plan's limit for this caller.
    pub fn of(limit: &Arc<Limit>, identity: &Identity, client: IpAddr) -> Self {
        let part = Part::of(limit.per, identity, client);
        let key = CounterKey { limit: limit.id.clone(), part };
        Self { key, limit: Arc::clone(limit) }
    }
}

/// Names a counter within a tenant.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CounterKey {
    /// The limit.
    pub limit: LimitId,
    /// Whose share it counts.
    pub part: Part,
}

impl CounterKey {
    /// The counter's name in a store that many tenants share: `q:{acme}:burst:t`. The braces keep a tenant's counters
    /// together in a Redis cluster. Distinct counters have distinct names, whatever a consumer or credential is called.
    pub fn storage_name(&self, tenant: &TenantId) -> String {
        let part = match &self.part {
            Part::Tenant => "t".to_owned(),
            Part::Consumer(consumer) => format!("c:{consumer}"),
            Part::Credential(consumer, credential) => {
                format!("k:{}:{consumer}:{credential}", consumer.as_str().len())
            }
            Part::Ip(address) => format!("i:{address}"),
        };
        format!("q:{{{tenant}}}:{}:{part}", self.limit)
    }

    /// The counter of such a name, and whose it is. What [`storage_name`](Self::storage_name) makes of ids reads back.
    pub fn of_storage_name(name: &str) -> Option<(TenantId, Self)> {
        let (tenant, counter) = name.strip_prefix("q:{")?.split_once("}:")?;
        let (limit, part) = counter.split_once(':')?;
        let part = match part.split_once(':') {
            None if part == "t" => Part::Tenant,
            Some(("c", consumer)) => Part::Consumer(consumer.into()),
            Some(("k", both)) => {
                let (length, both) = both.split_once(':')?;
                let (consumer, credential) = both.split_at_checked(length.parse().ok()?)?;
                Part::Credential(consumer.into(), credential.strip_prefix(':')?.into())
            }
            Some(("i", address)) => Part::Ip(address.parse().ok()?),
            _ => return None,
        };
        Some((tenant.into(), Self { limit: limit.into(), part }))
    }
}

/// The part of a tenant that shares a counter.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Part {
    /// The whole tenant.
    Tenant,
    /// One consumer.
    Consumer(ConsumerId),
    /// One credential of a consumer.
    Credential(ConsumerId, Arc<str>),
    /// One address: IPv4, or the first 64 bits of IPv6.
    Ip(IpAddr),
}

impl Part {
    /// The part that this caller belongs to.
    pub fn of(per: Per, identity: &Identity, client: IpAddr) -> Self {
        match per {
            Per::Tenant => Self::Tenant,
            Per::Consumer => Self::Consumer(identity.consumer.clone()),
            Per::Credential => {
                Self::Credential(identity.consumer.clone(), identity.credential.as_str().into())
            }
            Per::Ip => Self::Ip(network(client)),
        }
    }
}

/// What one subscriber has: an IPv4 address (also when it is written as IPv6), or an IPv6 /64 (RFC 6177 §2).
fn network(client: IpAddr) -> IpAddr {
    match client.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => {
            IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64)))
        }
    }
}

/// Names a permit. Whoever makes one makes it unique, as a UUID is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PermitId(pub u128);

impl fmt::Display for PermitId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// What an admitted request holds, as the store needs it to settle.
#[derive(Clone, Debug, PartialEq)]
pub struct PermitRecord {
    /// The permit.
    pub id: PermitId,
    /// Whose counters were charged.
    pub tenant: TenantId,
    /// What there is to settle; charges of rates that are final are not named.
    pub charges: Arc<[Charge]>,
}

/// One charge that is settled later.
#[derive(Clone, Debug, PartialEq)]
pub struct Charge {
    /// The counter.
    pub key: CounterKey,
    /// What was taken.
    pub taken: Taken,
}

/// What was taken from a counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// Units of a rate, where what they cost is known in the end only.
    Rate {
        /// How many.
        cost: u32,
        /// The rate that was charged.
        rate: Rate,
        /// Its burst.
        burst: u32,
    },
    /// Units of a quota.
    Quota {
        /// How many.
        cost: u32,
        /// The window that paid.
        window: Window,
    },
    /// A slot.
    Slot,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity() -> Identity {
        Identity {
            tenant: "acme".into(),
            consumer: "mobile".into(),
            subject: "mobile".to_owned(),
            credential: "k1".to_owned(),
            scopes: Vec::new(),
            claims: Arc::new(serde_json::json!({})),
        }
    }

    #[test]
    fn each_part_has_its_own_counter() {
        for (per, client, name) in [
            (Per::Tenant, "192.0.2.7", "q:{acme}:burst:t"),
            (Per::Consumer, "192.0.2.7", "q:{acme}:burst:c:mobile"),
            (Per::Credential, "192.0.2.7", "q:{acme}:burst:k:6:mobile:k1"),
            (Per::Ip, "192.0.2.7", "q:{acme}:burst:i:192.0.2.7"),
            (Per::Ip, "::ffff:192.0.2.7", "q:{acme}:burst:i:192.0.2.7"),
            (Per::Ip, "2001:db8:1:2:3:4:5:6", "q:{acme}:burst:i:2001:db8:1:2::"),
        ] {
            let part = Part::of(per, &identity(), client.parse().unwrap());
            let key = CounterKey { limit: "burst".into(), part };
            assert_eq!(key.storage_name(&"acme".into()), name);
            assert_eq!(CounterKey::of_storage_name(name), Some(("acme".into(), key)));
        }
    }

    #[test]
    fn names_do_not_collide() {
        let key = |consumer: &str, credential: &str| {
            let part = Part::Credential(consumer.into(), credential.into());
            CounterKey { limit: "burst".into(), part }.storage_name(&"acme".into())
        };
        assert_ne!(key("a:b", "c"), key("a", "b:c"));
    }

    #[test]
    fn names_read_back_whatever_a_credential_is_called() {
        for (consumer, credential) in [("a", ""), ("ä:", ":b"), ("a:b", "}:t"), ("", "k:1:a:b")] {
            let part = Part::Credential(consumer.into(), credential.into());
            let key = CounterKey { limit: "burst".into(), part };
            let name = key.storage_name(&"acme".into());
            assert_eq!(CounterKey::of_storage_name(&name), Some(("acme".into(), key)), "{name}");
        }
        for name in [
            "",
            "q:{acme}",
            "q:{acme}:burst",
            "q:{acme}:burst:x",
            "q:{acme}:burst:k:9:a:b",
            "q:{a}:b:i:1",
        ] {
            assert_eq!(CounterKey::of_storage_name(name), None, "{name}");
        }
    }
}
