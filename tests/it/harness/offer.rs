//! Requests that are offered at a rate, whatever becomes of them, and what became of each.
//!
//! Invariant: an offer does not wait for its answers to make the next one, as long as a connection is free.

use super::{Answer, Raw};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval_at};

/// Who asks, whom, and how often.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stream<'a> {
    pub(crate) to: SocketAddr,
    pub(crate) path: &'a str,
    pub(crate) key: &'a str,
    pub(crate) per_second: u32,
    /// How many connections take turns.
    pub(crate) connections: u32,
}

/// One request, and what became of it.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    /// When it was sent, since the offers began.
    pub(crate) at: Duration,
    /// When its answer was there.
    pub(crate) answered: Duration,
    /// 0 where the connection ended without an answer.
    pub(crate) status: u16,
    /// The public code of a refusal.
    pub(crate) code: String,
    /// What the answer says of its limits.
    pub(crate) limits: String,
}

impl Asked {
    pub(crate) fn admitted(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// Whether a limit was decided so, because the shared counters could not answer.
    pub(crate) fn degraded(&self, how: &str) -> bool {
        self.limits.contains(&format!(";tollgate-degraded={how}"))
    }

    pub(crate) fn took(&self) -> Duration {
        self.answered - self.at
    }
}

/// Offers that go on until they are stopped.
pub(crate) struct Offer {
    began: Instant,
    stop: Arc<AtomicBool>,
    streams: Vec<JoinSet<Vec<Asked>>>,
}

impl Offer {
    pub(crate) fn start(streams: &[Stream<'_>]) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let began = Instant::now();
        let start = |stream: &Stream<'_>| {
            let Stream { to, path, key, per_second, connections } = *stream;
            let request =
                format!("GET {path} HTTP/1.1\r\nHost: offer.example\r\nX-Api-Key: {key}\r\n\r\n");
            let step = Duration::from_secs(1) / per_second;
            (0..connections)
                .map(|turn| {
                    let turns = Turns { to, began, first: step * turn, step: step * connections };
                    offer(turns, request.clone(), stop.clone())
                })
                .collect()
        };
        let streams = streams.iter().map(start).collect();
        Self { began, stop, streams }
    }

    /// How long it goes on.
    pub(crate) fn now(&self) -> Duration {
        self.began.elapsed()
    }

    /// Waits until it has gone on for so much longer.
    pub(crate) async fn goes_on_for(&self, time: Duration) {
        tokio::time::sleep(time).await;
    }

    /// Ends it. What became of each stream's requests, in the order in which they were sent.
    pub(crate) async fn stop(self) -> Vec<Outcomes> {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Vec::new();
        for stream in self.streams {
            let mut asked: Vec<Asked> = stream.join_all().await.into_iter().flatten().collect();
            asked.sort_by_key(|asked| asked.at);
            all.push(Outcomes(asked));
        }
        all
    }
}

/// When a connection asks.
struct Turns {
    to: SocketAddr,
    began: Instant,
    first: Duration,
    step: Duration,
}

async fn offer(turns: Turns, request: String, stop: Arc<AtomicBool>) -> Vec<Asked> {
    let mut connection = Raw::to(turns.to).await;
    let mut all = Vec::new();
    let mut turn = interval_at(turns.began + turns.first, turns.step);
    // What could not be offered in time is offered as soon as it can be.
    turn.set_missed_tick_behavior(MissedTickBehavior::Burst);
    loop {
        turn.tick().await;
        if stop.load(Ordering::Relaxed) {
            return all;
        }
        let at = turns.began.elapsed();
        connection.say(&request).await;
        let answer = connection.hear().await;
        let ended = turns.began.elapsed();
        let Some(answer) = answer else {
            all.push(asked(at, ended, None));
            connection = Raw::to(turns.to).await;
            continue;
        };
        all.push(asked(at, ended, Some(&answer)));
    }
}

fn asked(at: Duration, answered: Duration, answer: Option<&Answer>) -> Asked {
    let code = answer.filter(|answer| answer.status >= 400).map(Answer::code);
    Asked {
        at,
        answered,
        status: answer.map_or(0, |answer| answer.status),
        code: code.unwrap_or_default(),
        limits: answer.map(|answer| answer.header("ratelimit").to_owned()).unwrap_or_default(),
    }
}

/// What became of requests.
#[derive(Clone, Debug, Default)]
pub(crate) struct Outcomes(pub(crate) Vec<Asked>);

impl Outcomes {
    /// Of several streams together.
    pub(crate) fn of_all(all: &[Self]) -> Self {
        let mut asked: Vec<Asked> = all.iter().flat_map(|outcomes| outcomes.0.clone()).collect();
        asked.sort_by_key(|asked| asked.at);
        Self(asked)
    }

