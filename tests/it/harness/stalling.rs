//! An upstream that is a process of its own and stops in the middle of a request, so that it can be killed there.
//!
//! The process is this test program again, told by its environment to be one. Invariant: an arrival is on disk before a
//! byte of its answer is sent.

use super::journal::Journal;
use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Error, ErrorKind, Read as _, Result, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

const ADDRESS: &str = "TOLLGATE_TEST_STALLING";
const JOURNAL: &str = "TOLLGATE_TEST_STALLING_JOURNAL";
/// The header that says where to stop.
pub(crate) const STAGE: &str = "x-stops-at";

/// Where it can stop. It notes that it did.
pub(crate) const STAGES: [&str; 4] = ["head", "half-body", "body", "half-answer"];

/// An upstream that runs. Killed when dropped.
pub(crate) struct Stalling(Child);

impl Stalling {
    /// One at this address. `test` is the name of the test that first calls [`Self::serve_if_told`].
    pub(crate) fn start(test: &str, address: SocketAddr, journal: &Path) -> Self {
        // The kernel ends it with the thread that starts it.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL"]).arg(std::env::current_exe().unwrap());
        command.args([test, "--exact"]).env(ADDRESS, address.to_string()).env(JOURNAL, journal);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Self(command.spawn().unwrap())
    }

    /// Serves and never returns, in a process that was started to do so.
    pub(crate) fn serve_if_told() {
        if let (Ok(address), Some(journal)) = (std::env::var(ADDRESS), std::env::var_os(JOURNAL)) {
            serve(address.parse().unwrap(), Journal::at(Path::new(&journal)));
        }
    }
}

impl Drop for Stalling {
    fn drop(&mut self) {
        // SIGKILL. Its sockets are gone when this returns.
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

fn serve(address: SocketAddr, journal: Journal) -> ! {
    let (listener, journal) = (TcpListener::bind(address).unwrap(), Arc::new(journal));
    loop {
        let (stream, _) = listener.accept().unwrap();
        let journal = journal.clone();
        // It ends where the gateway hangs up.
        std::thread::spawn(move || answer_all(stream, &journal).ok());
    }
}

fn answer_all(stream: TcpStream, journal: &Journal) -> Result<()> {
    let mut connection = BufReader::new(stream);
    loop {
        let (method, headers) = head(&mut connection)?;
        let header = |name: &str| headers.get(name).map_or("", String::as_str);
        let (key, stage) = (header("x-order"), header(STAGE));
        let length: u64 = header("content-length").parse().unwrap_or(0);
        if method == "POST" {
            journal.write(&format!("{key} arrived"));
        }
        let read = match stage {
            "head" => 0,
            "half-body" => length / 2,
            _ => length,
        };
        std::io::copy(&mut connection.by_ref().take(read), &mut std::io::sink())?;
        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\nanswered";
        match stage {
            "" => connection.get_mut().write_all(answer)?,
            "half-answer" => connection.get_mut().write_all(&answer[..answer.len() - 4])?,
            _ => {}
        }
        if !stage.is_empty() {
            journal.write(&format!("{key} {stage}"));
            loop {
                std::thread::park();
            }
        }
    }
}

/// The method and the headers of the next request.
fn head(connection: &mut BufReader<TcpStream>) -> Result<(String, BTreeMap<String, String>)> {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if connection.read_line(&mut line)? == 0 {
            return Err(Error::from(ErrorKind::UnexpectedEof));
        }
        match line.trim_end() {
            "" => break,
            line => lines.push(line.to_owned()),
        }
    }
    let method = lines[0].split(' ').next().unwrap().to_owned();
    let header = |line: &String| {
        let (name, value) = line.split_once(':').unwrap();
        (name.to_ascii_lowercase(), value.trim().to_owned())
    };
    Ok((method, lines.iter().skip(1).map(header).collect()))
}
