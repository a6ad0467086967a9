//! Webhooks: events that were accepted, their deliveries, and what became of each attempt.
//!
//! Invariants: an event is kept whole or not at all, and once; numbers of events and of deliveries grow in the order of
//! commits, so that whoever reads on from the last one misses nothing; a delivery is settled by its fence alone, once.
//!
//! In PostgreSQL many work at once. Whoever makes deliveries raises their number before anything else of them. Only those
//! and settling wait for several rows of deliveries, both in the order of endpoint, order key and number; everyone else
//! leaves rows that others have, or waits for one and has none. Who goes by how endpoints stand waits for that before, in the
//! order of endpoints. What expired is counted before the last, what waits last. So nobody waits crosswise.

mod accept;
mod aside;
mod bell;
mod expired;
mod fan_out;
mod gone;
mod hold;
mod leaving;
mod lost;
mod order;
mod planning;
mod readers;
mod reading;
mod replay_count;
mod replays;
mod retention;
mod settle;
mod sql;
mod standings;
mod taking_up;
mod turn;
mod verbs;
mod waiting;

pub use accept::Arriving;
pub use expired::Expired;
pub use fan_out::FannedOut;
pub use gone::Known;
pub use hold::HELD_MAX;
pub use lost::Beat;
pub use planning::Plan;
pub use readers::{READER_BYTES_MAX, Reader, source_reader};
pub use reading::{Backlog, DeliveryQuery, Polled};
pub use replay_count::{COUNTED_MAX, ReplayCount};
pub use replays::ReplayStep;
pub use retention::Purged;
pub use settle::Settled;
pub use verbs::Recover;

pub(crate) use bell::{Bell, CHANNEL, TELL_PAUSE};
pub(crate) use replays::{cancel as cancel_replay, create as create_replay};
pub(crate) use verbs::{discard, enable, ping, retry};

/// The statements that many rows stand in the way of, for tests that look at their plans.
#[cfg(test)]
pub(crate) fn texts(is_postgres: bool) -> std::collections::BTreeMap<&'static str, &'static str> {
    let [taken, _] = &order::TAKEN;
    let made = [
        ("kept", &accept::KEPT),
        ("hold_lane", &hold::HOLD_LANE),
        ("hold_lanes", &hold::HOLD_LANES),
        ("lanes", &hold::LANES),
        ("oldest", &reading::OLDEST),
        ("events_of_held", &hold::EVENTS),
        ("settle", &settle::SETTLE),
        ("taken", taken),
        ("release", &order::RELEASE),
        ("sweep", &order::SWEEP),
        ("block", &order::BLOCK),
        ("give_back", &lost::GIVE_BACK),
        ("park", &standings::PARK),
        ("take", &taking_up::TAKE),
        ("take_one", &taking_up::TAKE_ONE),
        ("stopping", &leaving::STOPPING),
        ("behind", &leaving::BEHIND),
        ("left_parked", &leaving::PARKED),
        ("let_go", &leaving::LET_GO),
        ("made", &replays::MADE),
        ("again", &replays::AGAIN),
        ("deliveries_to_purge", &retention::DELIVERIES),
        ("delivery_to_purge", &retention::DELIVERY),
        ("deliveries_without_event", &hold::FORGET),
        ("attempts_to_purge", &expired::ATTEMPTS),
    ];
    let plain = [
        ("events", reading::EVENTS),
        ("event", reading::EVENT),
        ("poll", reading::POLL),
        ("attempts", reading::ATTEMPTS),
        ("dead", reading::DEAD),
        ("window", planning::WINDOW),
        ("page", turn::PAGE),
        ("sizes_of_page", turn::SIZES),
        ("sizes_of_window", planning::SIZES),
        ("next", reading::NEXT),
        ("aside", reading::ASIDE),
        ("counted", replay_count::COUNTED),
        ("ids_to_purge", retention::IDS),
    ];
    let of = |(name, sql): (&'static str, &'static sql::Sql)| (name, sql.of(is_postgres));
    let mut texts: std::collections::BTreeMap<_, _> = made.into_iter().map(of).collect();
    // Each kind claims by a text of its own.
    texts.remove(if is_postgres { "hold_lane" } else { "hold_lanes" });
    texts.extend(plain);
    texts
}

/// The search for deliveries in a state, with one more condition.
#[cfg(test)]
pub(crate) fn search_in(state: model::webhook::DeliveryState, also: &str) -> String {
    let (list, state) = (reading::LIST, reading::in_state(state));
    format!("{list} WHERE {state}{also} ORDER BY d.number DESC LIMIT 20")
}
