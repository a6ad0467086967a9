//! A Redis that can fail in every way it can, and be well again.

use super::{Redis, Wire};
use std::time::Duration;

/// What a slow one takes longer.
const LATE: Duration = Duration::from_millis(200);

/// What happens to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    Killed,
    Frozen,
    Slow,
    OutOfMemory,
    ReadOnly,
    /// Connections are closed, and the server itself is well.
    Cut,
}

impl Fault {
    pub(crate) const ALL: [Self; 6] =
        [Self::Killed, Self::Frozen, Self::Slow, Self::OutOfMemory, Self::ReadOnly, Self::Cut];
}

/// The server, and the way to it.
pub(crate) struct Failing {
    pub(crate) redis: Redis,
    pub(crate) wire: Wire,
}

impl Failing {
    pub(crate) async fn start() -> Self {
        let redis = Redis::start();
        let wire = Wire::to(redis.address()).await;
        Self { redis, wire }
    }

    /// Where it is, by the way that can be slow and be cut.
    pub(crate) fn url(&self) -> String {
        format!("redis://{}", self.wire.address)
    }

    pub(crate) fn fails(&mut self, fault: Fault) {
        match fault {
            Fault::Killed => self.redis.kill(),
            Fault::Frozen => self.redis.freeze(),
            Fault::Slow => self.wire.delays(LATE),
            Fault::OutOfMemory => self.redis.fill(),
            Fault::ReadOnly => self.redis.becomes_replica(),
            Fault::Cut => self.wire.cut(),
        }
    }

    /// All is well again when this returns.
    pub(crate) fn recovers(&mut self, fault: Fault) {
        match fault {
            Fault::Killed => self.redis.start_again(),
            Fault::Frozen => self.redis.thaw(),
            Fault::Slow => self.wire.delays(Duration::ZERO),
            Fault::OutOfMemory => self.redis.has_room(),
            Fault::ReadOnly => self.redis.becomes_master(),
            Fault::Cut => {}
        }
        self.redis.ask(&["PING"]);
    }
}
