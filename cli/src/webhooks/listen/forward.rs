//! Events on their way to a receiver of one's own: with the headers and the body that Tollgate would send.

use http::HeaderMap;
use reqwest::{StatusCode, Url};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// How long the receiver may take.
const DEADLINE: Duration = Duration::from_secs(30);
/// So much of its answer is shown, in bytes.
const SHOWN_MAX: usize = 1_024;

/// Where events are forwarded to.
pub(super) struct Forward {
    client: reqwest::Client,
    to: Url,
}

/// What the receiver answered.
pub(super) enum Answer {
    /// With this status, after this time, and a body that begins so.
    Status(StatusCode, Duration, String),
    /// Not at all.
    Failed(&'static str),
}

impl Forward {
    pub(super) fn to(to: Url) -> anyhow::Result<Self> {
        if !matches!(to.scheme(), "http" | "https") {
            return Err(crate::misused("--forward-to takes an http or https address"));
        }
        let client = reqwest::Client::builder()
            .timeout(DEADLINE)
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .user_agent(concat!("Tollgate/", env!("CARGO_PKG_VERSION")));
        Ok(Self { client: client.build()?, to })
    }

    pub(super) async fn send(&self, headers: HeaderMap, body: Vec<u8>) -> Answer {
        let began = Instant::now();
        let request = self.client.post(self.to.clone()).headers(headers).body(body);
        let mut response = match request.send().await {
            Ok(response) => response,
            Err(error) if error.is_timeout() => return Answer::Failed("it did not answer in time"),
            Err(_) => return Answer::Failed("it can't be reached"),
        };
        let status = response.status();
        let mut shown = Vec::new();
        while shown.len() < SHOWN_MAX
            && let Ok(Some(chunk)) = response.chunk().await
        {
            shown.extend_from_slice(&chunk);
        }
        shown.truncate(SHOWN_MAX);
        let shown = String::from_utf8_lossy(&shown).trim().to_owned();
        Answer::Status(status, began.elapsed(), shown)
    }
}

impl Answer {
    pub(super) fn is_success(&self) -> bool {
        matches!(self, Self::Status(status, ..) if status.is_success())
    }

    pub(super) fn line(&self) -> String {
        match self {
            Self::Failed(why) => format!("→ {why}"),
            Self::Status(status, took, shown) => {
                let line = format!("→ {} in {} ms {shown}", status.as_u16(), took.as_millis());
                line.trim_end().to_owned()
            }
        }
    }

    pub(super) fn json(&self) -> Value {
        match self {
            Self::Failed(why) => json!({ "error": why }),
            Self::Status(status, took, shown) => {
                let took = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
                json!({ "status": status.as_u16(), "took_ms": took, "body": shown })
            }
        }
    }
}
