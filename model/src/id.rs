//! Identifiers. Each is a newtype, so that a tenant's id never stands where a route's belongs.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

macro_rules! ids {
    ($( $(#[$doc:meta])* $name:ident; )*) => { $(
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(Arc<str>);

        impl $name {
            /// The id as text.
            pub fn as_str(&self) -> &str { &self.0 }
        }

        impl From<&str> for $name {
            fn from(text: &str) -> Self { Self(text.into()) }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str { &self.0 }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { f.write_str(&self.0) }
        }

        impl JsonSchema for $name {
            fn inline_schema() -> bool { true }
            fn schema_name() -> std::borrow::Cow<'static, str> { stringify!($name).into() }
            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({ "type": "string", "format": "id" })
            }
        }
    )* };
}

ids! {
    /// A tenant: the unit of isolation.
    TenantId;
    /// A consumer: an application of a partner, acting for a tenant. Unique within its tenant.
    ConsumerId;
    /// A credential, unique within its consumer.
    CredentialId;
    /// A route.
    RouteId;
    /// A service: a set of routes whose versions live and die together.
    ServiceId;
    /// A version's name within its service.
    VersionName;
    /// An upstream.
    UpstreamId;
    /// A plan.
    PlanId;
    /// A limit, unique within its plan.
    LimitId;
    /// An issuer of JWTs.
    IssuerId;
    /// A policy pack's name.
    PackId;
    /// A key that packs are signed with.
    PackKeyId;
    /// An attachment of a pack.
    AttachmentId;
    /// Where events come from.
    SourceId;
    /// Where events go.
    EndpointId;
    /// A token of the admin API.
    TokenId;
    /// A node: one process of a deployment.
    NodeName;
}

/// Whether the text may stand as an id: 1 to 64 of letters, digits, `.`, `_`, `-`, starting with a letter or digit.
pub fn is_id(text: &str) -> bool {
    text.len() <= 64
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'))
}
