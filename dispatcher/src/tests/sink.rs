//! A receiver of webhooks on a real socket: how it answers stands in the path.
//!
//! `/ok`, `/status/503`, `/fail/2` (each event's first two attempts), `/wait/100` (milliseconds), `/hang`, `/drip` (a byte of
//! the body every 50 ms), `/later/2` (429, `Retry-After` in seconds), `/switch` (200 or 503, as told). What follows names the
//! endpoint: `/ok/a`.

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, Uri};
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use http::StatusCode;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::time::Instant;

/// One request that came.
#[derive(Clone, Debug)]
pub(crate) struct Arrival {
    pub(crate) path: String,
    pub(crate) id: String,
    pub(crate) attempt: u32,
    pub(crate) at: Instant,
    pub(crate) body: Bytes,
    pub(crate) signature: String,
}

/// The receiver.
#[derive(Clone)]
pub(crate) struct Sink {
    pub(crate) url: String,
    /// Answers byte by byte, for ever.
    pub(crate) dripping: String,
    seen: Arc<Seen>,
}

#[derive(Default)]
struct Seen {
    arrivals: Mutex<Vec<Arrival>>,
    /// How many are being answered, and the most that ever were, by path.
    at_once: Mutex<HashMap<String, (usize, usize)>>,
    is_well: AtomicBool,
}

impl Sink {
    pub(crate) async fn start() -> Self {
        let seen = Arc::new(Seen { is_well: AtomicBool::new(true), ..Seen::default() });
        let router = Router::new().fallback(receive).with_state(seen.clone());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { url, dripping: drip().await, seen }
    }

    /// What came so far.
    pub(crate) fn arrivals(&self) -> Vec<Arrival> {
        self.seen.arrivals.lock().unwrap().clone()
    }

    /// What came to this path.
    pub(crate) fn at(&self, path: &str) -> Vec<Arrival> {
        self.arrivals().into_iter().filter(|arrival| arrival.path == path).collect()
    }

    /// How many requests to this path were ever answered at once.
    pub(crate) fn most_at_once(&self, path: &str) -> usize {
        self.seen.at_once.lock().unwrap().get(path).map_or(0, |(_, most)| *most)
    }

    /// How `/switch` answers from now on.
    pub(crate) fn switch(&self, is_well: bool) {
        self.seen.is_well.store(is_well, Ordering::SeqCst);
    }
}

async fn receive(
    State(seen): State<Arc<Seen>>,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let text =
        |name: &str| headers.get(name).map_or("", |value| value.to_str().unwrap()).to_owned();
    let path = uri.path().to_owned();
    let attempt = text("webhook-attempt").parse().unwrap();
    let (id, signature) = (text("webhook-id"), text("webhook-signature"));
    let arrival = Arrival { path: path.clone(), id, attempt, at: Instant::now(), body, signature };
    let earlier = {
        let mut arrivals = seen.arrivals.lock().unwrap();
        let same = |known: &&Arrival| known.path == path && known.id == arrival.id;
        let earlier = arrivals.iter().filter(same).count();
        arrivals.push(arrival);
        earlier
    };
    {
        let mut at_once = seen.at_once.lock().unwrap();
        let (now, most) = at_once.entry(path.clone()).or_default();
        *now += 1;
        *most = (*most).max(*now);
    }
    let _here = Here(seen.clone(), path.clone());
    let mut parts = path.trim_start_matches('/').split('/');
    let (what, number) = (parts.next().unwrap(), parts.next().and_then(|text| text.parse().ok()));
    match (what, number) {
        ("ok", _) => StatusCode::OK.into_response(),
        ("status", Some(status)) => StatusCode::from_u16(status).unwrap().into_response(),
        ("fail", Some(times)) if earlier < usize::from(times) => {
            (StatusCode::INTERNAL_SERVER_ERROR, "not yet").into_response()
        }
        ("fail", _) => StatusCode::NO_CONTENT.into_response(),
        ("wait", Some(millis)) => {
            tokio::time::sleep(Duration::from_millis(millis.into())).await;
            StatusCode::OK.into_response()
        }
        ("hang", _) => {
            tokio::time::sleep(Duration::from_secs(3_600)).await;
            StatusCode::OK.into_response()
        }
        ("later", Some(seconds)) => {
            (StatusCode::TOO_MANY_REQUESTS, [("retry-after", seconds.to_string())]).into_response()
        }
        ("switch", _) => match seen.is_well.load(Ordering::SeqCst) {
            true => StatusCode::OK.into_response(),
            false => StatusCode::SERVICE_UNAVAILABLE.into_response(),
        },
        _ => panic!("{path}"),
    }
}

/// A request that is being answered.
struct Here(Arc<Seen>, String);

impl Drop for Here {
    fn drop(&mut self) {
        self.0.at_once.lock().unwrap().get_mut(&self.1).unwrap().0 -= 1;
    }
}

/// A receiver whose answers never end.
async fn drip() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut request = [0; 4096];
                let _read = stream.read(&mut request).await;
                let head = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n";
                let mut sent = stream.write_all(head).await;
                while sent.is_ok() {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    sent = stream.write_all(b".").await;
                }
            });
        }
    });
    url
}
