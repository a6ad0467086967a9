use super::*;
use crate::exchange::Exchange;
use crate::facts::{PackFact, Stage, UpstreamFact};
use crate::gateway::Gateway;
use crate::pipeline::{Context, Halt, admit};
use crate::report::{Metrics, Part};
use crate::trace::Trace;
use http::{HeaderMap, Method};
use jiff::Timestamp;
use model::document::PhaseName;
use model::quota::{Kind, LimitMode, Quota, Reading, Wait};
use model::record::{Record, Share, Verdict};
use model::{FailureReason, Head};
use std::net::Ipv4Addr;
use std::time::Instant;
use store::records::RecordQuery;
use tempfile::TempDir;

const SAMPLED: RecordMode = RecordMode::Sampled(Share::ALL);

/// A recorder with a database of its own.
struct Bench {
    recorder: Recorder,
    store: Store,
    metrics: Metrics,
    _folder: TempDir,
}

impl Bench {
    async fn new(buffer: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}/tollgate.db", folder.path().display());
        let store = Store::open(&url).await.unwrap();
        let metrics = Metrics::new("test").unwrap();
        let recorder = Recorder::start(
            &Settings { buffer, ..Settings::default() },
            store.clone(),
            "node-a".into(),
            Clock::system(),
            metrics.records().clone(),
            &tokio::runtime::Handle::current(),
        );
        Self { recorder, store, metrics, _folder: folder }
    }

    /// An exchange with nothing remarkable, from its admission to its end.
    fn exchange(&self, mode: RecordMode) -> Result<(), Reject> {
        let mut facts = facts();
        let due = self.recorder.due(mode, &facts.trace.trace_id)?;
        self.recorder.take(due, &mut facts, Duration::from_millis(1));
        Ok(())
    }

    async fn records(&self) -> Vec<Record> {
        let query = RecordQuery { limit: 1_000, ..RecordQuery::default() };
        self.store.records(&query).await.unwrap()
    }

    fn shows(&self, sample: &str) -> bool {
        self.metrics.text().lines().any(|line| line == sample)
    }
}

fn facts() -> Facts {
    let trace = Trace::of(&HeaderMap::new(), Timestamp::UNIX_EPOCH);
    let mut facts = Facts::begin(trace, Timestamp::UNIX_EPOCH, 7);
    let mut headers = HeaderMap::new();
    headers.insert("x-api-key", "tg_live_hush".parse().unwrap());
    facts.head = Some(Arc::new(Head {
        method: Method::POST,
        path: "/v2/contacts".to_owned(),
        query: Some("token=hush".to_owned()),
        authority: "api.example".to_owned(),
        headers,
        client: Ipv4Addr::LOCALHOST.into(),
    }));
    facts.route = Some("contacts.create".into());
    facts
}

