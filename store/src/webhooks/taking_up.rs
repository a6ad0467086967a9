//! What becomes of parked deliveries once their endpoint is enabled again: taken up, or left for good. In transactions of a
//! bounded number of rows; what is still to be done stands with the endpoint, so that whoever comes after goes on.

use super::order::{OrderKey, released};
use super::sql::Sql;
use super::waiting::Waiting;
use crate::Store;
use model::port::StoreError;
use sqlx::any::AnyRow;
use sqlx::{AnyConnection, Row as _};
use std::collections::BTreeSet;

/// How many deliveries one transaction takes up.
const TAKEN_UP: i64 = 1_000;

/// They are sent.
pub(super) const TAKE_UP: &str = "take_up";
/// They stay where they are, and nothing waits behind them.
pub(super) const LEAVE: &str = "leave";

pub(super) static NEXT: Sql = Sql::new(
    "SELECT endpoint, recovery, recover_to FROM webhook_standings WHERE recovery IS NOT NULL \
     ORDER BY endpoint LIMIT 1 {skip}",
);

const OPEN: &str = "SELECT endpoint FROM webhook_standings WHERE recovery IS NOT NULL LIMIT 1";

pub(super) static TAKE: Sql = Sql::new(
    "UPDATE webhook_deliveries SET state = 'pending', reason = NULL, attempts = 0, settled_at = NULL, \
         due_at = CASE WHEN order_key IS NULL OR blocks = 0 THEN {now} END \
     WHERE number IN (SELECT number FROM webhook_deliveries WHERE endpoint = $1 AND state = 'parked' AND number <= $2 \
         ORDER BY endpoint, number LIMIT $3 {skip}) RETURNING tenant, endpoint, order_key",
);

pub(super) static LET_GO: Sql = Sql::new(
    "UPDATE webhook_deliveries SET blocks = 0 \
     WHERE number IN (SELECT number FROM webhook_deliveries WHERE endpoint = $1 AND state = 'parked' AND number <= $2 \
         AND blocks = 1 ORDER BY endpoint, number LIMIT $3 {skip}) RETURNING tenant, endpoint, order_key",
);

const DONE: &str =
    "UPDATE webhook_standings SET recovery = NULL, recover_to = NULL WHERE endpoint = $1";

impl Store {
    /// Goes on until nothing is to be taken up any more; says how many were.
    pub(crate) async fn take_up(&self) -> Result<u64, StoreError> {
        let mut taken = 0;
        loop {
            let find = sqlx::query(OPEN);
            let open = self.db.read(|connection| Box::pin(find.fetch_optional(connection))).await?;
            if open.is_none() {
                return Ok(taken);
            }
            let done = self.db.write(0, |connection| Box::pin(step(connection)));
            match done.await? {
                Some(rows) => taken += rows,
                // Another one is at it.
                None => return Ok(taken),
            }
        }
    }
}

/// The next rows of the first endpoint; none when there is nothing to do.
async fn step(connection: &mut AnyConnection) -> Result<Option<u64>, sqlx::Error> {
    let Some(next) = NEXT.query(connection).fetch_optional(&mut *connection).await? else {
        return Ok(None);
    };
    let endpoint: String = next.try_get("endpoint")?;
    let recovery: &str = next.try_get("recovery")?;
    some(connection, &endpoint, recovery, next.try_get("recover_to")?).await.map(Some)
}

/// The next rows of an endpoint; says how many became pending.
pub(super) async fn some(
    connection: &mut AnyConnection,
    endpoint: &str,
    recovery: &str,
    to: i64,
) -> Result<u64, sqlx::Error> {
    let change = if recovery == TAKE_UP { &TAKE } else { &LET_GO };
    let change = change.query(connection).bind(endpoint.to_owned()).bind(to).bind(TAKEN_UP);
    let rows = change.fetch_all(&mut *connection).await?;
    if rows.is_empty() {
        sqlx::query(DONE).bind(endpoint.to_owned()).execute(connection).await?;
        return Ok(0);
    }
    let keys = rows.iter().filter_map(|row| order_key(row).transpose());
    let keys = keys.collect::<Result<BTreeSet<_>, _>>()?;
    released(connection, keys).await?;
    if recovery != TAKE_UP {
        return Ok(0);
    }
    let mut waiting = Waiting::default();
    for row in &rows {
        waiting.add(row.try_get("tenant")?, 1);
    }
    waiting.count(connection).await?;
    Ok(rows.len() as u64)
}

/// What a row waits by.
pub(super) fn order_key(row: &AnyRow) -> Result<Option<OrderKey>, sqlx::Error> {
    let order_key: Option<String> = row.try_get("order_key")?;
    let endpoint = row.try_get("endpoint")?;
    Ok(order_key.map(|order_key| OrderKey { endpoint, order_key }))
}
