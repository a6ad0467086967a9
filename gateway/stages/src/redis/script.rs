//! A script that Redis keeps under its hash, and learns again when it has forgotten it.

use super::link::Link;
use model::port::StoreError;
use redis::{Cmd, Value};
use tokio::time::Instant;

/// A script and its hash.
#[derive(Debug)]
pub(super) struct Script {
    text: &'static str,
    hash: String,
}

impl Script {
    pub(super) fn new(text: &'static str) -> Self {
        Self { text, hash: redis::Script::new(text).get_hash().to_owned() }
    }

    /// Runs it. `fill` appends the number of keys, the keys and the arguments; the first key says where it runs.
    pub(super) async fn run(
        &self,
        link: &Link,
        until: Instant,
        key: &str,
        fill: impl Fn(&mut Cmd),
    ) -> Result<Value, StoreError> {
        match link.run(key, &self.by_hash(&fill), until).await {
            Err(error) if error.is_unknown_script() => {
                Ok(Box::pin(link.run(key, &self.whole(fill), until)).await?)
            }
            answer => Ok(answer?),
        }
    }

    /// The command for where the script is known.
    pub(super) fn by_hash(&self, fill: impl Fn(&mut Cmd)) -> Cmd {
        let mut command = redis::cmd("EVALSHA");
        command.arg(self.hash.as_str());
        fill(&mut command);
        command
    }

    /// The command that makes it known.
    pub(super) fn whole(&self, fill: impl Fn(&mut Cmd)) -> Cmd {
        let mut command = redis::cmd("EVAL");
        command.arg(self.text);
        fill(&mut command);
        command
    }
}