#[tokio::test]
async fn a_record_tells_what_was_known_and_nothing_secret() {
    let bench = Bench::new(8).await;
    let mut facts = facts();
    let (request_id, trace_id) = (facts.trace.request_id.clone(), facts.trace.trace_id.clone());
    facts.tenant = Some("acme".into());
    facts.consumer = Some("app".into());
    facts.version = Some("v2".into());
    facts.status = Some(503);
    facts.refused(&Reject::new(ErrorCode::PolicyFailed).because("fuel: \0 spent"));
    facts.ended(Stage::Route, Verdict::Passed, Instant::now());
    facts.ended(Stage::Decide, Verdict::Refused, Instant::now());
    facts.readings = Arc::new([Reading {
        id: "daily".into(),
        kind: Kind::Quota("10/day".parse::<Quota>().unwrap()),
        limit: 10,
        used: 10,
        remaining: 0,
        reset_after: Some(1),
        window: None,
        refusal: Some(Wait::For(1)),
        mode: LimitMode::Enforce,
        degraded: None,
    }]);
    facts.packs.push(PackFact {
        attachment: "a".into(),
        series: bench.metrics.pack(&"p".into(), &"1.0.0".into(), Part::Enforce),
        phase: PhaseName::Request,
        said: Err((FailureReason::Fuel, "spent".to_owned())),
        took: Duration::from_micros(40),
    });
    facts.upstream =
        Some(UpstreamFact { id: "crm".into(), status: None, took: Duration::from_micros(900) });
    let due = bench.recorder.due(RecordMode::Required, &trace_id).unwrap();
    bench.recorder.take(due, &mut facts, Duration::from_micros(1_234));
    assert_eq!(bench.recorder.flush(FLUSH_MAX).await, 0);

    let found = bench.records().await;
    let [record] = found.as_slice() else { panic!("{found:?}") };
    let mut told = serde_json::to_value(record).unwrap();
    for (pointer, at_most) in [("/stages/0/took_us", 1_000_000), ("/stages/1/took_us", 1_000_000)] {
        let took = told.pointer_mut(pointer).unwrap();
        assert!(took.as_u64().unwrap() <= at_most);
        *took = 0.into();
    }
    assert_eq!(
        told,
        serde_json::json!({
            "id": record.id, "request_id": request_id, "trace_id": trace_id,
            "at": "1970-01-01T00:00:00Z", "took_us": 1_234, "node": "node-a", "revision": 7,
            "method": "POST", "path": "/v2/contacts", "route": "contacts.create",
            "tenant": "acme", "consumer": "app", "version": "v2",
            "status": 503, "error": "POLICY_FAILED", "cause": "fuel: \u{fffd} spent",
            "stages": [
                { "stage": "route", "verdict": "passed", "took_us": 0 },
                { "stage": "decide", "verdict": "refused", "took_us": 0 },
            ],
            "limits": [{ "id": "daily", "limit": 10, "remaining": 0, "refused": true }],
            "packs": [{ "attachment": "a", "pack": "p", "version": "1.0.0", "phase": "request",
                        "mode": "enforce", "decision": "failed", "failure": "fuel: spent",
                        "took_us": 40 }],
            "upstream": { "id": "crm", "took_us": 900 },
        })
    );
    assert!(!told.to_string().contains("hush"));
}

#[tokio::test]
async fn long_texts_are_cut_between_characters() {
    let bench = Bench::new(8).await;
    let mut facts = facts();
    let head = Arc::make_mut(facts.head.as_mut().unwrap());
    head.path = format!("/{}", "ä".repeat(2_000));
    facts.cause = Some("ö".repeat(300));
    let due = bench.recorder.due(SAMPLED, &facts.trace.trace_id).unwrap();
    bench.recorder.take(due, &mut facts, Duration::ZERO);
    bench.recorder.flush(FLUSH_MAX).await;
    let record = bench.records().await.remove(0);
    assert_eq!(record.path, format!("/{}", "ä".repeat(511)), "1,024 bytes would split one");
    assert_eq!(record.cause.unwrap().len(), 512);
}

// The writer runs when these tests wait, and not before: on one thread the buffer is exact.

#[tokio::test]
async fn a_full_buffer_drops_what_is_sampled_and_refuses_what_is_required() {
    let bench = Bench::new(8).await;
    for _ in 0..6 {
        bench.exchange(SAMPLED).unwrap();
    }
    assert!(bench.shows("tollgate_records_dropped_total 2"), "half is for required ones");
    for _ in 0..4 {
        bench.exchange(RecordMode::Required).unwrap();
    }
    let refused = bench.exchange(RecordMode::Required).unwrap_err();
    assert_eq!((refused.code, refused.retry_after), (ErrorCode::DependencyUnavailable, Some(1)));
    bench.exchange(SAMPLED).unwrap();
    bench.exchange(RecordMode::Off).unwrap();
    assert!(bench.shows("tollgate_records_dropped_total 3"));
    assert!(bench.shows("tollgate_records_buffered 8"));

    assert_eq!(bench.recorder.flush(FLUSH_MAX).await, 0);
    assert_eq!(bench.records().await.len(), 8);
    bench.exchange(RecordMode::Required).unwrap();
}

