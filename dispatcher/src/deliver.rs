//! One attempt: sends a held delivery, and says what becomes of it.
//!
//! Invariants: an attempt that began is settled, also when its task is cut off or panics: it then counts as lost, since it may
//! have arrived. Nothing is sent that others may have taken over, however long it waited for a name or a token.

use crate::Dispatcher;
use crate::client::{Message, Sent};
use crate::compile::Endpoint;
use crate::lanes::{Ending, Place, Started, Tells};
use crate::settle::Settling;
use model::webhook::policy::{Class, Ended};
use model::webhook::{Attempt, HeldDelivery, Next, Outcome, Settlement};
use std::sync::Arc;

/// A delivery that is being sent.
pub(crate) struct UnderWay {
    dispatcher: Arc<Dispatcher>,
    held: HeldDelivery,
    endpoint: Arc<Endpoint>,
    started: Started,
    /// Until the attempt has ended.
    place: Option<Place>,
    /// When it began, by the store's clock.
    at: i64,
}

impl UnderWay {
    /// An attempt that begins now.
    pub(crate) fn new(
        dispatcher: Arc<Dispatcher>,
        held: HeldDelivery,
        endpoint: Arc<Endpoint>,
        started: Started,
        place: Place,
    ) -> Self {
        let at = dispatcher.time.micros();
        if held.attempt == 1 {
            let waited = at.saturating_sub(held.accepted_at.as_microsecond());
            dispatcher.metrics.first_attempt.observe(seconds(waited));
        }
        Self { dispatcher, held, endpoint, started, place: Some(place), at }
    }

    /// Sends it and has it settled.
    pub(crate) async fn run(mut self) {
        let sent = match &self.endpoint.target {
            Ok(target) => {
                let HeldDelivery { webhook_id, attempt, content, .. } = &self.held;
                let message = Message { webhook_id, attempt: *attempt, content };
                let Dispatcher { client, presence, .. } = &*self.dispatcher;
                client.send(target, &message, &|| presence.is_heard()).await
            }
            Err(error) => Some(not_sent(Outcome::Unready, error)),
        };
        match sent {
            Some(sent) => self.end(sent, Tells::Something),
            None => self.withdraw(),
        }
    }

    /// It was not sent, and is due again: for this dispatcher when it is heard again, if nobody else was quicker.
    fn withdraw(&mut self) {
        let Some(place) = self.place.take() else { return };
        let now = self.dispatcher.time.micros();
        let next = Next::Due(self.held.due_at);
        let (class, asked, tells) = (Class::Transient, None, Tells::Nothing);
        let ending = Ending { class, next, asked, tells, at: now };
        self.dispatcher.lanes.ended(&self.endpoint, self.started, &ending);
        self.settle(None, next, place);
    }

    fn end(&mut self, sent: Sent, tells: Tells) {
        let Some(place) = self.place.take() else { return };
        let dispatcher = &self.dispatcher;
        let now = dispatcher.time.micros();
        let Sent { outcome, status, excerpt, retry_after: asked } = sent;
        let class = Class::of(outcome, status);
        let at = crate::lanes::timestamp(now);
        let ended = Ended { class, attempt: self.held.attempt, asked, at };
        let endpoint = &self.endpoint;
        let next = match tells {
            // It was cut off, for no fault of the endpoint: somebody else sends it at once.
            Tells::Nothing if dispatcher.is_stopping() => Next::Due(at),
            _ => ended.next(&endpoint.schedule, endpoint.on_dead, rand::random()),
        };
        dispatcher.lanes.ended(
            endpoint,
            self.started,
            &Ending { class, next, asked, tells, at: now },
        );
        let took = now.saturating_sub(self.at).max(0);
        dispatcher.metrics.attempted(outcome, seconds(took));
        let attempt = Attempt {
            attempt: self.held.attempt,
            at: crate::lanes::timestamp(self.at),
            took: took.unsigned_abs(),
            outcome,
            status,
            excerpt,
            node: dispatcher.node.to_string(),
        };
        self.settle(Some(attempt), next, place);
    }

    fn settle(&self, attempt: Option<Attempt>, next: Next, place: Place) {
        let HeldDelivery { number, fence, .. } = self.held;
        let endpoint = &self.endpoint;
        self.dispatcher.settler.settle(Settling {
            settlement: Settlement { number, fence, attempt, next },
            lane: (endpoint.tenant.clone(), endpoint.id.clone()),
            is_awaited: endpoint.is_ordered(),
            place,
        });
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        if self.place.is_some() {
            let lost = not_sent(Outcome::Lost, "the dispatcher stopped before there was an answer");
            self.end(lost, Tells::Nothing);
        }
    }
}

fn not_sent(outcome: Outcome, why: &str) -> Sent {
    Sent { outcome, status: None, excerpt: Some(why.to_owned()), retry_after: None }
}

#[expect(clippy::cast_precision_loss, reason = "times of attempts are far below 2^52 microseconds")]
fn seconds(micros: i64) -> f64 {
    micros as f64 / 1_000_000.0
}
