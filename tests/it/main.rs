//! Claims about the product, each shown against the real binary on real sockets.
//!
//! `make test` runs them all. One of them: `make build`, then `cargo test -p tests NAME`.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a test that meets the unexpected fails, and says where and after what"
)]

mod harness;

mod adaptive;
mod admin;
mod admission;
mod cli;
mod deploy;
mod documents;
mod edge;
mod exchanges;
mod failure;
mod guide;
mod idempotency;
mod idempotency_admin;
mod idempotency_guide;
mod idempotency_rules;
mod jwt;
mod keys_arrive_once;
mod keys_settled;
mod keys_under_kills;
mod kills;
mod limit_guide;
mod limit_rules;
mod limits;
mod moving;
mod nodes;
mod outbound;
mod pack_commands;
mod packs;
mod phases;
mod policies;
mod quota_kept;
mod quota_usage;
mod quotas_cluster;
mod quotas_degraded;
mod quotas_exact;
mod quotas_neighbour;
mod quotas_observed;
mod quotas_outages;
mod quotas_secured;
mod quotas_two_nodes;
mod records;
mod redis_setting;
mod repeats;
mod retry_recipes;
mod revisions;
mod roles;
mod rollouts;
mod scale;
mod secrets;
mod services;
mod shipping;
mod store_down;
mod structure;
mod traffic;
mod versions;
mod webhook_commands;
mod webhooks;
mod webhooks_accepted;
mod webhooks_guarded;
mod webhooks_in_order;
mod webhooks_neighbour;
mod webhooks_replayed;
mod webhooks_signed;
mod webhooks_under_kills;