#[tokio::test]
async fn a_place_is_held_from_admission_to_the_end() {
    let bench = Bench::new(1).await;
    let mut facts = facts();
    let due = bench.recorder.due(RecordMode::Required, &facts.trace.trace_id).unwrap();
    assert!(bench.exchange(RecordMode::Required).is_err());
    bench.exchange(SAMPLED).unwrap();
    assert!(bench.shows("tollgate_records_dropped_total 1"));
    bench.recorder.take(due, &mut facts, Duration::ZERO);
    bench.recorder.flush(FLUSH_MAX).await;
    bench.exchange(RecordMode::Required).unwrap();
    assert_eq!(bench.recorder.flush(FLUSH_MAX).await, 0);
    assert_eq!(bench.records().await.len(), 2);
}

#[tokio::test]
async fn while_the_store_is_down_records_are_kept_and_nobody_waits() {
    let bench = Bench::new(4).await;
    bench.store.close().await;
    bench.exchange(SAMPLED).unwrap();
    // The writer has it in hand now, and tries again and again.
    assert_eq!(bench.recorder.flush(PAUSE.0 * 3).await, 1);
    assert!(bench.shows("tollgate_store_degraded{store=\"records\"} 1"));
    for _ in 0..4 {
        bench.exchange(RecordMode::Required).unwrap();
    }
    assert!(bench.exchange(RecordMode::Required).is_err());
    bench.exchange(SAMPLED).unwrap();
    assert!(bench.shows("tollgate_records_dropped_total 1"));
    assert!(bench.shows("tollgate_records_buffered 5"));
    assert_eq!(bench.recorder.flush(Duration::ZERO).await, 5);
}

#[tokio::test]
async fn what_was_taken_is_written_when_the_recorder_goes() {
    let bench = Bench::new(2_000).await;
    for _ in 0..800 {
        bench.exchange(SAMPLED).unwrap();
    }
    let Bench { recorder, store, metrics, _folder } = bench;
    let written = Arc::clone(&recorder.written);
    drop(recorder);
    while metrics.records().waiting() > 0 {
        written.notified().await;
    }
    let query = RecordQuery { limit: 1_000, ..RecordQuery::default() };
    assert_eq!(store.records(&query).await.unwrap().len(), 800);
}

#[tokio::test]
async fn records_are_kept_for_their_retention() {
    let bench = Bench::new(8).await;
    bench.exchange(SAMPLED).unwrap();
    bench.recorder.flush(FLUSH_MAX).await;
    // It began at the epoch.
    let clock = Clock::manual(Timestamp::UNIX_EPOCH + RETENTION);
    assert_eq!(purge(&bench.store, &clock, RETENTION).await.unwrap(), 0);
    clock.advance(Duration::from_secs(1));
    assert_eq!(purge(&bench.store, &clock, Duration::MAX).await.unwrap(), 0);
    assert_eq!(purge(&bench.store, &clock, RETENTION).await.unwrap(), 1);
    assert_eq!(bench.records().await.len(), 0);
}

#[tokio::test]
async fn a_share_of_traces_is_recorded_whatever_the_node() {
    let (one, other) = (Bench::new(8).await, Bench::new(8).await);
    let share = RecordMode::Sampled(Share::new(0.25).unwrap());
    let sampled =
        |bench: &Bench, trace: &str| matches!(bench.recorder.due(share, trace), Ok(Due::Sampled));
    let traces: Vec<String> = (0..4_000).map(|n| format!("{n:032x}")).collect();
    let taken = traces.iter().filter(|trace| sampled(&one, trace)).count();
    assert!((900..1_100).contains(&taken), "{taken}");
    assert!(traces.iter().all(|trace| sampled(&one, trace) == sampled(&other, trace)));
}

const DOCUMENT: &str = r#"
format: 1
upstreams: [{ id: crm, targets: [{ address: "127.0.0.1:9" }] }]
services:
  - { id: contacts, select: [default], versions: [{ name: v1, upstream: crm, state: active, default: true }] }
routes:
  - id: contacts.create
    service: contacts
    match: { path: /contacts, methods: [POST] }
    authenticate: { any_of: [api_key] }
    body: { limit: 1KiB }
    record: required
"#;

/// A gateway whose one route must leave records, and the means to send it requests.
struct Edge {
    gateway: Arc<Gateway>,
    store: Store,
    _folders: [TempDir; 2],
}

