//! A receiver for tests, on a real socket, that counts connections and answers as it is told to: also wrongly.

use super::{Client, Target};
use crate::guard::{Asking, Names, Trust};
use model::Clock;
use model::document::{Endpoint, Secret};
use model::id::TenantId;
use model::webhook::Reach;
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::ServerConfig;
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio::time::{Duration, sleep};
use tokio_rustls::TlsAcceptor;

/// The test authority, and the certificate and key of `hooks.example`.
const KEYS: &[u8] = include_bytes!("../../../fixtures/keys/hooks.test-only.pem");

/// A secret of endpoints in tests.
pub(crate) const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// What a receiver does with a request.
#[derive(Clone)]
pub(crate) enum Reply {
    /// Answers this, with what else belongs to the head.
    Answer(u16, &'static str, String),
    /// Writes these bytes and goes on.
    Raw(&'static [u8]),
    /// Writes these bytes and closes the connection.
    Last(&'static [u8]),
    /// Writes this head, and then a byte now and then.
    Drip(&'static [u8]),
    /// Writes this head, and then as much as is taken.
    Endless(&'static [u8]),
    /// Says nothing.
    Hang,
}

/// An answer without a body.
pub(crate) fn status(status: u16) -> Reply {
    Reply::Answer(status, "", String::new())
}

/// An answer with this body.
pub(crate) fn body(status: u16, body: impl Into<String>) -> Reply {
    Reply::Answer(status, "", body.into())
}

/// A receiver.
pub(crate) struct Sink {
    pub(crate) address: SocketAddr,
    connections: Arc<AtomicUsize>,
    /// Of `Endless`, how many bytes were taken.
    pub(crate) taken: Arc<AtomicUsize>,
    requests: Arc<Mutex<Vec<String>>>,
    task: JoinHandle<()>,
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Sink {
    /// One on this machine; `script` is asked with the number of a request, from 0.
    pub(crate) async fn new(script: impl Fn(usize) -> Reply + Send + Sync + 'static) -> Self {
        Self::at("127.0.0.1:0", script).await
    }

    pub(crate) async fn at(
        address: &str,
        script: impl Fn(usize) -> Reply + Send + Sync + 'static,
    ) -> Self {
        Self::serve(TcpListener::bind(address).await.unwrap(), None, script)
    }

    /// One with the certificate of `hooks.example`.
    pub(crate) async fn tls(script: impl Fn(usize) -> Reply + Send + Sync + 'static) -> Self {
        let certificate = CertificateDer::pem_slice_iter(KEYS).nth(1).unwrap().unwrap();
        let key = PrivateKeyDer::from_pem_slice(KEYS).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)
            .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self::serve(listener, Some(TlsAcceptor::from(Arc::new(config))), script)
    }

    fn serve(
        listener: TcpListener,
        tls: Option<TlsAcceptor>,
        script: impl Fn(usize) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let address = listener.local_addr().unwrap();
        let connections: Arc<AtomicUsize> = Arc::default();
        let taken: Arc<AtomicUsize> = Arc::default();
        let requests: Arc<Mutex<Vec<String>>> = Arc::default();
        let at = Speaker {
            script: Arc::new(script),
            requests: Arc::clone(&requests),
            taken: Arc::clone(&taken),
        };
        let count = Arc::clone(&connections);
        let task = tokio::spawn(async move {
            loop {
                let (tcp, _) = listener.accept().await.unwrap();
                count.fetch_add(1, Ordering::SeqCst);
                let (speaker, tls) = (at.clone(), tls.clone());
                tokio::spawn(async move {
                    match tls {
                        None => speaker.speak(tcp).await,
                        Some(tls) => match tls.accept(tcp).await {
                            Ok(stream) => speaker.speak(stream).await,
                            Err(_) => None,
                        },
                    }
                });
            }
        });
        Self { address, connections, taken, requests, task }
    }

    /// How often it was connected to.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    /// The requests that came, head and body.
    pub(crate) fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/hook", self.address)
    }
}

#[derive(Clone)]
struct Speaker {
    script: Arc<dyn Fn(usize) -> Reply + Send + Sync>,
    requests: Arc<Mutex<Vec<String>>>,
    taken: Arc<AtomicUsize>,
}

impl Speaker {
    /// Answers requests until the other side is gone.
    async fn speak(self, mut stream: impl AsyncRead + AsyncWrite + Unpin) -> Option<()> {
        loop {
            let request = read(&mut stream).await?;
            let number = {
                let mut requests = self.requests.lock().unwrap();
                requests.push(request);
                requests.len() - 1
            };
            match (self.script)(number) {
                Reply::Answer(status, head, body) => {
                    let length = body.len();
                    let text = format!(
                        "HTTP/1.1 {status} x\r\ncontent-length: {length}\r\n{head}\r\n{body}"
                    );
                    stream.write_all(text.as_bytes()).await.ok()?;
                }
                Reply::Raw(bytes) => stream.write_all(bytes).await.ok()?,
                Reply::Last(bytes) => {
                    stream.write_all(bytes).await.ok()?;
                    return stream.shutdown().await.ok();
                }
                Reply::Drip(head) => {
                    stream.write_all(head).await.ok()?;
                    loop {
                        stream.write_all(b"x").await.ok()?;
                        // So slow that it is never done.
                        sleep(Duration::from_millis(20)).await;
                    }
                }
                Reply::Endless(head) => {
                    stream.write_all(head).await.ok()?;
                    loop {
                        stream.write_all(&[b'x'; 4_096]).await.ok()?;
                        self.taken.fetch_add(4_096, Ordering::SeqCst);
                    }
                }
                Reply::Hang => std::future::pending().await,
            }
        }
    }
}

async fn read(stream: &mut (impl AsyncRead + Unpin)) -> Option<String> {
    let mut bytes = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&bytes);
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| {
                line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse::<usize>().ok()
            });
            if body.len() >= length.unwrap_or(0) {
                return Some(text.into_owned());
            }
        }
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    }
}

