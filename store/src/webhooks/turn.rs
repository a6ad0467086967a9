//! Turns of fan-out: each plans a page behind the cursor, and some of each tenant that is [aside](super::aside). Who had more
//! than its share of a page waits for turns of its own alone: the cursor passes its events.
//!
//! Invariant: of each tenant, all is planned up to the cursor, or up to its own place where it is aside. However many are
//! aside, a turn has bounds: in events and their bytes one for the page and one for all of those, in deliveries one.

use super::aside::{self, Aside};
use super::planning::{
    BYTES_MAX, MADE_MAX, Place, Placed, Plan, Room, SHARE, Window, fitting, shared, size,
};
use super::reading;
use crate::Store;
use model::id::TenantId;
use model::port::StoreError;
use model::webhook::StoredEvent;
use sqlx::Row as _;

/// How many events those that are aside have in one turn, all together: as many as so many pages.
const PAGES: usize = 4;
/// How many numbers the cursor passes at most in one turn, in search of events of those that are not aside.
const PASSED_MAX: i64 = 50_000;

const NEXT: &str = "SELECT cursor.number AS number, cursor.at AS at, cursor.turn AS turn, newest.number AS newest, \
         newest.at AS newest_at FROM webhook_numbers cursor, webhook_numbers newest \
     WHERE cursor.name = 'fan_out' AND newest.name = 'events' \
         AND (newest.number > cursor.number OR EXISTS (SELECT 1 FROM webhook_aside))";

pub(super) const PAGE: &str = "SELECT number, accepted_at, webhook_id, tenant, source, id, type, content FROM webhook_events \
     WHERE number > $1 AND number <= $2 AND accepted_at >= $3 AND tenant NOT IN (SELECT tenant FROM webhook_aside) \
     ORDER BY number LIMIT $4";

/// How long each of them is, which is known without reading them.
pub(super) const SIZES: &str = "SELECT length(content) AS bytes FROM webhook_events \
     WHERE number > $1 AND number <= $2 AND accepted_at >= $3 AND tenant NOT IN (SELECT tenant FROM webhook_aside) \
     ORDER BY number LIMIT $4";

/// Where a turn begins.
pub(super) struct Start {
    turn: i64,
    cursor: Place,
    newest: Place,
    /// Those that are aside, whose turn it is.
    aside: Vec<Aside>,
}

/// What one turn does.
pub(super) struct Turn {
    pub(super) number: i64,
    /// Where the cursor is to be.
    pub(super) cursor: Place,
    pub(super) events: Vec<Placed>,
    /// Those that are aside now, and how far they have come.
    pub(super) aside: Vec<Aside>,
    /// Those that are no longer.
    pub(super) back: Vec<TenantId>,
    pub(super) more: bool,
}

impl Store {
    /// Where the next turn begins; none where all is planned. What it is read from changes with the turn's number, which is
    /// read first.
    pub(super) async fn start_of_turn(&self) -> Result<Option<Start>, StoreError> {
        let read = self.db.read(|connection| {
            Box::pin(async move {
                let Some(next) = sqlx::query(NEXT).fetch_optional(&mut *connection).await? else {
                    return Ok(None);
                };
                Ok(Some(Start {
                    turn: next.try_get("turn")?,
                    cursor: aside::place(&next)?,
                    newest: Place {
                        number: next.try_get("newest")?,
                        at: next.try_get("newest_at")?,
                    },
                    aside: aside::first(connection).await?,
                }))
            })
        });
        read.await
    }

    /// Plans one turn: at most so many events of a page, and four times so many of those that are aside.
    pub(super) async fn turn(
        &self,
        start: Start,
        plan: &Plan,
        limit: u32,
    ) -> Result<Turn, StoreError> {
        let (limit, from) = (limit as usize, start.cursor);
        let to = start.newest.number.min(from.number.saturating_add(PASSED_MAX));
        let (events, is_full) = self.page(from, to, limit).await?;
        let last = events.last().map(Place::of);
        let cursor = match last {
            Some(last) if is_full => last,
            _ if to == start.newest.number => start.newest,
            last => Place { number: to, at: last.unwrap_or(from).at },
        };
        // More may be behind it: nobody takes more than half of it then.
        let half = events.len().div_ceil(2);
        let page = shared(events, from, plan, is_full.then_some(half));
        let mut turn = Turn {
            number: start.turn,
            cursor,
            events: page.events,
            aside: Vec::new(),
            back: Vec::new(),
            more: is_full || to < start.newest.number,
        };
        let deliveries = MADE_MAX.saturating_sub(page.counted);
        let events = limit.saturating_mul(PAGES);
        let mut left = Room { events, deliveries, bytes: BYTES_MAX };
        let mut others = start.aside.len();
        let share = share(left, others).and(Room { events: limit, ..left });
        for Aside { tenant, place } in start.aside {
            if left.is_none() {
                break;
            }
            let window = Window {
                tenant: tenant.clone(),
                since: place.at,
                until: i64::MAX,
                after: place.number,
                to: cursor.number,
            };
            let page = self.plan_window(window, plan, share.and(left)).await?;
            (left, others) = (left.without(&page), others - 1);
            let place = page.events.last().map_or(place, |last| last.place);
            turn.events.extend(page.events);
            if page.is_last {
                turn.back.push(tenant);
            } else {
                turn.aside.push(Aside { tenant, place });
            }
        }
        turn.more |= others > 0 || !turn.aside.is_empty() || !page.aside.is_empty();
        turn.aside.extend(page.aside.into_iter().map(|(tenant, place)| Aside { tenant, place }));
        Ok(turn)
    }

    /// The next events of those that are not aside, and whether it is as many as may be read: there may be more.
    async fn page(
        &self,
        from: Place,
        to: i64,
        limit: usize,
    ) -> Result<(Vec<StoredEvent>, bool), StoreError> {
        if to == from.number {
            return Ok((Vec::new(), false));
        }
        let of = |sql: &'static str, limit: usize| {
            let limit = i64::try_from(limit).unwrap_or(i64::MAX);
            sqlx::query(sql).bind(from.number).bind(to).bind(from.at).bind(limit)
        };
        let sizes = of(SIZES, limit);
        let sizes = self.db.read(|connection| Box::pin(sizes.fetch_all(connection))).await?;
        let sizes = sizes.iter().map(size).collect::<Result<Vec<_>, _>>()?;
        let count = fitting(&sizes, BYTES_MAX);
        if count == 0 {
            return Ok((Vec::new(), false));
        }
        let find = of(PAGE, count);
        let rows = self.db.read(|connection| Box::pin(find.fetch_all(connection))).await?;
        let events: Vec<_> = rows.iter().map(reading::event).collect::<Result<_, _>>()?;
        let is_full = count == limit || count < sizes.len();
        Ok((events, is_full))
    }
}

/// What one of so many has. Of deliveries at least as many as of a page: who has wide events gets on.
fn share(all: Room, among: usize) -> Room {
    let among = among.max(1);
    Room {
        events: all.events.div_ceil(among),
        deliveries: (all.deliveries / among).max(SHARE),
        bytes: all.bytes.div_ceil(among),
    }
}
