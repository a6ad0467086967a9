//! Planning: where events go, of as many as one transaction makes the deliveries of.
//!
//! Invariant: of each tenant events are planned in the order of their numbers, with none left out; of a tenant that has had
//! its share of a page the rest waits, and nobody else's does. What an event says is let go of once it is planned, and no more
//! than [`BYTES_MAX`] of it are in memory, or one event.

use super::reading;
use crate::Store;
use crate::rows::{Columns as _, stored, text};
use model::id::TenantId;
use model::port::StoreError;
use model::webhook::{Planned, StoredEvent};
use sqlx::any::AnyRow;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Says where an event goes: the same whenever it is asked, in no time.
pub type Plan = Arc<dyn Fn(&StoredEvent) -> Vec<Planned> + Send + Sync>;

/// How many deliveries one transaction makes. One event may have more by itself.
pub(super) const MADE_MAX: usize = 2_000;
/// How many of them are of a page of all tenants: the others are for those that are aside.
const PAGE_MAX: usize = MADE_MAX / 2;
/// How many deliveries of a page one tenant has at most. An event with more counts as so many.
pub(super) const SHARE: usize = PAGE_MAX / 2;
/// How many bytes of events one read yields at most; one event in any case.
pub(super) const BYTES_MAX: usize = 16 * 1024 * 1024;
/// How many events are read first, to see how many deliveries they have.
const FIRST: usize = 4;

pub(super) const WINDOW: &str = "SELECT number, accepted_at, webhook_id, tenant, source, id, type, content FROM webhook_events \
     WHERE tenant = $1 AND accepted_at >= $2 AND accepted_at < $3 AND number > $4 AND number <= $5 \
     ORDER BY accepted_at, number LIMIT $6";

/// How long each of them is, which is known without reading them.
pub(super) const SIZES: &str = "SELECT length(content) AS bytes FROM webhook_events \
     WHERE tenant = $1 AND accepted_at >= $2 AND accepted_at < $3 AND number > $4 AND number <= $5 \
     ORDER BY accepted_at, number LIMIT $6";

/// How far events were planned: no later one is from before that time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) number: i64,
    pub(super) at: i64,
}

impl Place {
    pub(super) fn of(event: &StoredEvent) -> Self {
        Self { number: stored(event.number), at: event.accepted_at.as_microsecond() }
    }
}

/// Where an event goes, without what it says.
pub(super) struct Placed {
    pub(super) place: Place,
    pub(super) tenant: TenantId,
    pub(super) planned: Vec<Planned>,
}

impl Placed {
    fn of(event: StoredEvent, planned: Vec<Planned>) -> Self {
        Self { place: Place::of(&event), tenant: event.tenant, planned }
    }
}

/// How much is planned at most; one event in any case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Room {
    pub(super) events: usize,
    pub(super) deliveries: usize,
    pub(super) bytes: usize,
}

impl Room {
    pub(super) const fn is_none(self) -> bool {
        self.events == 0 || self.deliveries == 0 || self.bytes == 0
    }

    /// What there is in both.
    pub(super) fn and(self, other: Self) -> Self {
        Self {
            events: self.events.min(other.events),
            deliveries: self.deliveries.min(other.deliveries),
            bytes: self.bytes.min(other.bytes),
        }
    }

    /// What is left when this much is planned.
    pub(super) const fn without(self, page: &Page) -> Self {
        Self {
            events: self.events.saturating_sub(page.events.len()),
            deliveries: self.deliveries.saturating_sub(page.deliveries),
            bytes: self.bytes.saturating_sub(page.bytes),
        }
    }
}

/// How many of these sizes have room, in their order; the first in any case.
pub(super) fn fitting(sizes: &[usize], bytes: usize) -> usize {
    let sums = sizes.iter().scan(0_usize, |sum, size| {
        *sum = sum.saturating_add(*size);
        Some(*sum)
    });
    sums.take_while(|sum| *sum <= bytes).count().max(1).min(sizes.len())
}

/// What is planned of a page of all tenants.
#[derive(Default)]
pub(super) struct Shared {
    pub(super) events: Vec<Placed>,
    /// How many deliveries they have, by what counts of each.
    pub(super) counted: usize,
    /// Tenants that wait, and how far theirs were planned.
    pub(super) aside: BTreeMap<TenantId, Place>,
}