/// A resolver that gives these answers in turn, the last one for ever, and counts.
pub(crate) struct Told {
    answers: Mutex<VecDeque<Vec<IpAddr>>>,
    pub(crate) asked: AtomicUsize,
}

impl Told {
    pub(crate) fn new(answers: &[&[&str]]) -> Arc<Self> {
        let addresses =
            |answer: &&[&str]| answer.iter().map(|text| text.parse().unwrap()).collect();
        let answers = Mutex::new(answers.iter().map(addresses).collect());
        Arc::new(Self { answers, asked: AtomicUsize::new(0) })
    }
}

impl Names for Told {
    fn addresses<'a>(&'a self, _: &'a str, _: &'a TenantId) -> Asking<'a> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let mut answers = self.answers.lock().unwrap();
        let answer = if answers.len() > 1 { answers.pop_front() } else { answers.front().cloned() };
        Box::pin(std::future::ready(Ok(answer.unwrap().into())))
    }
}

/// A client that may connect to these ranges beside public addresses, and trusts the test authority.
pub(crate) fn client(allow: &[&str], names: Arc<dyn Names>, clock: Clock) -> Client {
    let reach = Reach::new(allow.iter().map(|net| net.parse().unwrap()).collect());
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(KEYS).unwrap()).unwrap();
    Client::with(reach, names, Trust::new(roots).unwrap(), clock, "0.0.0").unwrap()
}

/// One that may connect to this machine.
pub(crate) fn local_client() -> Client {
    client(&["127.0.0.0/8"], Told::new(&[&["127.0.0.1"]]), Clock::system())
}

/// An endpoint with these fields beside the ones that it needs. A secret's `env` is the secret itself.
pub(crate) fn target(client: &Client, url: &str, fields: Value) -> Target {
    let mut endpoint = json!({
        "id": "a", "tenant": "acme", "url": url, "events": ["*"], "timeout": "5s",
        "secret": { "env": SECRET },
    });
    endpoint.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    let endpoint: Endpoint = serde_json::from_value(endpoint).unwrap();
    client.target(&endpoint, &reveal).unwrap()
}

pub(crate) fn reveal(secret: &Secret) -> Result<Vec<u8>, String> {
    secret.env.clone().map(String::into_bytes).ok_or_else(|| "nothing".to_owned())
}
