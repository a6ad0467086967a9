//! A bare pingora proxy: what the gateway stands on, without the gateway. Same pingora, same allocator, same pool sizes.
//!
//! `bench-bare LISTEN UPSTREAM THREADS`

use async_trait::async_trait;
use pingora::modules::http::HttpModules;
use pingora::prelude::*;
use pingora::proxy::{ProxyHttp, Session, http_proxy_service};
use pingora::server::configuration::ServerConf;
use std::net::SocketAddr;
use std::time::Duration;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// As in the gateway, which has its upstreams' timeouts from the document.
const POOL_PER_THREAD: usize = 256;
const CONNECT_MAX: Duration = Duration::from_secs(1);
const READ_MAX: Duration = Duration::from_secs(10);

struct Bare(SocketAddr);

#[async_trait]
impl ProxyHttp for Bare {
    type CTX = ();

    fn new_ctx(&self) {}

    fn init_downstream_modules(&self, _: &mut HttpModules) {}

    async fn upstream_peer(&self, _: &mut Session, (): &mut ()) -> Result<Box<HttpPeer>> {
        let mut peer = HttpPeer::new(self.0, false, String::new());
        peer.options.connection_timeout = Some(CONNECT_MAX);
        peer.options.total_connection_timeout = Some(CONNECT_MAX);
        peer.options.read_timeout = Some(READ_MAX);
        peer.options.write_timeout = Some(READ_MAX);
        Ok(Box::new(peer))
    }
}

fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
    let [_, listen, upstream, threads] =
        <[String; 4]>::try_from(std::env::args().collect::<Vec<_>>())
            .map_err(|_| "usage: bench-bare LISTEN UPSTREAM THREADS")?;
    let threads = threads.parse()?;
    let conf = ServerConf {
        threads,
        upstream_keepalive_pool_size: POOL_PER_THREAD * threads,
        ..ServerConf::default()
    };
    let mut server = Server::new_with_opt_and_conf(None, conf);
    server.bootstrap();
    let mut service = http_proxy_service(&server.configuration, Bare(upstream.parse()?));
    service.add_tcp(&listen);
    server.add_service(service);
    server.run_forever()
}
