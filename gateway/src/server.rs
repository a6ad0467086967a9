//! pingora's server around the edge, with a shutdown of our own: stop accepting, let exchanges end, leave early.

use crate::gateway::Gateway;
use crate::proxy::Edge;
use async_trait::async_trait;
use pingora::server::configuration::ServerConf;
use pingora::server::{RunArgs, Server, ShutdownSignal, ShutdownSignalWatch};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// How long exchanges may take to end at shutdown; what still runs then is cut off.
pub const GRACE: Duration = Duration::from_secs(30);
/// Idle connections kept to upstreams, per thread.
const UPSTREAM_POOL_PER_THREAD: usize = 256;
/// Tries of pingora's own loop; `fail_to_connect` sets the real bound.
const TRIES_MAX: usize = 4;

/// Where and how the edge listens.
#[derive(Clone, Debug)]
pub struct Listen {
    /// The address.
    pub address: SocketAddr,
    /// Worker threads.
    pub threads: usize,
}

struct Signal(watch::Receiver<bool>);

#[async_trait]
impl ShutdownSignalWatch for Signal {
    async fn recv(&self) -> ShutdownSignal {
        let mut stop = self.0.clone();
        // A closed channel means that the process is ending, too.
        let _ = stop.wait_for(|stop| *stop).await;
        ShutdownSignal::GracefulTerminate
    }
}

/// Starts the edge on threads of its own. It stops accepting when `stop` turns true; the caller then waits for
/// [`drained`] and ends the process, as pingora's own grace is a sleep that nothing shortens.
pub fn start(
    gateway: Arc<Gateway>,
    listen: &Listen,
    stop: watch::Receiver<bool>,
) -> std::io::Result<()> {
    let conf = ServerConf {
        threads: listen.threads,
        upstream_keepalive_pool_size: UPSTREAM_POOL_PER_THREAD * listen.threads,
        grace_period_seconds: Some(GRACE.as_secs()),
        graceful_shutdown_timeout_seconds: Some(1),
        max_retries: TRIES_MAX,
        ..ServerConf::default()
    };
    let mut server = Server::new_with_opt_and_conf(None, conf);
    let mut service = pingora::proxy::http_proxy_service(&server.configuration, Edge::new(gateway));
    service.add_tcp(&listen.address.to_string());
    server.add_service(service);
    std::thread::Builder::new().name("edge".to_owned()).spawn(move || {
        server.bootstrap();
        server.run(RunArgs { shutdown_signal: Box::new(Signal(stop)) });
    })?;
    Ok(())
}

/// Waits until no exchange is in progress, at most for [`GRACE`].
pub async fn drained(gateway: &Gateway) {
    let idle = async {
        while gateway.metrics.in_flight() > 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    if tokio::time::timeout(GRACE, idle).await.is_err() {
        tracing::warn!(
            in_flight = gateway.metrics.in_flight(),
            "exchanges were cut off at shutdown"
        );
    }
}