/// Plans a page of events of all tenants, which begins behind this place: all of it, but for those of tenants that have had
/// their share. `events_most`: how many events of each, where more than this page wait.
pub(super) fn shared(
    events: Vec<StoredEvent>,
    from: Place,
    plan: &Plan,
    events_most: Option<usize>,
) -> Shared {
    let (mut page, mut last) = (Shared::default(), from);
    let mut shares: BTreeMap<TenantId, (usize, usize)> = BTreeMap::new();
    for event in events {
        let (before, tenant) = (last, event.tenant.clone());
        last = Place::of(&event);
        if page.aside.contains_key(&tenant) {
            continue;
        }
        let planned = plan(&event);
        let counts = planned.len().min(SHARE);
        let (events, counted) = shares.get(&tenant).copied().unwrap_or_default();
        let is_within = counted + counts <= SHARE && events_most.is_none_or(|most| events < most);
        let has_room = counts == 0 || page.counted + counts <= PAGE_MAX;
        if is_within && has_room {
            shares.insert(tenant, (events + 1, counted + counts));
            page.counted += counts;
            page.events.push(Placed::of(event, planned));
        } else {
            page.aside.insert(tenant, before);
        }
    }
    page
}

/// Events of a tenant: of a time, behind one number and up to another one.
#[derive(Clone, Debug)]
pub(super) struct Window {
    pub(super) tenant: TenantId,
    pub(super) since: i64,
    pub(super) until: i64,
    pub(super) after: i64,
    pub(super) to: i64,
}

/// What is planned of a window.
#[derive(Default)]
pub(super) struct Page {
    pub(super) events: Vec<Placed>,
    pub(super) deliveries: usize,
    pub(super) bytes: usize,
    /// Whether the window has no more.
    pub(super) is_last: bool,
}

impl Page {
    /// How many more events have room, if they are like those that are here.
    fn fit(&self, room: Room) -> usize {
        let left = room.without(self);
        let like =
            |left: usize, so_far: usize| left.saturating_mul(self.events.len()) / so_far.max(1);
        left.events.min(like(left.deliveries, self.deliveries)).min(like(left.bytes, self.bytes))
    }
}

impl Store {
    /// Plans the first events of a window, as many as there is room for; one event in any case. Reads hardly more than it
    /// plans.
    pub(super) async fn plan_window(
        &self,
        mut window: Window,
        plan: &Plan,
        room: Room,
    ) -> Result<Page, StoreError> {
        let mut page = Page::default();
        let mut next = FIRST.min(room.events);
        loop {
            let bytes = room.without(&page).bytes.min(BYTES_MAX);
            let (events, is_last) = self.window(&window, next, bytes).await?;
            page.is_last = is_last;
            for event in events {
                let planned = plan(&event);
                let deliveries = page.deliveries + planned.len();
                let bytes = page.bytes.saturating_add(event.content.len());
                let is_within = deliveries <= room.deliveries && bytes <= room.bytes;
                if !is_within && !page.events.is_empty() {
                    page.is_last = false;
                    return Ok(page);
                }
                Place { number: window.after, at: window.since } = Place::of(&event);
                (page.deliveries, page.bytes) = (deliveries, bytes);
                page.events.push(Placed::of(event, planned));
            }
            next = page.fit(room);
            if page.is_last || next == 0 {
                return Ok(page);
            }
        }
    }

    /// The first events of a window, at most so many and of so many bytes; and whether there are no more.
    async fn window(
        &self,
        window: &Window,
        most: usize,
        bytes: usize,
    ) -> Result<(Vec<StoredEvent>, bool), StoreError> {
        let of = |sql: &'static str, most: usize| {
            sqlx::query(sql)
                .bind(text(window.tenant.as_str()))
                .bind(window.since)
                .bind(window.until)
                .bind(window.after)
                .bind(window.to)
                .bind(i64::try_from(most).unwrap_or(i64::MAX))
        };
        let sizes = of(SIZES, most);
        let sizes = self.db.read(|connection| Box::pin(sizes.fetch_all(connection))).await?;
        let sizes = sizes.iter().map(size).collect::<Result<Vec<_>, _>>()?;
        let count = fitting(&sizes, bytes);
        if count == 0 {
            return Ok((Vec::new(), true));
        }
        let find = of(WINDOW, count);
        let rows = self.db.read(|connection| Box::pin(find.fetch_all(connection))).await?;
        let events = rows.iter().map(reading::event).collect::<Result<_, _>>()?;
        Ok((events, sizes.len() < most && count == sizes.len()))
    }
}

