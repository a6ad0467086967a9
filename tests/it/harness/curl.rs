//! Clients that are processes, so that they can be killed.

use super::Answer;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use std::process::{Child, Command, Stdio};
use tokio::task::spawn_blocking;

/// How long a client waits for an answer, in seconds: it ends by itself.
const PATIENCE: &str = "60";

/// A `curl` that runs. It sends one request.
pub(crate) struct Curl {
    process: Child,
    what: String,
}

impl Curl {
    /// POST of this body with these headers.
    pub(crate) fn post(url: &str, headers: &[(&str, &str)], body: &str) -> Self {
        // The kernel ends it with the thread that starts it.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "curl", "--silent", "--include", "--noproxy", "*"]);
        command.args(["--max-time", PATIENCE, "--data-binary", body]);
        for (name, value) in headers {
            command.args(["--header", &format!("{name}: {value}")]);
        }
        command.arg(url).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        Self { process: command.spawn().unwrap(), what: format!("POST {url}, by curl") }
    }

    /// Its process.
    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }

    /// What it was answered; nothing where it was killed, or got no whole answer.
    pub(crate) async fn answer(self) -> Option<Answer> {
        let Self { process, what } = self;
        let output = spawn_blocking(|| process.wait_with_output()).await.unwrap().unwrap();
        output.status.success().then(|| read(&output.stdout, what))
    }
}

/// A head as it was received, and the body.
fn read(told: &[u8], what: String) -> Answer {
    let end = told.windows(4).position(|bytes| bytes == b"\r\n\r\n").unwrap();
    let head = std::str::from_utf8(&told[..end]).unwrap();
    let (first, lines) = head.split_once("\r\n").unwrap();
    let header = |line: &str| {
        let (name, value) = line.split_once(':').unwrap();
        (name.parse::<HeaderName>().unwrap(), value.trim().parse::<HeaderValue>().unwrap())
    };
    let mut headers = HeaderMap::new();
    for (name, value) in lines.split("\r\n").map(header) {
        headers.append(name, value);
    }
    let status = first.split(' ').nth(1).unwrap().parse().unwrap();
    Answer { status, headers, body: Bytes::copy_from_slice(&told[end + 4..]), what }
}
