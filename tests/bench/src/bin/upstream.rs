//! What stands behind every proxy of the bench: it answers each request with the same JSON, as fast as it can.
//!
//! `bench-upstream LISTEN THREADS BYTES`

use axum::Router;
use axum::body::Bytes;
use axum::http::header::CONTENT_TYPE;
use axum::serve::ListenerExt as _;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let [_, listen, threads, bytes] = <[String; 4]>::try_from(std::env::args().collect::<Vec<_>>())
        .map_err(|_| "usage: bench-upstream LISTEN THREADS BYTES")?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads.parse()?)
        .enable_all()
        .build()?;
    runtime.block_on(serve(&listen, json(bytes.parse()?)))?;
    Ok(())
}

async fn serve(listen: &str, body: Bytes) -> std::io::Result<()> {
    let listener = tokio::net::TcpListener::bind(listen).await?;
    // Without it, some answers would wait for an acknowledgement.
    let listener = listener.tap_io(|connection| drop(connection.set_nodelay(true)));
    // A body that nobody reads would cost its connection.
    let answer =
        move |_: Bytes| std::future::ready(([(CONTENT_TYPE, "application/json")], body.clone()));
    axum::serve(listener, Router::new().fallback(answer)).await
}

/// A JSON object of exactly this size.
fn json(bytes: usize) -> Bytes {
    let (head, tail) = (r#"{"notes":""#, r#""}"#);
    let filling = bytes.saturating_sub(head.len() + tail.len());
    format!("{head}{}{tail}", "x".repeat(filling)).into()
}
