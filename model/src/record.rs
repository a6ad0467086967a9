//! The decision record of one exchange: which stage decided what. No secrets, no bodies, no query.

use crate::error::ErrorCode;
use crate::id::{
    AttachmentId, ConsumerId, LimitId, NodeName, PackId, RouteId, TenantId, UpstreamId, VersionName,
};
use crate::quota::{LimitMode, OnStoreError};
use crate::units::as_text;
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::fmt;
use std::str::FromStr;

/// What happened in one exchange.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Record {
    /// UUIDv7; sorts by time.
    pub id: String,
    /// `X-Request-ID`, as the client sent it or as it was made.
    pub request_id: String,
    /// 32 hex digits.
    pub trace_id: String,
    /// When it began.
    #[schemars(with = "String")]
    pub at: Timestamp,
    /// How long it took, in microseconds.
    pub took_us: u64,
    /// The node that served it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<NodeName>,
    /// The revision that it pinned.
    pub revision: u64,
    /// The method.
    pub method: String,
    /// The path without its query, cut at 1,024 bytes.
    pub path: String,
    /// The route.
    pub route: RouteId,
    /// The tenant, once known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<TenantId>,
    /// The consumer, once known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub consumer: Option<ConsumerId>,
    /// The version that it got.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<VersionName>,
    /// The status that was sent; none when the client had left.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// The code of our own answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Why, for operators only: never shown to partners.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
    /// Every stage that ran, in order.
    pub stages: Vec<StageRecord>,
    /// What every limit read.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub limits: Vec<LimitRecord>,
    /// What packs said.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub packs: Vec<PackRecord>,
    /// How its idempotency key was treated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idempotency: Option<String>,
    /// The upstream's part.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upstream: Option<UpstreamRecord>,
}

/// One stage of an exchange.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct StageRecord {
    /// Its name, like `authenticate`.
    pub stage: String,
    /// Whether the exchange went on.
    pub verdict: Verdict,
    /// How long it took, in microseconds.
    pub took_us: u64,
}

/// How a stage ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The exchange went on.
    Passed,
    /// It was refused here.
    Refused,
    /// It was answered here without the upstream.
    Replied,
}

/// One limit of an exchange.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct LimitRecord {
    /// The limit.
    pub id: LimitId,
    /// How much there is.
    pub limit: u64,
    /// How much was left.
    pub remaining: u64,
    /// Whether it refused; of one that only observes, whether it would have.
    pub refused: bool,
    /// Whether it refuses, or only observes.
    #[serde(default, skip_serializing_if = "LimitMode::is_enforce")]
    pub mode: LimitMode,
    /// How it was decided, where the store of counters could not answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub degraded: Option<OnStoreError>,
}

/// What one pack said.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PackRecord {
    /// Where it is attached.
    pub attachment: AttachmentId,
    /// The pack.
    pub pack: PackId,
    /// Its version.
    pub version: String,
    /// `cost`, `request` or `response`; `request` in records of before there were others.
    #[serde(default = "request")]
    pub phase: String,
    /// Whether its decision acted: `enforce` of the running version, `canary` of a candidate. Or was only recorded:
    /// `observe`; `shadow` of a candidate; `baseline` of the running version while the canary acts.
    pub mode: String,
    /// `continue`, `edit`, `deny`, `answer`, `cost` or `failed`.
    pub decision: String,
    /// What the request costs, where that was asked; in units.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost: Option<u32>,
    /// The pack's own reason, where it denied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Why it could not decide.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
    /// How long it took, in microseconds.
    pub took_us: u64,
}

/// The upstream's part.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct UpstreamRecord {
    /// Which upstream.
    pub id: UpstreamId,
    /// Its status; none when it gave no answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// Until the head of its answer, in microseconds.
    pub took_us: u64,
}

impl PackRecord {
    /// Whether its decision acted on the exchange.
    pub fn has_acted(&self) -> bool {
        matches!(self.mode.as_str(), "enforce" | "canary")
    }
}

impl Record {
    /// What its caller may see: everything but why, which node, limits that are tried out, what packs failed of, and why
    /// those denied that did not act.
    pub fn redacted(mut self) -> Self {
        self.cause = None;
        self.node = None;
        self.limits.retain(|limit| limit.mode.is_enforce());
        for pack in &mut self.packs {
            pack.failure = None;
            pack.reason = pack.reason.take().filter(|_| pack.has_acted());
        }
        self
    }

