//! Whoever webhooks are sent to: as many endpoints as a test wants, each at a path of its own and with manners of its own.
//! Counts what arrives, by endpoint and `webhook-id`, and has the official library verify it.
//!
//! Invariant: an arrival is recorded before a byte of its answer is sent.

use super::ports::{free, local};
use super::{Latch, eventually, hoped};
use http::{HeaderMap, HeaderName, HeaderValue};
use serde_json::Value;
use standardwebhooks::Webhook;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

/// What every endpoint of a sink signs with.
pub(crate) const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
/// The variable that documents name for it.
pub(crate) const SECRET_NAME: &str = "TOLLGATE_SECRET_HOOK";

/// Between two bytes of an answer that drips.
const DRIP: Duration = Duration::from_millis(20);

/// A webhook as it came.
#[derive(Clone, Debug)]
pub(crate) struct Arrived {
    /// Counts from 1 at each endpoint.
    pub(crate) number: usize,
    pub(crate) at: Instant,
    pub(crate) webhook_id: String,
    /// `webhook-attempt`.
    pub(crate) attempt: u32,
    /// `id` of the event.
    pub(crate) id: String,
    /// `subject` of the event.
    pub(crate) subject: String,
    /// Whether the official library takes its signature.
    pub(crate) verified: bool,
    /// Whether it was answered 2xx.
    pub(crate) taken: bool,
}

/// What is answered to a webhook.
#[derive(Clone, Debug)]
pub(crate) struct Told {
    status: u16,
    headers: String,
    pause: Duration,
    latch: Option<Latch>,
    manner: Manner,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Manner {
    Answers,
    Hangs,
    Drips,
    Cuts,
}

impl Told {
    /// 204.
    pub(crate) fn takes() -> Self {
        Self::answers(204)
    }

    pub(crate) fn answers(status: u16) -> Self {
        Self {
            status,
            headers: String::new(),
            pause: Duration::ZERO,
            latch: None,
            manner: Manner::Answers,
        }
    }

    /// No answer ever comes.
    pub(crate) fn hangs() -> Self {
        Self { manner: Manner::Hangs, ..Self::answers(200) }
    }

    /// The answer begins, and never ends.
    pub(crate) fn drips() -> Self {
        Self { manner: Manner::Drips, ..Self::answers(200) }
    }

    /// The connection is closed without an answer.
    pub(crate) fn cuts() -> Self {
        Self { manner: Manner::Cuts, ..Self::answers(200) }
    }

    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        self.headers += &format!("{name}: {value}\r\n");
        self
    }

    /// Answered after this time.
    pub(crate) fn after(mut self, pause: Duration) -> Self {
        self.pause = pause;
        self
    }

    /// Answered when the latch opens.
    pub(crate) fn held_by(mut self, latch: &Latch) -> Self {
        self.latch = Some(latch.clone());
        self
    }

    fn takes_it(&self) -> bool {
        self.manner == Manner::Answers && (200..300).contains(&self.status)
    }
}

type Manners = Arc<dyn Fn(&Arrived) -> Told + Send + Sync>;

/// A webhook, byte for byte.
pub(crate) struct Raw {
    pub(crate) endpoint: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
}

#[derive(Default)]
struct Shared {
    manners: Mutex<BTreeMap<String, Manners>>,
    arrived: Mutex<BTreeMap<String, Vec<Arrived>>>,
    /// None while nothing is kept.
    kept: Mutex<Option<Vec<Raw>>>,
}

impl Shared {
    /// Records an arrival; says what is told.
    fn record(&self, endpoint: &str, mut arrived: Arrived) -> Told {
        let manners = self.manners.lock().unwrap().get(endpoint).cloned();
        let mut all = self.arrived.lock().unwrap();
        let here = all.entry(endpoint.to_owned()).or_default();
        arrived.number = here.len() + 1;
        let told = match manners {
            Some(manners) => manners(&arrived),
            None => Told::takes(),
        };
        arrived.taken = told.takes_it();
        here.push(arrived);
        told
    }
}

/// A sink that listens. It ends when it is dropped.
pub(crate) struct Sink {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
    _serving: JoinSet<()>,
}

impl Sink {
    /// One that takes everything.
    pub(crate) async fn start() -> Self {
        let address = local(free(1));
        let listener = TcpListener::bind(address).await.unwrap();
        let shared = Arc::<Shared>::default();
        let mut serving = JoinSet::new();
        serving.spawn(accept(listener, shared.clone()));
        Self { address, shared, _serving: serving }
    }

    /// The address of an endpoint.
    pub(crate) fn url(&self, endpoint: &str) -> String {
        format!("http://{}/{endpoint}", self.address)
    }

    /// From now on the endpoint has these manners.
    pub(crate) fn at(
        &self,
        endpoint: &str,
        manners: impl Fn(&Arrived) -> Told + Send + Sync + 'static,
    ) {
        self.shared.manners.lock().unwrap().insert(endpoint.to_owned(), Arc::new(manners));
    }

    /// From now on what arrives is kept byte for byte.
    pub(crate) fn keeps(&self) {
        self.shared.kept.lock().unwrap().get_or_insert_default();
    }

    /// What was kept.
    pub(crate) fn kept(&self) -> Vec<Raw> {
        self.shared.kept.lock().unwrap().take().unwrap_or_default()
    }

    /// What arrived at an endpoint so far, in order.
    pub(crate) fn arrived(&self, endpoint: &str) -> Vec<Arrived> {
        self.shared.arrived.lock().unwrap().get(endpoint).cloned().unwrap_or_default()
    }

