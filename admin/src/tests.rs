//! The API over a real store in a temporary folder. What crosses processes is in `tests/it`.

pub(crate) mod api;
mod credentials;
mod documents;
mod lists;
mod once;
mod preconditions;
mod requests;
mod roles;
mod secrets;
mod tenants;
mod writing;
