//! Gateways without an edge, each on a store of its own or a shared one, for this crate's tests.

pub(crate) mod pack;

use crate::gateway::{Gateway, Settings};
use crate::ledger::AnyLedger;
use crate::record;
use model::Clock;
use model::audit::Entry;
use model::id::NodeName;
use model::idempotency::Salt;
use model::revision::{Change, Staged};
use model::role::Actor;
use pack_host::worker::Worker;
use pack_host::{Host, HostSettings};
use stages::quotas::Quotas;
use std::path::Path;
use std::sync::{Arc, LazyLock, Once};
use std::time::Duration;
use store::Store;
use store::seal::MasterKeys;
use tempfile::TempDir;

/// How long a test waits for what is promised within a second.
pub(crate) const SOON: Duration = Duration::from_secs(5);

/// Once per process, as the binary does at its start.
pub(crate) fn install_crypto() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        rustls::crypto::ring::default_provider().install_default().unwrap();
        jsonwebtoken::crypto::aws_lc::DEFAULT_PROVIDER.install_default().unwrap();
    });
}

/// A store in a folder that goes away.
pub(crate) async fn store() -> (Store, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("sqlite://{}", folder.path().join("tollgate.db").display());
    (Store::open(&url).await.unwrap(), folder)
}

/// A gateway of this name. Its packs lie in `folder/packs`.
pub(crate) fn gateway(store: &Store, name: &str, folder: &Path) -> Arc<Gateway> {
    gateway_with(store, name, folder, MasterKeys::default())
}

pub(crate) fn gateway_with(
    store: &Store,
    name: &str,
    folder: &Path,
    keys: MasterKeys,
) -> Arc<Gateway> {
    Gateway::new(Settings { keys, ..settings(store, name, folder) }).unwrap()
}

/// What a gateway of this name is made with, unless a test says otherwise.
pub(crate) fn settings(store: &Store, name: &str, folder: &Path) -> Settings {
    install_crypto();
    let packs = folder.join("packs");
    std::fs::create_dir_all(&packs).unwrap();
    Settings {
        clock: Clock::system(),
        packs,
        host: host(),
        quotas: Quotas::in_process(),
        ledger: AnyLedger::in_process(),
        salt: Salt([0; 32]),
        node: name.into(),
        runtime: tokio::runtime::Handle::current(),
        version: "test",
        store: store.clone(),
        keys: MasterKeys::default(),
        records: record::Settings::default(),
        reach: model::webhook::Reach::default(),
        events_kept: model::units::Duration(Duration::from_secs(30 * 86_400)),
    }
}

/// What runs packs in this process.
pub(crate) fn host() -> Arc<Host> {
    static HOST: LazyLock<Arc<Host>> =
        LazyLock::new(|| Host::new(HostSettings::small(Worker::Here)).unwrap());
    HOST.clone()
}

/// A document that can be put in force; different for every mark.
pub(crate) fn document(mark: u32) -> String {
    format!(
        r#"
format: 1 # {mark}
plans:
  - id: gold
    limits:
      - {{ id: daily, quota: 100/day, per: tenant, on_store_error: closed }}
      - {{ id: each, rate: 1/h, burst: 10, per: consumer, on_store_error: closed }}
      - {{ id: open, concurrency: 5, per: tenant, on_store_error: closed }}
      - {{ id: address, rate: 9/s, per: ip, on_store_error: closed }}
tenants:
  - id: acme
    plan: gold
    state: active
    consumers:
      - {{ id: b, scopes: [read] }}
      - {{ id: a, scopes: [read], credentials: [{{ id: k1, api_key: {{ hash: "sha256:{}", prefix: tg_test_1 }} }}] }}
"#,
        "0".repeat(64)
    )
}

/// The same with a pack attached.
pub(crate) fn with_pack(mark: u32) -> String {
    let key = pack::key(&["*"]);
    let attached = format!(
        r#"
pack_keys: [{key}]
packs: [{{ id: quiet, version: "1.0.0" }}]
attachments: [{{ id: h, pack: quiet@1.0.0, phases: [request], mode: enforce, on_failure: closed, settings: {{}} }}]
"#
    );
    format!("{}{attached}", document(mark))
}

/// A change by the system.
pub(crate) fn change(text: String, base: u64) -> Change {
    Change {
        text,
        base,
        nodes: None,
        staged: Staged::Keep,
        audit: entry("document.put"),
        answer: None,
        events: Vec::new(),
    }
}

/// An audit entry of the system.
pub(crate) fn entry(action: &str) -> Entry {
    let node = NodeName::from("test");
    Entry {
        id: uuid::Uuid::now_v7().to_string(),
        at: Clock::system().now(),
        actor: Actor::system(&node),
        action: action.to_owned(),
        resource: "/v1/document".to_owned(),
        tenant: None,
        request_id: "r".to_owned(),
        revision: None,
        difference: serde_json::json!([]),
        refused: None,
    }
}

/// Waits until it holds.
pub(crate) async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let looked = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    assert!(tokio::time::timeout(SOON, looked).await.is_ok(), "{what}: not within {SOON:?}");
}