/// How many bytes an event is long.
pub(super) fn size(row: &AnyRow) -> Result<usize, StoreError> {
    Ok(usize::try_from(row.number("bytes")?).unwrap_or(usize::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::webhook::WebhookId;

    /// An event with so many deliveries.
    fn event(number: u64, tenant: &str, deliveries: usize) -> StoredEvent {
        StoredEvent {
            number,
            webhook_id: WebhookId::known("evt_1"),
            tenant: tenant.into(),
            source: "/crm".to_owned(),
            id: number.to_string(),
            r#type: deliveries.to_string(),
            accepted_at: jiff::Timestamp::from_microsecond(number.cast_signed()).unwrap(),
            content: b"{}".as_slice().into(),
        }
    }

    /// Each of a tenant, with so many deliveries.
    fn page(events: &[(&str, usize)], events_most: Option<usize>) -> Shared {
        let of = |(number, (tenant, deliveries)): (u64, &(&str, usize))| {
            event(number, tenant, *deliveries)
        };
        let events = (11..).zip(events).map(of).collect();
        let plan: Plan = Arc::new(|event: &StoredEvent| {
            let planned = Planned { endpoint: "e".into(), order_key: None, parked: None };
            vec![planned; event.r#type.parse().unwrap()]
        });
        shared(events, Place { number: 10, at: 10 }, &plan, events_most)
    }

    #[test]
    fn no_more_is_read_than_is_likely_to_fit() {
        const ROOM: Room = Room { events: 3_000, deliveries: 2_000, bytes: 1_000_000 };
        for (events, deliveries, bytes, expected) in [
            (4, 4, 400, 1_996),
            (4, 0, 400, 2_996),
            (4, 400, 400, 16),
            (2, 1_800, 400, 0),
            (1, 5_000, 400, 0),
            (3, 1_000, 400, 3),
            (4, 4, 400_000, 6),
            (4, 0, 2_000_000, 0),
        ] {
            let placed = |number| Placed::of(event(number, "a", 1), Vec::new());
            let events = (1..=events).map(placed).collect();
            let page = Page { events, deliveries, bytes, is_last: false };
            assert_eq!(page.fit(ROOM), expected, "{deliveries}, {bytes} bytes");
        }
    }

    #[test]
    fn what_is_read_has_room_or_is_one_event() {
        for (sizes, bytes, expected) in [
            (&[][..], 9, 0),
            (&[1, 2, 3], 6, 3),
            (&[1, 2, 3], 5, 2),
            (&[9, 1], 5, 1),
            (&[0, 9], 0, 1),
            (&[usize::MAX, usize::MAX], 9, 1),
        ] {
            assert_eq!(fitting(sizes, bytes), expected, "{sizes:?} {bytes}");
        }
    }

    #[test]
    fn who_has_had_its_share_waits_and_nobody_else_does() {
        for (what, events, most, planned, aside) in [
            ("all fits", &[("a", 1), ("b", 2), ("a", 0)][..], None, &[11, 12, 13][..], &[][..]),
            (
                "one is wide, and what is behind it stays behind it",
                &[("a", 300), ("b", 1), ("a", 201), ("a", 1), ("b", 1)],
                None,
                &[11, 12, 15],
                &[("a", 12)],
            ),
            (
                "one event is wider than a page, and has company",
                &[("a", 5_000), ("b", 500), ("c", 1), ("d", 0), ("a", 1)],
                None,
                &[11, 12, 14],
                &[("a", 14), ("c", 12)],
            ),
            (
                "an event without a delivery is in nobody's way",
                &[("a", 500), ("a", 0)],
                None,
                &[11, 12],
                &[],
            ),
            (
                "many of one, and more behind",
                &[("a", 1), ("a", 0), ("a", 1), ("b", 1), ("a", 1)],
                Some(2),
                &[11, 12, 14],
                &[("a", 12)],
            ),
        ] {
            let page = page(events, most);
            let numbers: Vec<_> = page.events.iter().map(|placed| placed.place.number).collect();
            assert_eq!(numbers, planned, "{what}");
            let expected: BTreeMap<_, _> = aside
                .iter()
                .map(|(tenant, number)| {
                    (TenantId::from(*tenant), Place { number: *number, at: *number })
                })
                .collect();
            assert_eq!(page.aside, expected, "{what}");
        }
    }
}
