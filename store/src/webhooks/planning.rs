//! Planning: where events go, of as many as one transaction makes the deliveries of.
//!
//! Invariant: of each tenant events are planned in the order of their numbers, with none left out; of a tenant that has had
//! its share of a page the rest waits, and nobody else's does.

use super::reading;
use crate::Store;
use crate::rows::{stored, text};
use model::id::TenantId;
use model::port::StoreError;
use model::webhook::{Planned, StoredEvent};
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
/// How many events are read first, to see how many deliveries they have.
const FIRST: usize = 4;

pub(super) const WINDOW: &str = "SELECT number, accepted_at, webhook_id, tenant, source, id, type, content FROM webhook_events \
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

/// An event with where it goes.
pub(super) type Placed = (StoredEvent, Vec<Planned>);

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
            page.events.push((event, planned));
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
    /// Whether the window has no more.
    pub(super) is_last: bool,
}

impl Page {
    /// How many more events have room among so many deliveries, if they are like those that are here.
    fn fit(&self, deliveries_most: usize) -> usize {
        let room = deliveries_most.saturating_sub(self.deliveries);
        room.saturating_mul(self.events.len()) / self.deliveries.max(1)
    }
}

impl Store {
    /// Plans the first events of a window, until it has so many of them or of deliveries; one event in any case. Reads
    /// hardly more than it plans.
    pub(super) async fn plan_window(
        &self,
        mut window: Window,
        plan: &Plan,
        events_most: usize,
        deliveries_most: usize,
    ) -> Result<Page, StoreError> {
        let mut page = Page::default();
        let mut next = FIRST.min(events_most);
        loop {
            let events = self.window(&window, next).await?;
            page.is_last = events.len() < next;
            for event in events {
                let planned = plan(&event);
                let sum = page.deliveries + planned.len();
                if sum > deliveries_most && !page.events.is_empty() {
                    page.is_last = false;
                    return Ok(page);
                }
                Place { number: window.after, at: window.since } = Place::of(&event);
                page.deliveries = sum;
                page.events.push((event, planned));
            }
            next = page.fit(deliveries_most).min(events_most.saturating_sub(page.events.len()));
            if page.is_last || next == 0 {
                return Ok(page);
            }
        }
    }

    async fn window(&self, window: &Window, most: usize) -> Result<Vec<StoredEvent>, StoreError> {
        let find = sqlx::query(WINDOW)
            .bind(text(window.tenant.as_str()))
            .bind(window.since)
            .bind(window.until)
            .bind(window.after)
            .bind(window.to)
            .bind(i64::try_from(most).unwrap_or(i64::MAX));
        let rows = self.db.read(|connection| Box::pin(find.fetch_all(connection))).await?;
        rows.iter().map(reading::event).collect()
    }
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
        for (events, deliveries, most, expected) in [
            (4, 4, 2_000, 1_996),
            (4, 0, 2_000, 8_000),
            (4, 400, 2_000, 16),
            (2, 1_800, 2_000, 0),
            (1, 5_000, 2_000, 0),
            (3, 1_000, 2_000, 3),
        ] {
            let events = (1..=events).map(|number| (event(number, "a", 1), Vec::new())).collect();
            let page = Page { events, deliveries, is_last: false };
            assert_eq!(page.fit(most), expected, "{deliveries} of {most}");
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
            let numbers: Vec<_> = page.events.iter().map(|(event, _)| event.number).collect();
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
