//! Process settings: `tollgate.yaml`, then `TOLLGATE_<KEY>` (dots as `_`), then flags.

mod database;
mod redis;
mod webhooks;

pub(crate) use database::DatabaseUrl;
pub(crate) use redis::Redis;
pub(crate) use webhooks::Webhooks;

use anyhow::{Context as _, bail};
use gateway::record;
use model::id::{NodeName, is_id};
use model::idempotency::TenantRoom;
use model::units::{Duration, Size};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time;
use store::seal::MasterKeys;

/// How many decision records may wait to be written: at least a few batches, at most about what a large machine holds.
const RECORDS_BUFFER: std::ops::RangeInclusive<usize> = 1_024..=1_000_000;
/// How many bytes may be kept of a tenant's idempotency records.
const ROOM: std::ops::RangeInclusive<u64> = 1 << 20..=1 << 40;
/// How long they may be kept.
const RECORDS_RETENTION: std::ops::RangeInclusive<Duration> =
    Duration(time::Duration::from_secs(3_600))
        ..=Duration(time::Duration::from_secs(87_600 * 3_600));

/// What a process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Role {
    /// The data plane.
    Gateway,
    /// The control plane.
    Admin,
    /// Takes events and delivers webhooks.
    Dispatcher,
}

impl Role {
    /// The name as settings write it.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Gateway => "gateway",
            Self::Admin => "admin",
            Self::Dispatcher => "dispatcher",
        }
    }
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
    /// On Redis: as durable as that is.
    Redis,
}

/// How much is kept of one tenant's idempotency records.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Room {
    /// Answers: those beyond it are not retained.
    pub(crate) answers: Size,
    /// All, at 1KiB for each key beside its answer: beyond it no key is taken.
    pub(crate) all: Size,
}

impl Default for Room {
    fn default() -> Self {
        let size = |bytes| Size(u64::try_from(bytes).unwrap_or(u64::MAX));
        let TenantRoom { answers, all } = TenantRoom::SHARED;
        Self { answers: size(answers), all: size(all) }
    }
}

impl Room {
    /// For a store that nodes share.
    pub(crate) fn shared(self) -> TenantRoom {
        TenantRoom { answers: self.answers.bytes(), all: self.all.bytes() }
    }
}

/// The settings of one process.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Settings {
    /// What it is.
    pub(crate) roles: Vec<Role>,
    /// What other nodes and operators call it; made at the first start and kept in the data folder when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) node: Option<NodeName>,
    /// Where it listens.
    pub(crate) listen: Listen,
    /// The embedded store, pack files, the admin token, the last good revision.
    pub(crate) data: PathBuf,
    /// The database; `tollgate.db` in the data folder when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) database: Option<DatabaseUrl>,
    /// Where the document is.
    pub(crate) document: Document,
    /// What seals secrets at rest: the first seals, all open.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) master_keys: Vec<KeyFile>,
    /// Decision records.
    pub(crate) records: Records,
    /// Where idempotency records are kept.
    pub(crate) idempotency: IdempotencyStore,
    /// How much is kept of each tenant's, where that outlives the process.
    pub(crate) idempotency_room: Room,
    /// What is shared by way of a Redis.
    #[serde(skip_serializing_if = "Redis::is_absent")]
    pub(crate) redis: Redis,
    /// Webhooks.
    pub(crate) webhooks: Webhooks,
    /// Brokers that events come from and go to.
    #[cfg(any(feature = "nats", feature = "kafka"))]
    pub(crate) streams: streams::Settings,
    /// Worker threads of the data plane; as many as there are processors when 0.
    pub(crate) threads: usize,
}

/// Where a process listens.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Listen {
    pub(crate) gateway: SocketAddr,
    pub(crate) admin: SocketAddr,
    pub(crate) dispatcher: SocketAddr,
    pub(crate) status: SocketAddr,
}

/// Where the document is.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Document {
    /// A file that the operator owns. Without one, the document is the newest revision in the database.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) file: Option<PathBuf>,
}

/// A master key.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct KeyFile {
    /// Holds 64 hex digits or 44 characters of base64.
    pub(crate) file: PathBuf,
}

/// How decision records are kept.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Records {
    /// How long.
    pub(crate) retention: Duration,
    /// How many may wait to be written.
    pub(crate) buffer: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            roles: vec![Role::Gateway, Role::Admin, Role::Dispatcher],
            node: None,
            listen: Listen::default(),
            data: PathBuf::from("./data"),
            database: None,
            document: Document::default(),
            master_keys: Vec::new(),
            records: Records::default(),
            idempotency: IdempotencyStore::default(),
            idempotency_room: Room::default(),
            redis: Redis::default(),
            webhooks: Webhooks::default(),
            #[cfg(any(feature = "nats", feature = "kafka"))]
            streams: streams::Settings::default(),
            threads: 0,
        }
    }
}

impl Default for Listen {
    fn default() -> Self {
        let loopback = |port| SocketAddr::from(([127, 0, 0, 1], port));
        Self {
            gateway: loopback(8080),
            admin: loopback(8081),
            dispatcher: loopback(8082),
            status: loopback(8083),
        }
    }
}

