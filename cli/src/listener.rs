//! HTTP for operators: admin and the status endpoints.
//!
//! Invariant: whoever connects without a token holds a bounded number of connections for a bounded time: each is given up
//! when the head of its next request has not come in time, and beyond the bound nobody is accepted until one ends.

use axum::Router;
use axum::extract::ConnectInfo;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

/// How many connections one listener holds.
const CONNECTIONS_MAX: usize = 512;
/// How long a connection may take to send the head of its next request; idle ones end after it, too.
const HEAD_DEADLINE: Duration = Duration::from_secs(10);
/// How long a listener pauses when the process has no more file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves until it is stopped, then lets requests end.
pub(crate) async fn serve(
    listener: TcpListener,
    router: Router,
    mut stopped: watch::Receiver<bool>,
) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let graceful = GracefulShutdown::new();
    loop {
        let accepted = tokio::select! {
            // A closed channel means that the process is ending, too.
            _ = stopped.wait_for(|stop| *stop) => break,
            accepted = accept(&listener, &places) => accepted,
        };
        match accepted {
            Ok((stream, client, place)) => {
                let connection = connection(stream, client, router.clone());
                let connection = graceful.watch(connection);
                tokio::spawn(async move {
                    // A connection that breaks off is its client's matter.
                    connection.await.unwrap_or_default();
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    graceful.shutdown().await;
}

async fn accept(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
) -> std::io::Result<(TcpStream, SocketAddr, OwnedSemaphorePermit)> {
    let place = places.clone().acquire_owned().await.map_err(std::io::Error::other)?;
    let (stream, client) = listener.accept().await?;
    Ok((stream, client, place))
}

/// A connection whose requests know from where they come: the audit says it.
fn connection(
    stream: TcpStream,
    client: SocketAddr,
    router: Router,
) -> http1::Connection<TokioIo<TcpStream>, TowerToHyperService<Router>> {
    let service = router.layer(axum::Extension(ConnectInfo(client)));
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD_DEADLINE);
    http.serve_connection(TokioIo::new(stream), TowerToHyperService::new(service))
}
