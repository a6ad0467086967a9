//! The API over a real store in a temporary folder. What crosses processes is in `tests/it`.

pub(crate) mod api;
mod audit;
mod credentials;
pub(crate) mod described;
mod documents;
mod events;
mod exchanges;
mod idempotency;
mod lists;
mod nodes;
mod once;
mod pack_data;
mod pack_history;
mod packs;
mod preconditions;
mod requests;
mod revisions;
mod revocations;
mod roles;
mod secrets;
mod shifts;
mod tenants;
mod tokens;
mod usage;
mod webhooks;
mod writing;
