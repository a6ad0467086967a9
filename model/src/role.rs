//! Who may do what at the admin API: roles, what each may change, and who acted.
//!
//! Invariant: a change of the document is judged by the sections that it changes, however it came (one resource, the whole
//! document, a rollback), so that there is one rule and no way around it.

use crate::id::{NodeName, TenantId, TokenId};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The role of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Reads everything but secrets.
    Viewer,
    /// Runs the gateway: tenants, plans, routes, upstreams; rollback, revocations, resets.
    Operator,
    /// Ships packs: packs and attachments.
    Publisher,
    /// Sends events, and nothing else.
    Producer,
    /// All of it, tokens, and who may ship packs.
    Admin,
}

/// What a token may be asked to be allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Permission {
    /// Look at resources, revisions, audit, nodes, usage, exchanges.
    Read,
    /// Change a section of the document.
    Change(Section),
    /// Rollback, release, revocations, resets: what keeps traffic in order.
    Operate,
    /// Tokens, erasure of records, rekeying, stored answers.
    Administer,
    /// Send events.
    Produce,
}

/// A part of the document whose entries are resources.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Section {
    /// `issuers`
    Issuers,
    /// `upstreams`
    Upstreams,
    /// `services`
    Services,
    /// `routes`
    Routes,
    /// `plans`
    Plans,
    /// `tenants`, with consumers and credentials.
    Tenants,
    /// `pack_keys`: who may ship packs.
    PackKeys,
    /// `packs`
    Packs,
    /// `attachments`
    Attachments,
    /// `sources`: where events come from.
    Sources,
    /// `endpoints`: where events go.
    Endpoints,
    /// `event_types`
    EventTypes,
}

impl Section {
    /// Every section, in the document's order.
    pub const ALL: [Self; 12] = [
        Self::Issuers,
        Self::Upstreams,
        Self::Services,
        Self::Routes,
        Self::Plans,
        Self::Tenants,
        Self::PackKeys,
        Self::Packs,
        Self::Attachments,
        Self::Sources,
        Self::Endpoints,
        Self::EventTypes,
    ];

    /// The document's key, which is also the API's path segment.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Issuers => "issuers",
            Self::Upstreams => "upstreams",
            Self::Services => "services",
            Self::Routes => "routes",
            Self::Plans => "plans",
            Self::Tenants => "tenants",
            Self::PackKeys => "pack_keys",
            Self::Packs => "packs",
            Self::Attachments => "attachments",
            Self::Sources => "sources",
            Self::Endpoints => "endpoints",
            Self::EventTypes => "event_types",
        }
    }
}

impl Role {
    /// Every role.
    pub const ALL: [Self; 5] =
        [Self::Viewer, Self::Operator, Self::Publisher, Self::Producer, Self::Admin];

    /// The name that the API uses.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Publisher => "publisher",
            Self::Producer => "producer",
            Self::Admin => "admin",
        }
    }

    /// The role of this name.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.as_str() == text)
    }

    /// Whether the role may do that. The whole of authorisation, but for tenants.
    pub const fn may(self, permission: Permission) -> bool {
        match (self, permission) {
            (Self::Admin, _) => true,
            (Self::Producer, permission) => matches!(permission, Permission::Produce),
            (_, Permission::Read) => true,
            (Self::Operator, Permission::Operate | Permission::Produce) => true,
            (Self::Operator, Permission::Change(section)) => {
                !matches!(section, Section::Packs | Section::PackKeys)
            }
            (Self::Publisher, Permission::Change(section)) => {
                matches!(section, Section::Packs | Section::Attachments)
            }
            _ => false,
        }
    }
}

/// Who acts: a token of the admin API, or the system itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Actor {
    /// The token; none for the system, and for whoever brought none that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub token: Option<TokenId>,
    /// The token's name, `system`, or `anonymous`.
    pub name: String,
    /// Its role; none for `anonymous`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<Role>,
    /// The one tenant that it is bound to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<TenantId>,
    /// From where: the client's address, or the node that acted by itself.
    pub source: String,
}

impl Actor {
    /// The name of nodes that act by themselves.
    pub const SYSTEM: &str = "system";
    /// The name of whoever brings no token that is known.
    pub const ANONYMOUS: &str = "anonymous";

    /// Whether no token may be called so, in whatever letters: the history would say that somebody else did it.
    pub fn is_reserved(name: &str) -> bool {
        let same = |reserved: &&str| name.trim().eq_ignore_ascii_case(reserved);
        [Self::SYSTEM, Self::ANONYMOUS].iter().any(same)
    }

    /// A node that acts by itself.
    pub fn system(node: &NodeName) -> Self {
        Self {
            token: None,
            name: Self::SYSTEM.to_owned(),
            role: Some(Role::Admin),
            tenant: None,
            source: node.as_str().to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_role_may_what_its_row_says() {
        let permissions = [
            Permission::Read,
            Permission::Operate,
            Permission::Administer,
            Permission::Change(Section::Tenants),
            Permission::Change(Section::Attachments),
            Permission::Change(Section::Packs),
            Permission::Change(Section::PackKeys),
            Permission::Change(Section::Endpoints),
            Permission::Produce,
        ];
        for (role, row) in [
            (Role::Viewer, "R........"),
            (Role::Operator, "RO.TA..EE"),
            (Role::Publisher, "R...AP..."),
            (Role::Producer, "........E"),
            (Role::Admin, "ROXTAPKEE"),
        ] {
            for (permission, cell) in permissions.into_iter().zip(row.chars()) {
                assert_eq!(role.may(permission), cell != '.', "{role:?} {permission:?}");
            }
        }
    }

    #[test]
    fn the_names_of_who_has_no_token_are_no_tokens() {
        for name in ["system", "SYSTEM", "Anonymous", " system "] {
            assert!(Actor::is_reserved(name), "{name}");
        }
        for name in ["systems", "ecosystem", "anna", ""] {
            assert!(!Actor::is_reserved(name), "{name}");
        }
    }
}
