//! `tollgate serve`: the product.

use crate::node::{Listeners, Node};
use crate::parts::Parts;
use crate::settings::{Role, Settings};
use crate::{Ending, folder, print};
use anyhow::Context as _;
use clap::Args;
use model::Clock;
use std::path::PathBuf;

const HINT: &str = "set `listen` in tollgate.yaml or TOLLGATE_LISTEN_…";

/// Runs the roles that the settings name.
///
/// Example: tollgate serve --config tollgate.yaml --roles gateway,admin,dispatcher
#[derive(Args)]
pub(crate) struct Serve {
    /// The settings' file.
    #[arg(long)]
    config: Option<PathBuf>,
    /// What this process is; overrides the file and the environment.
    #[arg(long, value_delimiter = ',')]
    roles: Vec<Role>,
    /// Reads all settings, says what is wrong with them or prints those in force, and starts nothing.
    #[arg(long)]
    check: bool,
}

impl Serve {
    pub(crate) fn run(self) -> anyhow::Result<Ending> {
        let mut settings = Settings::read(self.config.as_deref())?;
        if !self.roles.is_empty() {
            settings.roles = self.roles;
        }
        if self.check {
            return check(&settings);
        }
        let lock = folder::hold(&settings.data)?;
        crate::log::start("info");
        crate::descriptors::raise();
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        runtime.block_on(async {
            let listeners = Listeners::bind(&settings, HINT)?;
            let parts = Parts::make(&settings, Clock::system()).await?;
            Node::start(&settings, listeners, parts, lock).await?.run().await
        })?;
        runtime.shutdown_background();
        Ok(Ending::Done)
    }
}

/// Judges what can be judged without starting anything.
fn check(settings: &Settings) -> anyhow::Result<Ending> {
    settings.keys()?;
    if let Some(file) = &settings.document.file {
        std::fs::File::open(file).with_context(|| format!("{} can't be read", file.display()))?;
    }
    print(serde_saphyr::to_string(settings)?.trim_end());
    Ok(Ending::Done)
}