impl Default for Records {
    fn default() -> Self {
        Self { retention: Duration(record::RETENTION), buffer: record::BUFFER }
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
                // No snippet: the line above or below may hold a password.
                let options = serde_saphyr::options! { with_snippet: false };
                serde_saphyr::from_str_with_options(&text, options)
                    .with_context(|| format!("{} is not valid", file.display()))?
            }
        };
        // By their names, so that of `TOLLGATE_REDIS` and `TOLLGATE_REDIS_QUOTA` the more particular one comes last.
        let environment: BTreeMap<_, _> = std::env::vars_os().collect();
        for (name, value) in environment {
            let Some(name) = name.to_str() else { continue };
            if let Some(key) = name.strip_prefix("TOLLGATE_") {
                let value = value
                    .to_str()
                    .with_context(|| format!("the environment's {name} is not text"))?;
                settings.set(key, value).with_context(|| format!("the environment's {name}"))?;
            }
        }
        settings.judge()?;
        Ok(settings)
    }

    /// Whether this process is that.
    pub(crate) fn is(&self, role: Role) -> bool {
        self.roles.contains(&role)
    }

    /// The database; `tollgate.db` in the data folder when the settings name none.
    pub(crate) fn database(&self) -> DatabaseUrl {
        self.database.clone().unwrap_or_else(|| DatabaseUrl::embedded(&self.data))
    }

    /// The master keys, read from their files.
    pub(crate) fn keys(&self) -> anyhow::Result<MasterKeys> {
        let files: Vec<&Path> = self.master_keys.iter().map(|key| key.file.as_path()).collect();
        MasterKeys::read(&files).context("the master keys can't be read")
    }

    /// What no single value shows.
    fn judge(&self) -> anyhow::Result<()> {
        if self.roles.is_empty() {
            bail!("`roles` is empty: there is nothing to do");
        }
        if let Some(name) = self.node.as_ref().filter(|name| !is_id(name.as_str())) {
            bail!(
                "`node`: `{name}` is not a name: 1 to 64 letters, digits, `.`, `_`, `-`, starting with a letter or digit"
            );
        }
        if !RECORDS_BUFFER.contains(&self.records.buffer) {
            let (least, most) = (RECORDS_BUFFER.start(), RECORDS_BUFFER.end());
            bail!("`records.buffer` is not between {least} and {most}");
        }
        if !RECORDS_RETENTION.contains(&self.records.retention) {
            bail!("`records.retention` is not between 1h and 87600h");
        }
        let Room { answers, all } = self.idempotency_room;
        if !ROOM.contains(&answers.0) || !ROOM.contains(&all.0) || all.0 < answers.0 {
            bail!(
                "`idempotency_room`: `answers` and `all` are 1MiB to 1024GiB, and `all` is not less than `answers`"
            );
        }
        if self.idempotency == IdempotencyStore::Redis && self.redis.idempotency.is_none() {
            bail!(
                "`idempotency: redis` is given and no Redis: say where it is in `redis.idempotency`"
            );
        }
        self.redis.judge()?;
        self.webhooks.judge()
    }

    fn set(&mut self, key: &str, value: &str) -> anyhow::Result<()> {
        match key {
            "ROLES" => self.roles = parse(&format!("[{value}]"))?,
            "NODE" => self.node = Some(value.into()),
            "LISTEN_GATEWAY" => self.listen.gateway = address(value)?,
            "LISTEN_ADMIN" => self.listen.admin = address(value)?,
            "LISTEN_DISPATCHER" => self.listen.dispatcher = address(value)?,
            "LISTEN_STATUS" => self.listen.status = address(value)?,
            "DATABASE" => self.database = Some(value.parse().map_err(anyhow::Error::msg)?),
            "DATA" => self.data = value.into(),
            "DOCUMENT_FILE" => self.document.file = Some(value.into()),
            "MASTER_KEYS" => {
                let files = value.split(',').map(str::trim).filter(|file| !file.is_empty());
                self.master_keys = files.map(|file| KeyFile { file: file.into() }).collect();
            }
            "RECORDS_RETENTION" => {
                self.records.retention = value.parse().map_err(anyhow::Error::msg)?;
            }
            "RECORDS_BUFFER" => self.records.buffer = value.parse()?,
            "IDEMPOTENCY" => self.idempotency = parse(value)?,
            "IDEMPOTENCY_ROOM_ANSWERS" => self.idempotency_room.answers = size(value)?,
            "IDEMPOTENCY_ROOM_ALL" => self.idempotency_room.all = size(value)?,
            "REDIS" => self.redis.is_all_at(value.parse()?),
            "REDIS_QUOTA" => self.redis.quota = Some(value.parse()?),
            "REDIS_IDEMPOTENCY" => self.redis.idempotency = Some(value.parse()?),
            "REDIS_DEADLINE" => {
                self.redis.deadline = Some(value.parse().map_err(anyhow::Error::msg)?);
            }
            "WEBHOOKS_ALLOW_PRIVATE" => self.webhooks.allow_private = webhooks::networks(value)?,
            "WEBHOOKS_RETENTION" => {
                self.webhooks.retention = value.parse().map_err(anyhow::Error::msg)?;
            }
            "THREADS" => self.threads = value.parse()?,
            "LOG" | "ADMIN_URL" | "ADMIN_TOKEN" => {}
            "GATEWAY_URL" | "CREDENTIAL" | "WEBHOOK_SECRET" => {}
            _ if key.starts_with("SECRET_") || key.starts_with("TEST_") => {}
            _ => bail!("is no setting"),
        }
        Ok(())
    }
}

fn size(value: &str) -> anyhow::Result<Size> {
    value.parse().map_err(anyhow::Error::msg)
}

fn address(value: &str) -> anyhow::Result<SocketAddr> {
    value.parse().with_context(|| format!("`{value}` is not an address like `127.0.0.1:8080`"))
}

fn parse<T: serde::de::DeserializeOwned>(text: &str) -> anyhow::Result<T> {
    Ok(serde_saphyr::from_str(text)?)
}
