//! What a replay would do, told before it is asked for.

use crate::Store;
use crate::rows::{Columns as _, text};
use model::port::StoreError;
use model::webhook::{Dedupe, PING, ReplayRequest};
use sqlx::Row as _;
use sqlx::any::AnyRow;
use wildmatch::WildMatchPattern;

/// How many events of a window are counted at most.
pub const COUNTED_MAX: u32 = 100_000;

pub(super) const COUNTED: &str = "SELECT counted.type, CASE WHEN d.reason = 'blocked' THEN 'pending' ELSE d.state END AS state, count(*) AS rows FROM \
         (SELECT number, type FROM webhook_events WHERE tenant = $1 AND accepted_at >= $2 AND accepted_at < $3 \
             AND number <= COALESCE((SELECT number FROM webhook_aside WHERE tenant = $1), \
                 (SELECT number FROM webhook_numbers WHERE name = 'fan_out')) \
          ORDER BY accepted_at, number LIMIT $4) counted \
     LEFT JOIN webhook_deliveries d ON d.event = counted.number AND ($5 = '' OR d.endpoint = $5) \
     GROUP BY counted.type, CASE WHEN d.reason = 'blocked' THEN 'pending' ELSE d.state END";

pub(super) const COUNTED_EVENTS: &str = "SELECT type, count(*) AS rows FROM \
         (SELECT type FROM webhook_events WHERE tenant = $1 AND accepted_at >= $2 AND accepted_at < $3 \
             AND number <= COALESCE((SELECT number FROM webhook_aside WHERE tenant = $1), \
                 (SELECT number FROM webhook_numbers WHERE name = 'fan_out')) \
          ORDER BY accepted_at, number LIMIT $4) e GROUP BY type";

/// What a replay would do, by the deliveries that there are. Of the first [`COUNTED_MAX`] events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReplayCount {
    /// Events of the window that were fanned out.
    pub events: u64,
    /// Deliveries that would be queued.
    pub queue: u64,
    /// Deliveries that would be skipped.
    pub skip: u64,
}

impl Store {
    /// What a replay would do, of the first 100,000 events of its window; missing deliveries are not foreseen.
    pub async fn replay_count(&self, request: &ReplayRequest) -> Result<ReplayCount, StoreError> {
        let _place = self.search_place().await?;
        let request = request.clone();
        let patterns = patterns(&request.types);
        let (tenant, dedupe) = (text(request.tenant.as_str()), request.dedupe);
        let endpoint = request.endpoint.map(|id| text(id.as_str())).unwrap_or_default();
        let (since, until) = (request.since.as_microsecond(), request.until.as_microsecond());
        let read = self.db.read(move |connection| {
            Box::pin(async move {
                let of_window = |sql| {
                    let query = sqlx::query(sql).bind(tenant.clone()).bind(since).bind(until);
                    query.bind(i64::from(COUNTED_MAX))
                };
                let events = of_window(COUNTED_EVENTS).fetch_all(&mut *connection).await?;
                Ok((events, of_window(COUNTED).bind(endpoint).fetch_all(connection).await?))
            })
        });
        let (events, deliveries) = read.await?;
        let mut count = ReplayCount::default();
        for row in events.iter().filter(|row| is_of(&patterns, row)) {
            count.events += row.number("rows")?;
        }
        for row in deliveries.iter().filter(|row| is_of(&patterns, row)) {
            match (row.of::<Option<&str>>("state")?, dedupe) {
                (None, _) => {}
                (Some("dead" | "parked"), _) | (Some("delivered"), Dedupe::Force) => {
                    count.queue += row.number("rows")?;
                }
                (Some(_), _) => count.skip += row.number("rows")?,
            }
        }
        Ok(count)
    }
}

fn patterns(types: &[String]) -> Vec<WildMatchPattern<'*', '\0'>> {
    types.iter().map(|pattern| WildMatchPattern::new(pattern)).collect()
}

/// Whether a row is of one of these types. Pings are for one moment: no plan has them again.
fn is_of(patterns: &[WildMatchPattern<'*', '\0'>], row: &AnyRow) -> bool {
    let name: &str = row.try_get("type").unwrap_or_default();
    name != PING && (patterns.is_empty() || patterns.iter().any(|pattern| pattern.matches(name)))
}
