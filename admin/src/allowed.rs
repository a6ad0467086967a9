//! Who acts, once their role was asked. Handlers take one of these before they read anything else of a request, so that
//! nobody learns from an error what a body should have been for something that they may not do.

use crate::acting::Acting;
use crate::problem::Refused;
use axum::extract::FromRequestParts;
use http::request::Parts;
use model::role::{Permission, Section};

macro_rules! allowed {
    ($( $(#[$doc:meta])* $name:ident: $permission:expr; )*) => { $(
        $(#[$doc])*
        pub(crate) struct $name(pub(crate) Acting);

        impl<S: Send + Sync> FromRequestParts<S> for $name {
            type Rejection = Refused;

            async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refused> {
                let acting = Acting::from_request_parts(parts, state).await?;
                acting.may($permission)?;
                Ok(Self(acting))
            }
        }
    )* };
}

allowed! {
    /// Whoever may look.
    Reader: Permission::Read;
    /// Whoever may roll back, release, revoke, reset.
    Operator: Permission::Operate;
    /// Whoever may handle tokens and erase records.
    Administrator: Permission::Administer;
    /// Whoever may change what packs do: where they are attached, what they read.
    Attacher: Permission::Change(Section::Attachments);
    /// Whoever may send events.
    Producer: Permission::Produce;
    /// Whoever may change endpoints.
    Dialler: Permission::Change(Section::Endpoints);
    /// Whoever may change tenants, their consumers and credentials.
    Keeper: Permission::Change(Section::Tenants);
}
