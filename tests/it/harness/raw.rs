//! A connection on which a test says exactly what it wants, byte by byte.

use super::{Answer, PATIENCE};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use std::net::SocketAddr;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// A connection.
pub(crate) struct Raw {
    stream: TcpStream,
    received: Vec<u8>,
    said: String,
}

impl Raw {
    pub(crate) async fn to(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream, received: Vec::new(), said: String::new() }
    }

    /// Sends these bytes. Where the other side has closed already, nothing happens.
    pub(crate) async fn say(&mut self, bytes: impl AsRef<[u8]>) {
        let bytes = bytes.as_ref();
        self.said = String::from_utf8_lossy(bytes).chars().take(200).collect();
        self.stream.write_all(bytes).await.ok();
    }

    /// The next answer, 1xx included; `None` when the connection ends before a whole one.
    pub(crate) async fn hear(&mut self) -> Option<Answer> {
        self.hear_to("GET").await
    }

    /// The next answer to a request of this method.
    pub(crate) async fn hear_to(&mut self, method: &str) -> Option<Answer> {
        let heard = timeout(PATIENCE, self.read_answer(method)).await;
        heard.unwrap_or_else(|_| panic!("no answer within {PATIENCE:?} to {:?}", self.said))
    }

    /// Whether the other side closes the connection without a further byte.
    pub(crate) async fn is_closed(&mut self) -> bool {
        assert!(self.received.is_empty(), "{:?}", String::from_utf8_lossy(&self.received));
        timeout(PATIENCE, self.more()).await.is_ok_and(|more| !more)
    }

    async fn read_answer(&mut self, method: &str) -> Option<Answer> {
        let end = loop {
            if let Some(at) = find(&self.received, b"\r\n\r\n") {
                break at;
            }
            if !self.more().await {
                return None;
            }
        };
        let head = String::from_utf8_lossy(&self.received[..end]).into_owned();
        self.received.drain(..end + 4);
        let mut lines = head.split("\r\n");
        let status: u16 = lines.next()?.split(' ').nth(1)?.parse().ok()?;
        let mut headers = HeaderMap::new();
        for line in lines {
            let (name, value) = line.split_once(':')?;
            let name = HeaderName::try_from(name).unwrap();
            headers.append(name, HeaderValue::try_from(value.trim()).unwrap());
        }
        let bodiless =
            method == "HEAD" || (100..200).contains(&status) || status == 204 || status == 304;
        let length =
            headers.get("content-length").map(|value| value.to_str().unwrap().parse().unwrap());
        let body = match length {
            _ if bodiless => Bytes::new(),
            _ if headers.contains_key("transfer-encoding") => self.chunks().await?,
            Some(length) => self.take(length).await?,
            None => self.rest().await,
        };
        Some(Answer { status, headers, body, what: self.said.clone() })
    }

    async fn more(&mut self) -> bool {
        self.received.reserve(16 * 1024);
        matches!(self.stream.read_buf(&mut self.received).await, Ok(read) if read > 0)
    }

    async fn take(&mut self, length: usize) -> Option<Bytes> {
        while self.received.len() < length {
            if !self.more().await {
                return None;
            }
        }
        Some(self.received.drain(..length).collect())
    }

    async fn rest(&mut self) -> Bytes {
        while self.more().await {}
        std::mem::take(&mut self.received).into()
    }

    async fn chunks(&mut self) -> Option<Bytes> {
        let mut body = Vec::new();
        loop {
            let end = loop {
                if let Some(at) = find(&self.received, b"\r\n") {
                    break at;
                }
                if !self.more().await {
                    return None;
                }
            };
            let line = String::from_utf8_lossy(&self.received[..end]).into_owned();
            self.received.drain(..end + 2);
            let length = usize::from_str_radix(&line, 16).unwrap();
            body.extend_from_slice(&self.take(length).await?);
            assert_eq!(&*self.take(2).await?, b"\r\n");
            if length == 0 {
                return Some(body.into());
            }
        }
    }
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}

/// A body in chunks of this size, as it goes over the wire.
pub(crate) fn in_chunks(body: &[u8], size: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(body.len() + body.len() / size * 16 + 16);
    for piece in body.chunks(size) {
        bytes.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
        bytes.extend_from_slice(piece);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes.extend_from_slice(b"0\r\n\r\n");
    bytes
}
