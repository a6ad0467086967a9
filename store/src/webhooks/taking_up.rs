//! What becomes of parked deliveries once their endpoint is enabled again: taken up, or [left](super::leaving) for good. In
//! transactions of a bounded number of rows; what is still to be done stands with the endpoint, so that whoever comes after
//! goes on.

use super::leaving::leave;
use super::order::{OrderKey, released};
use super::sql::Sql;
use super::waiting::Waiting;
use crate::Store;
use model::port::StoreError;
use sqlx::any::{AnyArguments, AnyRow};
use sqlx::query::Query;
use sqlx::{Any, AnyConnection, Row as _};

/// How many deliveries one transaction takes up, or leaves.
pub(super) const TAKEN_UP: i64 = 1_000;

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
// made pending by whoever is done with those. `+ 0`: else SQLite goes by an index that has what is blocked, too.
macro_rules! take {
    ($rows:literal) => {
        Sql::new(concat!(
            "UPDATE webhook_deliveries SET state = 'pending', reason = NULL, attempts = 0, settled_at = NULL, \
                 due_at = CASE WHEN order_key IS NULL OR blocks = 0 THEN {now} END \
             WHERE number IN (SELECT number FROM webhook_deliveries WHERE endpoint = $1 AND tenant = $2 \
                 AND state = 'parked' AND reason <> 'blocked' AND number + 0 <= $3 ORDER BY endpoint, blocks, number ",
            $rows,
            ") RETURNING tenant, endpoint, order_key"
        ))
    };
}

pub(super) static TAKE: Sql = take!("LIMIT $4 {skip}");

// What others have is waited for one by one: who waits for it holds no other.
pub(super) static TAKE_ONE: Sql = take!("LIMIT 1 {lock}");

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
    let taken_up = if recovery.takes_up {
        recovery.take(connection).await?
    } else {
        leave(connection, &recovery).await?.then_some(0)
    };
    if taken_up.is_none() {
        sqlx::query(DONE).bind(recovery.endpoint).execute(connection).await?;
    }
    Ok(Some(taken_up.unwrap_or(0)))
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
    /// The next rows, once nobody else has them; none when there are none left.
    async fn take(&self, connection: &mut AnyConnection) -> Result<Option<u64>, sqlx::Error> {
        let free = self.take_free(connection).await?;
        if free > 0 {
            return Ok(Some(free));
        }
        // Those that are left are in others' hands, for as long as a transaction takes.
        let one = self.of(&TAKE_ONE, connection).fetch_all(&mut *connection).await?;
        let one = self.taken(connection, one).await?;
        Ok(Some(one).filter(|one| *one > 0))
    }

    /// Takes up those that nobody else has, as many as one transaction takes; says how many.
    pub(super) async fn take_free(
        &self,
        connection: &mut AnyConnection,
    ) -> Result<u64, sqlx::Error> {
        let take = self.of(&TAKE, connection).bind(TAKEN_UP);
        let rows = take.fetch_all(&mut *connection).await?;
        self.taken(connection, rows).await
    }

    /// A statement on what is parked of the endpoint.
    pub(super) fn of(
        &self,
        statement: &'static Sql,
        connection: &AnyConnection,
    ) -> Query<'static, Any, AnyArguments> {
        let query = statement.query(connection);
        query.bind(self.endpoint.clone()).bind(self.tenant.clone()).bind(self.to)
    }

    /// Goes on with rows that were taken up; says how many.
    async fn taken(
        &self,
        connection: &mut AnyConnection,
        rows: Vec<AnyRow>,
    ) -> Result<u64, sqlx::Error> {
        let keys = rows.iter().filter_map(|row| order_key(row).transpose());
        let keys = keys.collect::<Result<_, _>>()?;
        let mut waiting = Waiting::default();
        waiting.add(&self.tenant, i64::try_from(rows.len()).unwrap_or(i64::MAX));
        released(connection, keys, &mut waiting).await?;
        waiting.count(connection).await?;
        Ok(rows.len() as u64)
    }
}

/// What a row waits by.
pub(super) fn order_key(row: &AnyRow) -> Result<Option<OrderKey>, sqlx::Error> {
    let order_key: Option<String> = row.try_get("order_key")?;
    let endpoint = row.try_get("endpoint")?;
    Ok(order_key.map(|order_key| OrderKey { endpoint, order_key }))
}
