//! Deliveries: an event's way to one endpoint, and its attempts.

use super::WebhookId;
use crate::id::{EndpointId, TenantId};
use bytes::Bytes;
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Where a delivery stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum DeliveryState {
    /// It is due, now or later.
    Pending,
    /// An attempt is under way.
    Held,
    /// The endpoint took it.
    Delivered,
    /// It waits for somebody: its endpoint is disabled.
    Parked,
    /// It came to nothing: a dead letter.
    Dead,
}

impl DeliveryState {
    /// Every state.
    pub const ALL: [Self; 5] =
        [Self::Pending, Self::Held, Self::Delivered, Self::Parked, Self::Dead];

    /// The name that the API and the store use.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Held => "held",
            Self::Delivered => "delivered",
            Self::Parked => "parked",
            Self::Dead => "dead",
        }
    }

    /// The state of this name.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == text)
    }
}

/// Why a delivery is parked or dead.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// Dead: every attempt of its schedule failed.
    Exhausted,
    /// Dead: the endpoint refused it for good (a 4xx that no repeat mends).
    Refused,
    /// Dead: somebody said so.
    Discarded,
    /// Parked: the endpoint said 410, and is disabled.
    Gone,
    /// Parked: the endpoint is disabled.
    Disabled,
    /// Parked: the endpoint is no longer in the document.
    Removed,
    /// Parked: it waits behind one of its order that is parked or dead, and is sent in its turn.
    Blocked,
}

impl Reason {
    /// Every reason.
    pub const ALL: [Self; 7] = [
        Self::Exhausted,
        Self::Refused,
        Self::Discarded,
        Self::Gone,
        Self::Disabled,
        Self::Removed,
        Self::Blocked,
    ];

    /// The name that the API and the store use.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Exhausted => "exhausted",
            Self::Refused => "refused",
            Self::Discarded => "discarded",
            Self::Gone => "gone",
            Self::Disabled => "disabled",
            Self::Removed => "removed",
            Self::Blocked => "blocked",
        }
    }

    /// The reason of this name.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.as_str() == text)
    }
}

/// What an attempt came to. A closed set: metrics have it as a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// 2xx.
    Delivered,
    /// The connection was refused, reset or never made.
    Unreachable,
    /// TLS could not be agreed on, or its certificate is not trusted.
    Tls,
    /// No whole answer within the endpoint's timeout.
    TimedOut,
    /// 5xx, or a status that is none.
    ServerError,
    /// 408, 425, 429, or 503 with `Retry-After`: later.
    Throttled,
    /// 3xx: redirects are not followed.
    Redirected,
    /// Another 4xx.
    ClientError,
    /// 410: the endpoint is retired.
    Gone,
    /// Its address is none that may be connected to.
    Forbidden,
    /// Nothing was sent: a secret, a token or the address could not be had.
    Unready,
    /// The process ended, or was silent for so long that others took over; it may have been sent.
    Lost,
}

impl Outcome {
    /// Every outcome.
    pub const ALL: [Self; 12] = [
        Self::Delivered,
        Self::Unreachable,
        Self::Tls,
        Self::TimedOut,
        Self::ServerError,
        Self::Throttled,
        Self::Redirected,
        Self::ClientError,
        Self::Gone,
        Self::Forbidden,
        Self::Unready,
        Self::Lost,
    ];

    /// The name that the API, metrics and the store use.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::Unreachable => "unreachable",
            Self::Tls => "tls",
            Self::TimedOut => "timed_out",
            Self::ServerError => "server_error",
            Self::Throttled => "throttled",
            Self::Redirected => "redirected",
            Self::ClientError => "client_error",
            Self::Gone => "gone",
            Self::Forbidden => "forbidden",
            Self::Unready => "unready",
            Self::Lost => "lost",
        }
    }

    /// The outcome of this name.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|outcome| outcome.as_str() == text)
    }
}

/// A delivery that is to be made, as fan-out plans it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Planned {
    /// Where to.
    pub endpoint: EndpointId,
    /// What it waits behind others of its endpoint by; none where there is no order.
    pub order_key: Option<String>,
    /// Why it is parked from the start; none when it is due at once.
    pub parked: Option<Reason>,
}

/// A delivery that is held for an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldDelivery {
    /// Its number: from 1, in the order of commits.
    pub number: u64,
    /// The fence: without it nothing about the delivery is settled.
    pub fence: u64,
    /// The number of its event.
    pub event: u64,
    /// What receivers know the event by.
    pub webhook_id: WebhookId,
    /// Whose it is.
    pub tenant: TenantId,
    /// Where to.
    pub endpoint: EndpointId,
    /// Which attempt this is, from 1; an operator's retry begins at 1 again.
    pub attempt: u32,
    /// Whether the attempt before this one was lost, for no fault of the endpoint.
    pub is_lost: bool,
    /// When it became due.
    pub due_at: Timestamp,
    /// When its event was accepted.
    pub accepted_at: Timestamp,
    /// The event in structured form.
    pub content: Bytes,
}

/// An attempt that came to its end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Attempt {
    /// Which one, from 1.
    pub attempt: u32,
    /// When it began.
    #[schemars(with = "String")]
    pub at: Timestamp,
    /// How long it took, in microseconds.
    pub took: u64,
    /// What it came to.
    pub outcome: Outcome,
    /// The status, if there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// What went wrong, for people; of the answer's body the first 1,024 bytes at most. Holds no secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub excerpt: Option<String>,
    /// The dispatcher that made it.
    pub node: String,
}

/// What becomes of a delivery after an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// The endpoint took it.
    Delivered,
    /// It is tried again.
    Due(Timestamp),
    /// It waits for somebody.
    Parked(Reason),
    /// It is a dead letter. `blocks`: those behind it wait until somebody retries or discards it.
    Dead {
        /// Why.
        reason: Reason,
        /// Whether those behind it wait.
        blocks: bool,
    },
}

/// An attempt, with what becomes of its delivery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settlement {
    /// The delivery.
    pub number: u64,
    /// The fence that it was held with.
    pub fence: u64,
    /// The attempt; none when the delivery is given back untried, which counts as none.
    pub attempt: Option<Attempt>,
    /// What becomes of it.
    pub next: Next,
}

/// A delivery as it is shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Delivery {
    /// Its id: `dlv_` and its number.
    pub id: String,
    /// Where it stands.
    pub state: DeliveryState,
    /// Why it is parked or dead.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
    /// Whose it is.
    pub tenant: TenantId,
    /// Where to.
    pub endpoint: EndpointId,
    /// What receivers know the event by.
    pub webhook_id: WebhookId,
    /// The event's type.
    pub r#type: String,
    /// The event's source.
    pub source: String,
    /// The event's id.
    pub event_id: String,
    /// When the event was accepted.
    #[schemars(with = "String")]
    pub accepted_at: Timestamp,
    /// How many attempts were made since it was planned or last retried by somebody.
    pub attempts: u32,
    /// When it is due, where it is pending; none where it waits behind another one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub due_at: Option<Timestamp>,
    /// When it was delivered, parked or given up.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub settled_at: Option<Timestamp>,
    /// The replay that made it or took it up again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replay: Option<String>,
}

/// The number in a delivery's id.
pub fn delivery_number(id: &str) -> Option<u64> {
    id.strip_prefix("dlv_")?.parse().ok()
}

/// The id of the delivery with this number.
pub fn delivery_id(number: u64) -> String {
    format!("dlv_{number}")
}
