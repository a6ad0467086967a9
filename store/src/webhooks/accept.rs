//! Accepting events: each request whole or not at all.
//!
//! Invariant: one transaction at a time accepts, so that numbers and times of events grow in the order of commits, and what
//! was found to be new is still new when it is kept.

use super::sql::Sql;
use super::waiting::{Waiting, waiting_of};
use crate::Store;
use crate::db::serialize;
use crate::rows::text;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use model::Clock;
use model::id::TenantId;
use model::port::StoreError;
use model::webhook::{Acceptance, NewEvent};
use serde::Serialize;
use sqlx::{AnyConnection, Row as _};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// Those who accept do so one by one.
pub(super) const ACCEPTING: i64 = 0x746f_6c6c_6576_656e;

pub(super) static KEPT: Sql = Sql::of_rows(
    "id TEXT",
    "SELECT webhook_id, digest FROM webhook_ids WHERE webhook_id IN (SELECT id FROM {rows} AS asked)",
);

pub(super) const NEWEST: &str = "SELECT number, at FROM webhook_numbers WHERE name = 'events'";

const RAISE: &str = "UPDATE webhook_numbers SET number = $1, at = $2 WHERE name = 'events'";

pub(super) static KEEP_IDS: Sql = Sql::of_rows(
    "id TEXT, digest TEXT, number BIGINT",
    "INSERT INTO webhook_ids (webhook_id, digest, event, at) \
     SELECT id, digest, number, $2 FROM {rows} AS new",
);

// The content is text, as it is JSON: it is kept as the bytes that are sent.
pub(super) static KEEP_EVENTS: [Sql; 2] = [
    Sql::of_rows(
        COLUMNS,
        "INSERT INTO webhook_events (number, accepted_at, webhook_id, tenant, source, id, type, content) \
         SELECT number, $2, webhook_id, tenant, source, id, type, CAST(content AS BLOB) FROM {rows} AS new",
    ),
    Sql::of_rows(
        COLUMNS,
        "INSERT INTO webhook_events (number, accepted_at, webhook_id, tenant, source, id, type, content) \
         SELECT number, $2, webhook_id, tenant, source, id, type, convert_to(content, 'UTF8') \
         FROM {rows} AS new",
    ),
];

const COLUMNS: &str =
    "number BIGINT, webhook_id TEXT, tenant TEXT, source TEXT, id TEXT, type TEXT, content TEXT";

/// The events of one request.
#[derive(Clone, Debug, Default)]
pub struct Arriving {
    /// All of them, or none is kept.
    pub events: Vec<NewEvent>,
    /// How much of each tenant's may wait, with these; no bound of those that are not named.
    pub backlog: BTreeMap<TenantId, u64>,
}

/// An id with its digest.
#[derive(Serialize)]
struct Id<'a> {
    id: &'a str,
    digest: String,
    number: i64,
}

#[derive(Serialize)]
struct Row<'a> {
    number: i64,
    webhook_id: &'a str,
    tenant: &'a str,
    source: String,
    id: String,
    r#type: String,
    content: &'a str,
}

impl Store {
    /// Keeps the events of requests, and says of each event what became of it. Where one is a conflict or there is no room
    /// for one, nothing of its request is kept.
    pub async fn accept_events(
        &self,
        requests: Vec<Arriving>,
    ) -> Result<Vec<Vec<Acceptance>>, StoreError> {
        let events = requests.iter().flat_map(|request| &request.events);
        let is_text = |event: &&NewEvent| {
            std::str::from_utf8(&event.content).is_ok_and(|content| !content.contains('\0'))
        };
        if let Some(bad) = events.clone().find(|event| !is_text(event)) {
            return Err(StoreError::Unreadable(format!("the event {} is no text", bad.webhook_id)));
        }
        let size = events.map(|event| event.content.len()).sum();
        let done = self.db.write(size, |connection| {
            Box::pin(async move {
                let done = accept(connection, &requests).await?;
                done.added.count(connection).await?;
                Ok(done.told)
            })
        });
        let told = done.await?;
        if told.iter().flatten().any(|told| *told == Acceptance::Accepted) {
            self.tell_webhooks();
        }
        Ok(told)
    }
}

/// What was accepted.
pub(super) struct Done {
    pub(super) told: Vec<Vec<Acceptance>>,
    /// The newest event: its number, and when it was accepted.
    pub(super) number: i64,
    pub(super) at: i64,
    /// What waits now, to be counted at the transaction's end.
    pub(super) added: Waiting,
}

