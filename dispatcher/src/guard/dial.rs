//! Connections to addresses that were judged.

use model::webhook::reach::Host;
use rustls::client::ClientConfig;
use rustls::pki_types::ServerName;
use rustls::{RootCertStore, crypto};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// How long one address is waited for before the next one is tried beside it (RFC 8305 §5).
const HEAD_START: Duration = Duration::from_millis(250);

/// A connection, by TLS or plain.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// The first of these addresses that takes a connection. Without any there is an error.
pub(super) async fn tcp(addresses: &[IpAddr], port: u16) -> io::Result<TcpStream> {
    let mut next = addresses.iter().map(|address| SocketAddr::new(*address, port));
    let mut attempts = JoinSet::new();
    let mut error = io::Error::new(io::ErrorKind::NotFound, "there is no address");
    if let Some(first) = next.next() {
        if next.len() == 0 {
            return open(first).await;
        }
        attempts.spawn(open(first));
    }
    while !attempts.is_empty() {
        tokio::select! {
            biased;
            Some(done) = attempts.join_next() => match done.map_err(io::Error::other).flatten() {
                Ok(stream) => return Ok(stream),
                Err(refused) => error = refused,
            },
            () = sleep(HEAD_START), if next.len() > 0 => {}
        }
        if let Some(address) = next.next() {
            attempts.spawn(open(address));
        }
    }
    Err(error)
}

async fn open(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Whose certificates are taken.
#[derive(Clone)]
pub(crate) struct Trust(TlsConnector);

/// Why nobody's are.
#[derive(Debug, thiserror::Error)]
#[error("TLS to endpoints cannot be set up: {0}")]
pub(crate) struct TrustError(#[from] rustls::Error);

impl Trust {
    /// The certificate authorities that this system trusts. Where there is none, every certificate is refused.
    pub(crate) fn of_the_system() -> Result<Self, TrustError> {
        let mut roots = RootCertStore::empty();
        let found = rustls_native_certs::load_native_certs();
        for error in &found.errors {
            tracing::warn!(%error, "certificates of this system could not be read");
        }
        let (added, _) = roots.add_parsable_certificates(found.certs);
        if added == 0 {
            tracing::warn!(
                "this system trusts no certificate authority: no endpoint can be reached by https"
            );
        }
        Self::new(roots)
    }

    /// These certificate authorities.
    pub(crate) fn new(roots: RootCertStore) -> Result<Self, TrustError> {
        let provider = Arc::new(crypto::ring::default_provider());
        let versions = ClientConfig::builder_with_provider(provider);
        let mut config = versions
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self(TlsConnector::from(Arc::new(config))))
    }

    pub(super) async fn handshake(
        &self,
        host: &Host,
        tcp: TcpStream,
    ) -> io::Result<TlsStream<TcpStream>> {
        let name = match host {
            Host::Address(address) => ServerName::from(*address),
            Host::Name(name) => ServerName::try_from(name.clone()).map_err(io::Error::other)?,
        };
        self.0.connect(name, tcp).await
    }
}
