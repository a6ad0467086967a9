//! What becomes of parked deliveries once their endpoint is enabled again: taken up, or left for good. In transactions of a
//! bounded number of rows; what is still to be done stands with the endpoint, so that whoever comes after goes on.

use super::order::{OrderKey, released};
use super::sql::Sql;
use super::waiting::Waiting;
use crate::Store;
use model::port::StoreError;
use sqlx::any::{AnyArguments, AnyRow};
use sqlx::query::Query;
use sqlx::{Any, AnyConnection, Row as _};
use std::collections::BTreeSet;

/// How many deliveries one transaction takes up.
const TAKEN_UP: i64 = 1_000;

/// They are sent.
pub(super) const TAKE_UP: &str = "take_up";
/// They stay where they are, and nothing waits behind them.
pub(super) const LEAVE: &str = "leave";

pub(super) static NEXT: Sql = Sql::new(
    "SELECT endpoint, tenant, recovery, recover_to FROM webhook_standings WHERE recovery IS NOT NULL \
     ORDER BY endpoint LIMIT 1 {skip}",
);

const OPEN: &str = "SELECT endpoint FROM webhook_standings WHERE recovery IS NOT NULL LIMIT 1";

// The id of an endpoint may have changed hands: what was its former tenant's stays where it is. What waits behind others is
// made pending by whoever is done with those.
macro_rules! take {
    ($rows:literal) => {
        Sql::new(concat!(
            "UPDATE webhook_deliveries SET state = 'pending', reason = NULL, attempts = 0, settled_at = NULL, \
                 due_at = CASE WHEN order_key IS NULL OR blocks = 0 THEN {now} END \
             WHERE number IN (SELECT number FROM webhook_deliveries WHERE endpoint = $1 AND tenant = $2 \
                 AND state = 'parked' AND reason <> 'blocked' AND number <= $3 ORDER BY endpoint, number ",
            $rows,
            ") RETURNING tenant, endpoint, order_key"
        ))
    };
}

// Also what waits behind others: what came is left, all of it.
macro_rules! let_go {
    ($rows:literal) => {
        Sql::new(concat!(
            "UPDATE webhook_deliveries SET blocks = 0, reason = CASE reason WHEN 'blocked' THEN 'disabled' ELSE reason END \
             WHERE number IN (SELECT number FROM webhook_deliveries WHERE endpoint = $1 AND tenant = $2 \
                 AND state = 'parked' AND number <= $3 AND blocks = 1 ORDER BY endpoint, order_key, number ",
            $rows,
            ") RETURNING tenant, endpoint, order_key"
        ))
    };
}

pub(super) static TAKE: Sql = take!("LIMIT $4 {skip}");
pub(super) static LET_GO: Sql = let_go!("LIMIT $4 {skip}");

// What others have is waited for one by one: who waits for it holds no other.
pub(super) static TAKE_ONE: Sql = take!("LIMIT 1 {lock}");
pub(super) static LET_ONE_GO: Sql = let_go!("LIMIT 1 {lock}");

const DONE: &str =
    "UPDATE webhook_standings SET recovery = NULL, recover_to = NULL WHERE endpoint = $1";

impl Store {
    /// Goes on until nothing is to be taken up any more, in at most so many transactions; says how many were.
    pub(crate) async fn take_up(&self, steps: usize) -> Result<u64, StoreError> {
        let mut taken = 0;
        for _ in 0..steps {
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
        Ok(taken)
    }
}

/// The next rows of the first endpoint; none when there is nothing to do.
async fn step(connection: &mut AnyConnection) -> Result<Option<u64>, sqlx::Error> {
    let Some(next) = NEXT.query(connection).fetch_optional(&mut *connection).await? else {
        return Ok(None);
    };
    let recovery = Recovery {
        endpoint: next.try_get("endpoint")?,
        tenant: next.try_get("tenant")?,
        takes_up: next.try_get::<&str, _>("recovery")? == TAKE_UP,
        to: next.try_get("recover_to")?,
    };
    let free = recovery.free(connection).await?;
    if !free.is_empty() {
        return recovery.changed(connection, free).await.map(Some);
    }
    // Those that are left are in others' hands, for as long as a transaction takes.
    let change = if recovery.takes_up { &TAKE_ONE } else { &LET_ONE_GO };
    let one = recovery.of(change, connection).fetch_all(&mut *connection).await?;
    if one.is_empty() {
        sqlx::query(DONE).bind(recovery.endpoint).execute(connection).await?;
        return Ok(Some(0));
    }
    recovery.changed(connection, one).await.map(Some)
}

/// What is still to be done with the parked deliveries of an endpoint.
pub(super) struct Recovery {
    pub(super) endpoint: String,
    /// Whose they are.
    pub(super) tenant: String,
    /// Whether they are sent; else they are left for good.
    pub(super) takes_up: bool,
    /// Up to this number.
    pub(super) to: i64,
}

impl Recovery {
    /// Those that nobody else has, as many as one transaction takes; says how many became pending.
    pub(super) async fn begin(&self, connection: &mut AnyConnection) -> Result<u64, sqlx::Error> {
        let rows = self.free(connection).await?;
        self.changed(connection, rows).await
    }

    async fn free(&self, connection: &mut AnyConnection) -> Result<Vec<AnyRow>, sqlx::Error> {
        let change = if self.takes_up { &TAKE } else { &LET_GO };
        self.of(change, connection).bind(TAKEN_UP).fetch_all(connection).await
    }

    fn of(
        &self,
        change: &'static Sql,
        connection: &AnyConnection,
    ) -> Query<'static, Any, AnyArguments> {
        change.query(connection).bind(self.endpoint.clone()).bind(self.tenant.clone()).bind(self.to)
    }

    /// Goes on with rows that were changed; says how many became pending.
    async fn changed(
        &self,
        connection: &mut AnyConnection,
        rows: Vec<AnyRow>,
    ) -> Result<u64, sqlx::Error> {
        let keys = rows.iter().filter_map(|row| order_key(row).transpose());
        let mut keys = keys.collect::<Result<BTreeSet<_>, _>>()?;
        if !self.takes_up && i64::try_from(rows.len()).is_ok_and(|rows| rows >= TAKEN_UP) {
            // More of the last key may be left by the next step.
            keys.pop_last();
        }
        let mut waiting = Waiting::default();
        if self.takes_up {
            waiting.add(&self.tenant, i64::try_from(rows.len()).unwrap_or(i64::MAX));
        }
        released(connection, keys, &mut waiting).await?;
        waiting.count(connection).await?;
        Ok(if self.takes_up { rows.len() as u64 } else { 0 })
    }
}

/// What a row waits by.
pub(super) fn order_key(row: &AnyRow) -> Result<Option<OrderKey>, sqlx::Error> {
    let order_key: Option<String> = row.try_get("order_key")?;
    let endpoint = row.try_get("endpoint")?;
    Ok(order_key.map(|order_key| OrderKey { endpoint, order_key }))
}