    /// The code of our own answer.
    pub fn code(&self) -> Option<ErrorCode> {
        self.error.as_deref().and_then(ErrorCode::parse)
    }
}

fn request() -> String {
    "request".to_owned()
}

/// Which exchanges of a route leave a record: `required`, `sampled(0.1)` or `off`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum RecordMode {
    /// All of them: one for whose record there is no room is refused.
    Required,
    /// A share of them, as long as there is room for their records.
    Sampled(Share),
    /// None.
    #[default]
    Off,
}

impl RecordMode {
    /// Whether nothing is recorded.
    pub const fn is_off(&self) -> bool {
        matches!(self, Self::Off)
    }
}

/// A share of all traces: more than 0, at most 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Share(f64);

impl Share {
    /// All of them.
    pub const ALL: Self = Self(1.0);

    /// The share of this number, if it is one.
    pub fn new(share: f64) -> Option<Self> {
        (share > 0.0 && share <= 1.0).then_some(Self(share))
    }

    /// Whether a trace belongs to the share. Every node says the same of it, and so does every exchange of the trace.
    pub fn takes(self, trace_id: &str) -> bool {
        if self == Self::ALL {
            return true;
        }
        // Clients choose trace ids, which need not be random: their hash is.
        let digest = Sha256::digest(trace_id.as_bytes());
        let head = digest.iter().take(8).fold(0_u64, |head, byte| head << 8 | u64::from(*byte));
        // As many bits as a float holds exactly.
        let unit = (head >> 11) as f64 / (1_u64 << 53) as f64;
        unit < self.0
    }
}

impl FromStr for RecordMode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let written = || {
            format!(
                "`{text}` says not what to record; write `required`, `off`, or a share that is more than 0 and at most \
                 1, like `sampled(0.1)`"
            )
        };
        match text {
            "required" => return Ok(Self::Required),
            "off" => return Ok(Self::Off),
            _ => {}
        }
        let share = text.strip_prefix("sampled(").and_then(|rest| rest.strip_suffix(')'));
        // Decimal digits only: Rust would read `inf`, `1e-3` and `+1` as well.
        let share = share.filter(|digits| {
            digits.starts_with(|c: char| c.is_ascii_digit())
                && digits.chars().all(|c| c.is_ascii_digit() || c == '.')
        });
        let share = share.and_then(|digits| digits.parse().ok()).and_then(Share::new);
        share.map(Self::Sampled).ok_or_else(written)
    }
}

impl fmt::Display for RecordMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Required => f.write_str("required"),
            Self::Sampled(Share(share)) => write!(f, "sampled({share})"),
            Self::Off => f.write_str("off"),
        }
    }
}

as_text!(RecordMode, "record");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_documents_write_reads_back() {
        for text in ["required", "off", "sampled(1)", "sampled(0.1)", "sampled(0.000001)"] {
            let mode: RecordMode = text.parse().unwrap();
            assert_eq!(mode.to_string(), text);
        }
        assert_eq!("sampled(1.0)".parse(), Ok(RecordMode::Sampled(Share::ALL)));
        for text in [
            "",
            "on",
            "Required",
            "sampled",
            "sampled()",
            "sampled(0)",
            "sampled(1.01)",
            "sampled(-0.5)",
            "sampled(.5)",
            "sampled(1e-3)",
            "sampled(inf)",
            "sampled(NaN)",
            "sampled(0.1.2)",
            "sampled( 0.1)",
            "sampled(0.1) ",
        ] {
            let said = text.parse::<RecordMode>().unwrap_err();
            assert!(said.contains("sampled(0.1)"), "{text}: {said}");
        }
    }

    #[test]
    fn a_share_takes_its_part_of_traces_that_only_count_up() {
        for (share, expected) in [(0.001, 10..50), (0.1, 2_850..3_150), (0.9, 26_850..27_150)] {
            let share = Share::new(share).unwrap();
            let taken = (0..30_000).filter(|n| share.takes(&format!("{n:032x}"))).count();
            assert!(expected.contains(&taken), "{share:?}: {taken}");
        }
        assert!((0..1_000).all(|n| Share::ALL.takes(&format!("{n:032x}"))));
    }

    #[test]
    fn a_larger_share_takes_what_a_smaller_one_takes() {
        let (small, large) = (Share::new(0.2).unwrap(), Share::new(0.5).unwrap());
        for trace in (0..1_000).map(|n| format!("{n:032x}")) {
            assert!(!small.takes(&trace) || large.takes(&trace), "{trace}");
            assert_eq!(small.takes(&trace), small.takes(&trace));
        }
    }
}
