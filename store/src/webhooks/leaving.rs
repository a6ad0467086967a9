//! What is left for good when its endpoint is enabled: what is parked of it, and what waits behind that. Not what waits behind
//! a dead one, nor behind one that is on its way: that goes in its turn.
//!
//! Invariant: what is parked stops its key until nothing waits behind it that is to be left. So none of that is sent meanwhile,
//! whoever looks for what is stuck, and however long it takes.

use super::order::{OrderKey, released};
use super::sql::Sql;
use super::taking_up::{Recovery, TAKEN_UP, order_key};
use super::waiting::Waiting;
use serde::Serialize;
use sqlx::any::AnyRow;
use sqlx::{AnyConnection, Row as _};
use std::collections::{BTreeMap, BTreeSet};

pub(super) static STOPPING: Sql = Sql::new(
    "SELECT number, endpoint, order_key FROM webhook_deliveries WHERE endpoint = $1 AND tenant = $2 \
         AND state = 'parked' AND reason <> 'blocked' AND blocks = 1 AND number <= $3 \
     ORDER BY endpoint, blocks, number LIMIT $4",
);

macro_rules! behind {
    ($rows:literal) => {
        Sql::of_rows(
            PLACE,
            concat!(
                "SELECT d.number, d.tenant, d.endpoint, d.order_key, d.state FROM {rows} AS stopping \
                 JOIN webhook_deliveries d ON d.blocks = 1 AND d.endpoint = stopping.endpoint \
                     AND d.order_key = stopping.order_key AND d.number > stopping.number \
                 WHERE d.number <= $2 AND d.due_at IS NULL AND (d.state = 'pending' OR d.reason = 'blocked') \
                 LIMIT $3 ",
                $rows
            ),
        )
    };
}

macro_rules! parked {
    ($rows:literal) => {
        Sql::of_rows(
            PLACE,
            concat!(
                "SELECT number, tenant, endpoint, order_key, state FROM webhook_deliveries \
                 WHERE number IN (SELECT number FROM {rows} AS stopping) \
                     AND state = 'parked' AND reason <> 'blocked' AND blocks = 1 AND number <= $2 LIMIT $3 ",
                $rows
            ),
        )
    };
}

// What others have is waited for one by one: who waits for it holds no other.
pub(super) static BEHIND: Sql = behind!("{skip}");
pub(super) static ONE_BEHIND: Sql = behind!("{lock}");
pub(super) static PARKED: Sql = parked!("{skip}");
pub(super) static ONE_PARKED: Sql = parked!("{lock}");

pub(super) static LET_GO: Sql = Sql::of_rows(
    "number BIGINT",
    "UPDATE webhook_deliveries SET state = 'parked', blocks = 0, settled_at = COALESCE(settled_at, {now}), \
         reason = CASE WHEN state = 'pending' OR reason = 'blocked' THEN 'disabled' ELSE reason END \
     WHERE number IN (SELECT number FROM {rows} AS gone)",
);

const PLACE: &str = "number BIGINT, endpoint TEXT, order_key TEXT";

/// Where one stops its key.
#[derive(Serialize)]
struct Place {
    number: i64,
    #[serde(flatten)]
    key: OrderKey,
}

#[derive(Serialize)]
struct Gone {
    number: i64,
}

/// Leaves the next rows; says whether there were any.
pub(super) async fn leave(
    connection: &mut AnyConnection,
    recovery: &Recovery,
) -> Result<bool, sqlx::Error> {
    let find = recovery.of(&STOPPING, connection).bind(TAKEN_UP);
    let (mut stopping, mut firsts) = (Vec::new(), BTreeMap::new());
    for row in find.fetch_all(&mut *connection).await? {
        let number = row.try_get("number")?;
        if let Some(key) = order_key(&row)? {
            firsts.entry(key.clone()).or_insert(number);
            stopping.push(Place { number, key });
        }
    }
    // Of a key the first one: the others stand behind it.
    let firsts: Vec<_> = firsts.into_iter().map(|(key, number)| Place { number, key }).collect();
    for (find, places, most) in [
        (&BEHIND, &firsts, TAKEN_UP),
        (&ONE_BEHIND, &firsts, 1),
        (&PARKED, &stopping, TAKEN_UP),
        (&ONE_PARKED, &stopping, 1),
    ] {
        let find = find.with(connection, places)?.bind(recovery.to).bind(most);
        let rows = find.fetch_all(&mut *connection).await?;
        if !rows.is_empty() {
            let_go(connection, &rows).await?;
            break;
        }
    }
    Ok(!stopping.is_empty())
}

async fn let_go(connection: &mut AnyConnection, rows: &[AnyRow]) -> Result<(), sqlx::Error> {
    let (mut gone, mut keys, mut waiting) = (Vec::new(), BTreeSet::new(), Waiting::default());
    for row in rows {
        gone.push(Gone { number: row.try_get("number")? });
        keys.extend(order_key(row)?);
        if row.try_get::<&str, _>("state")? == "pending" {
            waiting.add(row.try_get("tenant")?, -1);
        }
    }
    LET_GO.with(connection, &gone)?.execute(&mut *connection).await?;
    // Where nothing stops a key any more, it goes on with what came since.
    released(connection, keys, &mut waiting).await?;
    waiting.count(connection).await
}
