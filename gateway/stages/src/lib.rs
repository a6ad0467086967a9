pub mod counters;
mod due;
pub mod ledger;

pub mod authenticate;
pub mod claim;
pub mod throttle;
pub mod version;