impl Edge {
    async fn new() -> Self {
        let (store, folder) = crate::tests::store().await;
        let packs = tempfile::tempdir().unwrap();
        let gateway = crate::tests::gateway(&store, "node-a", packs.path());
        let config = model::config::read(DOCUMENT).unwrap();
        gateway.put_in_force(gateway.compile(Arc::new(config)).unwrap(), 1);
        Self { gateway, store, _folders: [folder, packs] }
    }

    /// A request with these headers after its admission, and its code where it was refused.
    async fn request(&self, headers: &[(&'static str, &str)]) -> (Exchange, Option<ErrorCode>) {
        let snapshot = self.gateway.live.pin().unwrap();
        let mut exchange = Exchange::begin(self.gateway.clone(), Some(snapshot.clone()), facts());
        let head = Arc::make_mut(exchange.facts.head.as_mut().unwrap());
        head.path = "/contacts".to_owned();
        head.headers.clear();
        for (name, value) in headers {
            head.headers.insert(*name, value.parse().unwrap());
        }
        exchange.facts.route = None;
        let (head, trace) = (exchange.facts.head.clone().unwrap(), exchange.facts.trace.clone());
        let mut cx = Context::new(&self.gateway, &snapshot, &head, &trace, None);
        let answer = admit(&mut cx, &mut exchange.facts, &mut exchange.held).await;
        let code = answer.err().map(|halt| match halt {
            Halt::Reject(reject) => reject.code,
            Halt::Reply(reply) => panic!("{reply:?}"),
        });
        (exchange, code)
    }

    /// `error last-stage verdict` of every record, sorted.
    async fn records(&self) -> Vec<String> {
        assert_eq!(self.gateway.recorder.flush(FLUSH_MAX).await, 0);
        let query = RecordQuery { limit: 10, ..RecordQuery::default() };
        let found = self.store.records(&query).await.unwrap();
        let told = found.iter().map(|record| {
            let stage = record.stages.last().unwrap();
            format!("{} {} {:?}", record.error.as_deref().unwrap(), stage.stage, stage.verdict)
        });
        let mut told: Vec<String> = told.collect();
        told.sort();
        told
    }
}

#[tokio::test]
async fn without_room_a_required_exchange_goes_no_further_than_its_route() {
    let edge = Edge::new().await;
    let recorder = &edge.gateway.recorder;
    let mut places: Vec<Due> =
        (0..BUFFER).map(|_| recorder.due(RecordMode::Required, "t").unwrap()).collect();
    let (exchange, code) = edge.request(&[]).await;
    assert_eq!(code, Some(ErrorCode::DependencyUnavailable));
    assert!(exchange.held.caller.is_none() && exchange.held.permit.is_none());
    let stages: Vec<_> = exchange.facts.stages.iter().map(|fact| fact.stage).collect();
    assert_eq!(stages, [Stage::Route]);
    drop(exchange);

    places.pop();
    let (_, code) = edge.request(&[]).await;
    assert_eq!(code, Some(ErrorCode::CredentialMissing));
    assert_eq!(edge.records().await, ["CREDENTIAL_MISSING authenticate Refused"]);
}

#[tokio::test]
async fn what_is_refused_early_leaves_a_record_and_so_does_a_panic() {
    let edge = Edge::new().await;
    let (mut exchange, code) = edge.request(&[("content-length", "5000")]).await;
    assert_eq!(code, Some(ErrorCode::BodyTooLarge));
    exchange.end();
    let (mut exchange, code) = edge.request(&[("x-api-key", "tg_test_nobodys")]).await;
    assert_eq!(code, Some(ErrorCode::CredentialInvalid));
    exchange.end();
    let (mut exchange, _) = edge.request(&[]).await;
    exchange.facts.error = None;
    let panicked = tokio::spawn(async move {
        exchange.facts.ended(Stage::Decide, Verdict::Passed, Instant::now());
        panic!("a fault of ours");
    });
    assert!(panicked.await.unwrap_err().is_panic());
    assert_eq!(
        edge.records().await,
        [
            "BODY_TOO_LARGE route Refused",
            "CREDENTIAL_INVALID authenticate Refused",
            "INTERNAL decide Passed",
        ]
    );
}
