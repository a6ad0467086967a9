//! `tollgate migrate`: brings a database's schema up to date. Every start does the same; this does only that.

use crate::settings::Settings;
use crate::{Ending, print};
use anyhow::Context as _;
use clap::Args;
use std::path::PathBuf;
use store::Store;

/// Brings the database's schema up to date, and makes the database where there is none.
///
/// Example: tollgate migrate --data .tollgate/demo
#[derive(Args)]
pub(crate) struct Migrate {
    /// The settings' file.
    #[arg(long)]
    config: Option<PathBuf>,
    /// The data folder; overrides the settings.
    #[arg(long)]
    data: Option<PathBuf>,
}

impl Migrate {
    pub(crate) fn run(self) -> anyhow::Result<Ending> {
        let mut settings = Settings::read(self.config.as_deref())?;
        if let Some(data) = self.data {
            settings.data = data;
        }
        std::fs::create_dir_all(&settings.data)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let database = settings.database();
        runtime
            .block_on(async {
                let store = Store::open(database.revealed()).await?;
                // A server that is away is waited for when processes start, not here.
                let outcome = store.up_to_date().await;
                store.close().await;
                anyhow::Ok(outcome?)
            })
            .with_context(|| database.to_string())?;
        print(&format!("{database} is up to date"));
        Ok(Ending::Done)
    }
}