/// Accepts requests.
pub(super) async fn accept(
    connection: &mut AnyConnection,
    requests: &[Arriving],
) -> Result<Done, sqlx::Error> {
    let now = serialize(connection, ACCEPTING).await?;
    let now = now.unwrap_or_else(|| Clock::system().micros());
    let newest = sqlx::query(NEWEST).fetch_one(&mut *connection).await?;
    let mut number: i64 = newest.try_get("number")?;
    let at = now.max(newest.try_get("at")?);
    let kept = kept(connection, requests).await?;
    let tenants: BTreeSet<_> =
        requests.iter().flat_map(|request| request.backlog.keys()).map(TenantId::as_str).collect();
    let waiting = waiting_of(connection, tenants.into_iter()).await?;
    let (told, new) = judge(requests, kept, waiting);
    let mut added = Waiting::default();
    if new.is_empty() {
        return Ok(Done { told, number, at, added });
    }
    let (mut ids, mut rows) = (Vec::with_capacity(new.len()), Vec::with_capacity(new.len()));
    for event in new {
        number += 1;
        added.add(event.tenant.as_str(), 1);
        ids.push(Id { id: event.webhook_id.as_str(), digest: digest(event), number });
        rows.push(Row {
            number,
            webhook_id: event.webhook_id.as_str(),
            tenant: event.tenant.as_str(),
            source: text(&event.source),
            id: text(&event.id),
            r#type: text(&event.r#type),
            content: std::str::from_utf8(&event.content).unwrap_or_default(),
        });
    }
    KEEP_IDS.with(connection, &ids)?.bind(at).execute(&mut *connection).await?;
    let [sqlite, postgres] = &KEEP_EVENTS;
    let keep = if crate::db::is_postgres(connection) { postgres } else { sqlite };
    keep.with(connection, &rows)?.bind(at).execute(&mut *connection).await?;
    sqlx::query(RAISE).bind(number).bind(at).execute(&mut *connection).await?;
    Ok(Done { told, number, at, added })
}

/// The digests of those that are kept already.
async fn kept(
    connection: &mut AnyConnection,
    requests: &[Arriving],
) -> Result<HashMap<String, String>, sqlx::Error> {
    #[derive(Serialize)]
    struct Asked<'a> {
        id: &'a str,
    }
    let asked: Vec<_> = requests
        .iter()
        .flat_map(|request| &request.events)
        .map(|event| Asked { id: event.webhook_id.as_str() })
        .collect();
    let rows = KEPT.with(connection, &asked)?.fetch_all(connection).await?;
    rows.iter().map(|row| Ok((row.try_get("webhook_id")?, row.try_get("digest")?))).collect()
}

/// What becomes of each event, and which are new.
fn judge(
    requests: &[Arriving],
    mut kept: HashMap<String, String>,
    mut waiting: BTreeMap<String, i64>,
) -> (Vec<Vec<Acceptance>>, Vec<&NewEvent>) {
    let mut told = Vec::with_capacity(requests.len());
    let mut new = Vec::new();
    for request in requests {
        let mut fresh: HashMap<&str, String> = HashMap::new();
        let mut events = Vec::new();
        let mut said = Vec::with_capacity(request.events.len());
        for event in &request.events {
            let (id, digest) = (event.webhook_id.as_str(), digest(event));
            said.push(match kept.get(id).or_else(|| fresh.get(id)) {
                None => {
                    fresh.insert(id, digest);
                    events.push(event);
                    Acceptance::Accepted
                }
                Some(kept) if *kept == digest => Acceptance::Repeat,
                Some(_) => Acceptance::Conflict,
            });
        }
        let mut sums: BTreeMap<&TenantId, i64> = BTreeMap::new();
        for event in &events {
            *sums.entry(&event.tenant).or_default() += 1;
        }
        let is_full = |(tenant, added): (&&TenantId, &i64)| {
            let waits = waiting.get(tenant.as_str()).copied().unwrap_or_default();
            let most = request.backlog.get(*tenant).copied().unwrap_or(u64::MAX);
            u64::try_from(waits.saturating_add(*added)).is_ok_and(|all| all > most)
        };
        if said.contains(&Acceptance::Conflict) {
            // Nothing of it is kept.
        } else if sums.iter().any(is_full) {
            let full = |told: &mut Acceptance| {
                if *told == Acceptance::Accepted {
                    *told = Acceptance::Full;
                }
            };
            said.iter_mut().for_each(full);
        } else {
            for (tenant, added) in sums {
                *waiting.entry(tenant.as_str().to_owned()).or_default() += added;
            }
            kept.extend(fresh.into_iter().map(|(id, digest)| (id.to_owned(), digest)));
            new.extend(events);
        }
        told.push(said);
    }
    (told, new)
}

fn digest(event: &NewEvent) -> String {
    STANDARD_NO_PAD.encode(event.digest)
}
