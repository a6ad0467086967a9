//! The secrets of the demo's webhooks: made at the first start, and referred to by the demo's document as files.

use crate::folder;
use anyhow::Context as _;
use std::path::{Path, PathBuf};

/// The secrets, and where they are kept.
pub(crate) struct Secrets {
    /// The folder that the document names.
    pub(super) folder: PathBuf,
    /// What the CRM signs with.
    pub(super) crm: String,
    /// What webhooks to the projection are signed with.
    pub(super) projection: String,
}

impl Secrets {
    /// Those of a data folder.
    pub(crate) fn of(data: &Path) -> anyhow::Result<Self> {
        let folder = std::path::absolute(data)?.join("secrets");
        std::fs::create_dir_all(&folder)
            .with_context(|| format!("{} can't be made", folder.display()))?;
        let crm = folder::secret(&folder.join("acme-crm"), folder::random_hex)?;
        let projection =
            folder::secret(&folder.join("acme-projection"), folder::random_webhook_secret)?;
        Ok(Self { folder, crm, projection })
    }
}
