//! Instances between two decisions, for attachments that ask for reuse.
//!
//! Invariants: all attachments together keep no more than half the pool, so that fresh instances find room; where the pool
//! is full all the same, idle ones are given up before a request is refused. No step waits for another thread: a place is
//! claimed by one exchange of a number, and whoever finds it claimed goes on without it.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use crossbeam_queue::ArrayQueue;

use crate::host::Host;
use crate::prepared::Guest;

/// Instances that one attachment keeps: more than decide at one time on the workers of a large machine gain nothing.
const MAX_OF_ATTACHMENT: usize = 32;

/// A place that holds nothing.
const EMPTY: u64 = 0;
/// A place that somebody is filling or emptying.
const CLAIMED: u64 = u64::MAX;

/// The idle instances of a host. A full one makes room by giving up another, each place in turn.
pub(crate) struct Idle {
    places: Box<[Place]>,
    empty: ArrayQueue<usize>,
    next: AtomicUsize,
    tickets: AtomicU64,
}

struct Place {
    /// The ticket of what is there, or [`EMPTY`], or [`CLAIMED`].
    holds: AtomicU64,
    /// One at most, touched only by whoever claimed the place.
    guest: ArrayQueue<Guest>,
}

/// By which an attachment finds its instance again, if nobody gave it up.
#[derive(Clone, Copy)]
struct Ticket {
    place: usize,
    number: u64,
}

impl Idle {
    /// So many places.
    pub(crate) fn new(places: usize) -> Self {
        let place = |_| Place { holds: AtomicU64::new(EMPTY), guest: ArrayQueue::new(1) };
        let empty = ArrayQueue::new(places.max(1));
        for place in 0..places {
            let _ = empty.push(place);
        }
        Self {
            places: (0..places).map(place).collect(),
            empty,
            next: AtomicUsize::new(0),
            tickets: AtomicU64::new(EMPTY),
        }
    }

    /// Gives up an instance, whosever it is; `None` when there is none.
    pub(crate) fn give_up(&self) -> Option<Guest> {
        self.in_turn().find_map(|place| self.empty(place, self.places.get(place)?.occupant()?))
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.places.iter().filter(|place| place.occupant().is_some()).count()
    }

    /// Keeps an instance. `None` when all places are in motion.
    fn keep(&self, guest: Guest) -> Option<Ticket> {
        let number = self.tickets.fetch_add(1, Ordering::Relaxed) + 1;
        let (at, place) = self.claim()?;
        let displaced = place.guest.force_push(guest);
        place.holds.store(number, Ordering::Release);
        drop(displaced);
        Some(Ticket { place: at, number })
    }

    /// A claimed place: an empty one, else the next one.
    fn claim(&self) -> Option<(usize, &Place)> {
        while let Some(at) = self.empty.pop() {
            let place = self.places.get(at)?;
            if place.claim(EMPTY) {
                return Some((at, place));
            }
        }
        self.in_turn().find_map(|at| {
            let place = self.places.get(at)?;
            place.claim(place.occupant()?).then_some((at, place))
        })
    }

    /// Every place once, beginning where the last turn ended.
    fn in_turn(&self) -> impl Iterator<Item = usize> {
        let places = self.places.len();
        (0..places).map(move |_| self.next.fetch_add(1, Ordering::Relaxed) % places)
    }

    /// Takes out what a ticket stands for, if it is still there.
    fn empty(&self, at: usize, number: u64) -> Option<Guest> {
        let place = self.places.get(at).filter(|place| place.claim(number))?;
        let guest = place.guest.pop();
        place.holds.store(EMPTY, Ordering::Release);
        // There is room: a place is in the queue only while it is empty.
        let _ = self.empty.push(at);
        guest
    }
}

impl Place {
    fn occupant(&self) -> Option<u64> {
        let holds = self.holds.load(Ordering::Relaxed);
        (holds != EMPTY && holds != CLAIMED).then_some(holds)
    }

    fn claim(&self, holds: u64) -> bool {
        let claimed =
            self.holds.compare_exchange(holds, CLAIMED, Ordering::Acquire, Ordering::Relaxed);
        claimed.is_ok()
    }
}

/// The idle instances of one attachment.
pub(crate) struct Shelf {
    host: Arc<Host>,
    tickets: ArrayQueue<Ticket>,
    decisions: NonZeroU32,
}

impl Shelf {
    pub(crate) fn new(host: &Arc<Host>, decisions: NonZeroU32) -> Self {
        let tickets = ArrayQueue::new(MAX_OF_ATTACHMENT);
        Self { host: Arc::clone(host), tickets, decisions }
    }

    /// How many decisions an instance makes.
    pub(crate) fn decisions(&self) -> u32 {
        self.decisions.get()
    }

    /// An instance that has decided before.
    pub(crate) fn take(&self) -> Option<Guest> {
        std::iter::from_fn(|| self.tickets.pop()).find_map(|ticket| self.redeem(ticket))
    }

    /// Keeps an instance for a later decision.
    pub(crate) fn keep(&self, guest: Guest) {
        let ticket = self.host.idle.keep(guest);
        // A full shelf gives up the oldest.
        let oldest = ticket.and_then(|ticket| self.tickets.force_push(ticket));
        drop(oldest.and_then(|oldest| self.redeem(oldest)));
    }

    fn redeem(&self, ticket: Ticket) -> Option<Guest> {
        self.host.idle.empty(ticket.place, ticket.number)
    }
}

impl Drop for Shelf {
    fn drop(&mut self) {
        while self.take().is_some() {}
    }
}