    /// How much arrived at an endpoint so far.
    pub(crate) fn count(&self, endpoint: &str) -> usize {
        self.shared.arrived.lock().unwrap().get(endpoint).map(Vec::len).unwrap_or_default()
    }

    /// The ids of the events that an endpoint took.
    pub(crate) fn taken(&self, endpoint: &str) -> BTreeSet<String> {
        let all = self.shared.arrived.lock().unwrap();
        let here = all.get(endpoint).into_iter().flatten();
        here.filter(|arrived| arrived.taken).map(|arrived| arrived.id.clone()).collect()
    }

    /// Waits until so much has arrived at an endpoint.
    pub(crate) async fn has(&self, endpoint: &str, count: usize) -> Vec<Arrived> {
        eventually(&format!("{count} arrivals at {endpoint}"), async || {
            let seen = self.count(endpoint);
            if seen >= count { Ok(()) } else { Err(seen) }
        })
        .await;
        self.arrived(endpoint)
    }

    /// Waits until an endpoint took exactly these events.
    pub(crate) async fn takes(&self, endpoint: &str, ids: &BTreeSet<String>) {
        eventually(&format!("{} events at {endpoint}", ids.len()), async || {
            hoped(self.taken(endpoint).len(), &ids.len())
        })
        .await;
        assert_eq!(self.taken(endpoint), *ids, "at {endpoint}");
    }

    /// What must hold of all that arrived, wherever: it is signed, and an event has one id everywhere and for good.
    pub(crate) fn every_arrival_is_sound(&self) {
        let mut ids: BTreeMap<String, String> = BTreeMap::new();
        let mut events: BTreeMap<String, String> = BTreeMap::new();
        for (endpoint, arrived) in self.shared.arrived.lock().unwrap().iter() {
            for arrived in arrived {
                assert!(arrived.verified, "{endpoint}: {arrived:?}");
                let Arrived { id, webhook_id, .. } = arrived;
                let known = ids.entry(id.clone()).or_insert_with(|| webhook_id.clone());
                assert_eq!(known, webhook_id, "{id} has two webhook-ids");
                let known = events.entry(webhook_id.clone()).or_insert_with(|| id.clone());
                assert_eq!(known, id, "{webhook_id} is two events");
            }
        }
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let (stream, _) = accepted.unwrap();
                stream.set_nodelay(true).unwrap();
                connections.spawn(serve(stream, shared.clone()));
            }
            Some(ended) = connections.join_next() => ended.unwrap(),
        }
    }
}

/// A connection to its end; none where the other side broke it off.
async fn serve(stream: TcpStream, shared: Arc<Shared>) {
    let mut connection = BufReader::new(stream);
    while let Some(raw) = receive(&mut connection).await {
        let told = shared.record(&raw.endpoint, arrived(&raw.headers, &raw.body));
        if let Some(kept) = shared.kept.lock().unwrap().as_mut() {
            kept.push(raw);
        }
        sleep(told.pause).await;
        if let Some(latch) = &told.latch {
            latch.passed().await;
        }
        if answer(connection.get_mut(), &told).await.is_none() {
            return;
        }
    }
}

async fn answer(stream: &mut TcpStream, told: &Told) -> Option<()> {
    let Told { status, headers, manner, .. } = told;
    let length = match manner {
        Manner::Answers => 0,
        Manner::Drips => 1_000_000,
        Manner::Hangs => std::future::pending().await,
        Manner::Cuts => return None,
    };
    let length =
        if *status == 204 { String::new() } else { format!("content-length: {length}\r\n") };
    let head = format!("HTTP/1.1 {status} Told\r\n{headers}{length}\r\n");
    stream.write_all(head.as_bytes()).await.ok()?;
    if *manner == Manner::Drips {
        loop {
            stream.write_all(b".").await.ok()?;
            sleep(DRIP).await;
        }
    }
    Some(())
}

/// The next webhook of a connection.
async fn receive(connection: &mut BufReader<TcpStream>) -> Option<Raw> {
    let mut line = String::new();
    connection.read_line(&mut line).await.ok().filter(|read| *read > 0)?;
    let endpoint = line.split(' ').nth(1)?.trim_start_matches('/').to_owned();
    let mut headers = HeaderMap::new();
    loop {
        line.clear();
        connection.read_line(&mut line).await.ok().filter(|read| *read > 0)?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
        headers.append(name, HeaderValue::from_str(value.trim()).unwrap());
    }
    let length: usize = header(&headers, "content-length").parse().unwrap();
    let mut body = vec![0; length];
    connection.read_exact(&mut body).await.ok()?;
    Some(Raw { endpoint, headers, body })
}

fn arrived(headers: &HeaderMap, body: &[u8]) -> Arrived {
    let verified = Webhook::new(SECRET).unwrap().verify(body, headers).is_ok();
    // Binary mode has the attributes in headers.
    let event: Value = match headers.contains_key("ce-id") {
        true => Value::Null,
        false => serde_json::from_slice(body).unwrap(),
    };
    let attribute = |name: &str| match event[name].as_str() {
        Some(value) => value.to_owned(),
        None => header(headers, &format!("ce-{name}")).to_owned(),
    };
    Arrived {
        number: 0,
        at: Instant::now(),
        webhook_id: header(headers, "webhook-id").to_owned(),
        attempt: header(headers, "webhook-attempt").parse().unwrap_or_default(),
        id: attribute("id"),
        subject: attribute("subject"),
        verified,
        taken: false,
    }
}

/// The only line of this header; empty when there is none.
fn header<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    let mut lines = headers.get_all(name).iter();
    let first = lines.next().map(|value| value.to_str().unwrap()).unwrap_or_default();
    assert!(lines.next().is_none(), "{name} came twice: {headers:?}");
    first
}
