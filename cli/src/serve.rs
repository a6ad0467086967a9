//! `tollgate serve`: the product.

use crate::Ending;
use crate::node::{self, Node, Start};
use crate::settings::{Role, Settings};
use clap::Args;
use model::Clock;
use std::path::PathBuf;

/// Runs the roles that the settings name.
///
/// Example: tollgate serve --config tollgate.yaml --roles gateway,admin
#[derive(Args)]
pub(crate) struct Serve {
    /// The settings' file.
    #[arg(long)]
    config: Option<PathBuf>,
    /// What this process is; overrides the file and the environment.
    #[arg(long, value_delimiter = ',')]
    roles: Vec<Role>,
}

impl Serve {
    pub(crate) fn run(self) -> anyhow::Result<Ending> {
        let mut settings = Settings::read(self.config.as_deref())?;
        if !self.roles.is_empty() {
            settings.roles = self.roles;
        }
        let lock = node::hold(&settings.data)?;
        crate::log::start("info");
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        runtime.block_on(async {
            let start = Start {
                settings,
                clock: Clock::system(),
                hint: "set `listen` in tollgate.yaml or TOLLGATE_LISTEN_…",
                lock,
            };
            Node::start(start).await?.run().await
        })?;
        runtime.shutdown_background();
        Ok(Ending::Done)
    }
}