    /// Those that were sent and answered between these moments: they were decided there.
    pub(crate) fn within(&self, from: Duration, to: Duration) -> Self {
        let inside = |asked: &&Asked| asked.at >= from && asked.answered <= to;
        Self(self.0.iter().filter(inside).cloned().collect())
    }

    pub(crate) fn count(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn admitted(&self) -> usize {
        self.0.iter().filter(|asked| asked.admitted()).count()
    }

    /// How many ended how.
    pub(crate) fn summary(&self) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for asked in &self.0 {
            let degraded = asked.limits.split_once(";tollgate-degraded=");
            let how = degraded.map_or("", |(_, rest)| rest.split([',', ';']).next().unwrap_or(""));
            let what = format!("{} {} {how}", asked.status, asked.code).trim_end().to_owned();
            *counts.entry(what).or_default() += 1;
        }
        counts
    }

    /// Asserts that each is as it must be.
    #[track_caller]
    pub(crate) fn each(&self, what: &str, holds: impl Fn(&Asked) -> bool) {
        let wrong: Vec<&Asked> = self.0.iter().filter(|asked| !holds(asked)).collect();
        let shown = &wrong[..wrong.len().min(10)];
        assert!(
            wrong.is_empty(),
            "{what}: {} of {} are otherwise, in all {:?}: {shown:#?}",
            wrong.len(),
            self.count(),
            self.summary()
        );
    }

    /// Asserts that none was answered but as a limit may answer that does this when its counters can't be reached.
    #[track_caller]
    pub(crate) fn hold(&self, mode: &str) {
        self.each(mode, |asked| match (asked.status, &*asked.code) {
            (200, _) | (429, "RATE_LIMITED" | "QUOTA_EXCEEDED" | "CONCURRENCY_LIMITED") => true,
            (503, "DEPENDENCY_UNAVAILABLE") => mode == "closed",
            _ => false,
        });
    }

    /// Asserts that Redis decided: a busy machine may be late for one in fifty, and three more.
    #[track_caller]
    pub(crate) fn are_normal(&self) {
        let late =
            |asked: &&Asked| asked.status == 503 || asked.limits.contains(";tollgate-degraded=");
        let late = self.0.iter().filter(late).count();
        assert!(late <= 3 + self.count() / 50, "{late} are late: {:?}", self.summary());
    }

    /// The time in which this share of them was answered.
    pub(crate) fn quantile(&self, share: f64) -> Duration {
        let mut took: Vec<Duration> = self.0.iter().map(Asked::took).collect();
        took.sort_unstable();
        assert!(!took.is_empty(), "nothing was asked");
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "counts are small and positive"
        )]
        let at = (took.len() as f64 * share) as usize;
        took[at.min(took.len() - 1)]
    }

    /// The most that was admitted in an interval beyond `burst` and what comes back in it, by so many per second. A
    /// request counts for every interval that it was sent and answered in, so that none counts which was decided outside.
    pub(crate) fn excess(&self, burst: u32, per_second: f64) -> f64 {
        let admitted: Vec<&Asked> = self.0.iter().filter(|asked| asked.admitted()).collect();
        let mut answered = admitted.clone();
        answered.sort_by_key(|asked| asked.answered);
        let mut most = f64::MIN;
        for first in &admitted {
            let mut count = 0_u32;
            for last in answered.iter().filter(|asked| asked.at >= first.at) {
                count += 1;
                let time = (last.answered - first.at).as_secs_f64();
                most = most.max(f64::from(count) - f64::from(burst) - per_second * time);
            }
        }
        most
    }
}
