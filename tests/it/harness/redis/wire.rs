//! A way to a server that takes as long as a test says.

use crate::harness::ports::{free, local};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

/// Pieces that are on their way.
const PIECES_MAX: usize = 1_000;

/// Passes on what comes, later. Answers are what is late.
pub(crate) struct Wire {
    pub(crate) address: SocketAddr,
    delay: Arc<AtomicU64>,
    cut: watch::Sender<()>,
    _serving: JoinSet<()>,
}

impl Wire {
    /// One to this server, without delay.
    pub(crate) async fn to(server: SocketAddr) -> Self {
        let address = local(free(1));
        let listener = TcpListener::bind(address).await.unwrap();
        let delay = Arc::new(AtomicU64::new(0));
        let cut = watch::Sender::new(());
        let mut serving = JoinSet::new();
        serving.spawn(accept(listener, server, delay.clone(), cut.clone()));
        Self { address, delay, cut, _serving: serving }
    }

    /// From now on each answer takes so much longer.
    pub(crate) fn delays(&self, delay: Duration) {
        self.delay.store(u64::try_from(delay.as_millis()).unwrap(), Ordering::Relaxed);
    }

    /// Closes every connection, whatever is on its way.
    pub(crate) fn cut(&self) {
        self.cut.send_replace(());
    }
}

async fn accept(
    listener: TcpListener,
    server: SocketAddr,
    delay: Arc<AtomicU64>,
    cut: watch::Sender<()>,
) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let (client, _) = accepted.unwrap();
                connections.spawn(connect(client, server, delay.clone(), cut.subscribe()));
            }
            Some(ended) = connections.join_next() => ended.unwrap(),
        }
    }
}

async fn connect(
    mut client: TcpStream,
    server: SocketAddr,
    delay: Arc<AtomicU64>,
    mut cut: watch::Receiver<()>,
) {
    let Ok(mut server) = TcpStream::connect(server).await else { return };
    client.set_nodelay(true).unwrap();
    server.set_nodelay(true).unwrap();
    let (from_client, to_client) = client.split();
    let (from_server, to_server) = server.split();
    let at_once = Arc::new(AtomicU64::new(0));
    // Whichever side ends first, the other one is closed.
    tokio::select! {
        () = pass(from_client, to_server, &at_once) => {}
        () = pass(from_server, to_client, &delay) => {}
        _ = cut.changed() => {}
    }
}

async fn pass(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    delay: &AtomicU64,
) {
    let (sender, mut pieces) = mpsc::channel::<(Instant, Vec<u8>)>(PIECES_MAX);
    let read = async move {
        let mut buffer = vec![0; 16 * 1024];
        while let Ok(length @ 1..) = from.read(&mut buffer).await {
            let due = Instant::now() + Duration::from_millis(delay.load(Ordering::Relaxed));
            if sender.send((due, buffer[..length].to_vec())).await.is_err() {
                return;
            }
        }
    };
    let write = async move {
        while let Some((due, piece)) = pieces.recv().await {
            sleep_until(due).await;
            if to.write_all(&piece).await.is_err() {
                return;
            }
        }
    };
    tokio::join!(read, write);
}
