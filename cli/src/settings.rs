//! Process settings: `tollgate.yaml`, then `TOLLGATE_<KEY>` (dots as `_`), then flags.

use anyhow::{Context as _, bail};
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// What a process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Role {
    /// The data plane.
    Gateway,
    /// The control plane.
    Admin,
}

/// Where idempotency records are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum IdempotencyStore {
    /// In the database.
    #[default]
    Database,
    /// In process: gone with it.
    Memory,
}

/// The settings of one process.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Settings {
    /// What it is.
    pub(crate) roles: Vec<Role>,
    /// Where it listens.
    pub(crate) listen: Listen,
    /// The embedded store, pack files, the admin token.
    pub(crate) data: PathBuf,
    /// The database; `tollgate.db` in the data folder when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) database: Option<String>,
    /// Where the document is.
    pub(crate) document: Document,
    /// Where idempotency records are kept.
    pub(crate) idempotency: IdempotencyStore,
    /// Worker threads of the data plane; as many as there are processors when 0.
    pub(crate) threads: usize,
}

/// Where a process listens.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Listen {
    pub(crate) gateway: SocketAddr,
    pub(crate) admin: SocketAddr,
    pub(crate) status: SocketAddr,
}

/// Where the document is.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Document {
    /// A file that the operator owns. Without one, `document.yaml` in the data folder, which admin writes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) file: Option<PathBuf>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            roles: vec![Role::Gateway, Role::Admin],
            listen: Listen::default(),
            data: PathBuf::from("./data"),
            database: None,
            document: Document::default(),
            idempotency: IdempotencyStore::default(),
            threads: 0,
        }
    }
}

impl Default for Listen {
    fn default() -> Self {
        let loopback = |port| SocketAddr::from(([127, 0, 0, 1], port));
        Self { gateway: loopback(8080), admin: loopback(8081), status: loopback(8083) }
    }
}

impl Settings {
    /// Reads the file, if there is one, and what the environment says beside it.
    pub(crate) fn read(file: Option<&Path>) -> anyhow::Result<Self> {
        let mut settings = match file {
            None => Self::default(),
            Some(file) => {
                let text = std::fs::read_to_string(file)
                    .with_context(|| format!("{} can't be read", file.display()))?;
                serde_saphyr::from_str(&text)
                    .with_context(|| format!("{} is not valid", file.display()))?
            }
        };
        for (name, value) in std::env::vars_os() {
            let Some(name) = name.to_str() else { continue };
            if let Some(key) = name.strip_prefix("TOLLGATE_") {
                let value = value
                    .to_str()
                    .with_context(|| format!("the environment's {name} is not text"))?;
                settings.set(key, value).with_context(|| format!("the environment's {name}"))?;
            }
        }
        if settings.roles.is_empty() {
            bail!("`roles` is empty: there is nothing to do");
        }
        Ok(settings)
    }

    /// The database; `tollgate.db` in the data folder when the settings name none.
    pub(crate) fn database_url(&self) -> String {
        let default = || format!("sqlite://{}", self.data.join("tollgate.db").display());
        self.database.clone().unwrap_or_else(default)
    }

    fn set(&mut self, key: &str, value: &str) -> anyhow::Result<()> {
        match key {
            "ROLES" => self.roles = parse(&format!("[{value}]"))?,
            "LISTEN_GATEWAY" => self.listen.gateway = address(value)?,
            "LISTEN_ADMIN" => self.listen.admin = address(value)?,
            "LISTEN_STATUS" => self.listen.status = address(value)?,
            "DATABASE" => self.database = Some(value.to_owned()),
            "DATA" => self.data = value.into(),
            "DOCUMENT_FILE" => self.document.file = Some(value.into()),
            "IDEMPOTENCY" => self.idempotency = parse(value)?,
            "THREADS" => self.threads = value.parse()?,
            "LOG" | "ADMIN_URL" | "ADMIN_TOKEN" => {}
            _ if key.starts_with("SECRET_") || key.starts_with("TEST_") => {}
            _ => bail!("is no setting"),
        }
        Ok(())
    }
}

fn address(value: &str) -> anyhow::Result<SocketAddr> {
    value.parse().with_context(|| format!("`{value}` is not an address like `127.0.0.1:8080`"))
}

fn parse<T: serde::de::DeserializeOwned>(text: &str) -> anyhow::Result<T> {
    Ok(serde_saphyr::from_str(text)?)
}
