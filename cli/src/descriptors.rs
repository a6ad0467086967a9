//! How many files this process may hold open.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises the soft limit to the hard one. A memory image of a prepared pack is a descriptor, a connection is one, too, and
/// what shells and service managers give at first is 1,024.
pub(crate) fn raise() {
    let limit = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }) {
        tracing::warn!(%error, soft = limit.current, hard = limit.maximum, "the limit of open files stays as it is");
    }
}
