//! How many nodes share this Redis.
//!
//! Invariant: at least one; while Redis is away, as many as were known last. A number falls only after it was heard for
//! as long as a node counts as living, so that nodes which come back together don't each take themselves for the only one.

use super::link::Link;
use super::script::Script;
use model::id::NodeName;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::task::AbortHandle;
use tokio::time::{Instant, MissedTickBehavior, interval};

/// How often a node says that it lives.
const HEARTBEAT: Duration = Duration::from_secs(2);
/// How long it counts as living after that.
const EXPIRY: Duration = Duration::from_secs(10);
/// How long the answer may take: nobody waits for it.
const ANSWER_MAX: Duration = Duration::from_secs(1);
/// The sorted set of nodes, by when they count as gone.
const NODES: &str = "q:nodes";
const BEAT: &str = concat!(include_str!("prelude.lua"), include_str!("beat.lua"));

/// Says that this node lives, and knows how many do.
#[derive(Debug)]
pub struct Presence {
    link: Link,
    node: Option<NodeName>,
    nodes: Arc<AtomicU32>,
    task: AbortHandle,
}

impl Presence {
    /// Counts this node as living for as long as this value lives; without a name, only looks who else does.
    pub fn new(link: Link, node: Option<NodeName>, runtime: &Handle) -> Self {
        let nodes = Arc::new(AtomicU32::new(1));
        let known = Known { nodes: Arc::clone(&nodes), heard_since: None };
        let task = runtime.spawn(beat(link.clone(), node.clone(), known)).abort_handle();
        Self { link, node, nodes, task }
    }

    /// How many nodes live; at least 1.
    pub fn nodes(&self) -> u32 {
        self.nodes.load(Ordering::Relaxed)
    }

    /// Says that this node ends, so that nobody counts with it until its time is over. Without Redis, it is over then.
    pub async fn leave(&self) {
        self.task.abort();
        let Some(node) = &self.node else { return };
        let mut command = redis::cmd("ZREM");
        command.arg(NODES).arg(node.as_str());
        let until = Instant::now() + ANSWER_MAX;
        if let Err(failure) = self.link.run(NODES, &command, until).await {
            tracing::debug!(?failure, "the node's end was not told");
        }
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What is known of the number of nodes.
struct Known {
    nodes: Arc<AtomicU32>,
    /// Since when every heartbeat was answered.
    heard_since: Option<Instant>,
}

impl Known {
    fn hear(&mut self, count: Option<u32>, now: Instant) {
        let Some(count) = count else {
            self.heard_since = None;
            return;
        };
        let since = *self.heard_since.get_or_insert(now);
        let before = self.nodes.load(Ordering::Relaxed);
        let least = if now.duration_since(since) < EXPIRY { before } else { 1 };
        self.nodes.store(count.max(least), Ordering::Relaxed);
    }
}

async fn beat(link: Link, node: Option<NodeName>, mut known: Known) {
    let script = Script::new(BEAT);
    let name = node.as_ref().map_or("", NodeName::as_str);
    let lives = u64::try_from(EXPIRY.as_micros()).unwrap_or(u64::MAX);
    let mut ticks = interval(HEARTBEAT);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        link.connected().await;
        let until = Instant::now() + ANSWER_MAX;
        let answer = script
            .run(&link, until, NODES, |command| {
                command.arg(1).arg(NODES).arg(name).arg(lives);
            })
            .await;
        let count = answer.ok().and_then(|value| redis::from_redis_value(value).ok());
        known.hear(count, Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_falls_only_after_it_was_heard_for_as_long_as_a_node_lives() {
        let mut known = Known { nodes: Arc::new(AtomicU32::new(1)), heard_since: None };
        let start = Instant::now();
        for (seconds, heard, nodes) in [
            (0, Some(1), 1),
            (2, Some(3), 3),
            (9, Some(2), 3),
            (10, Some(2), 2),
            // Redis is away, and comes back without what it knew.
            (12, None, 2),
            (14, Some(1), 2),
            (16, Some(2), 2),
            (23, Some(1), 2),
            (24, Some(1), 1),
            (26, Some(0), 1),
        ] {
            known.hear(heard, start + Duration::from_secs(seconds));
            assert_eq!(known.nodes.load(Ordering::Relaxed), nodes, "after {seconds} s");
        }
    }
}
