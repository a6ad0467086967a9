pub mod again;
pub mod counters;
mod due;
pub mod ledger;
pub mod quotas;
pub mod redis;

pub mod authenticate;
pub mod claim;
pub mod throttle;
pub mod version;
