//! The servers that `make test` starts answer: where they don't, this says so before the tests that need them.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

/// A connection to the server that this variable names.
fn connected(variable: &str) -> TcpStream {
    let url = std::env::var(variable).unwrap_or_else(|_| {
        panic!("{variable} is not set: run the tests by `make test`, which starts the servers")
    });
    let (_, rest) = url.split_once("://").unwrap();
    let authority = rest.split('/').next().unwrap();
    let address = authority.rsplit('@').next().unwrap();
    let stream = TcpStream::connect(address)
        .unwrap_or_else(|error| panic!("{variable} ({address}): {error}"));
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    stream
}

#[test]
fn redis_answers() {
    let mut redis = connected("TOLLGATE_TEST_REDIS");
    redis.write_all(b"*1\r\n$4\r\nPING\r\n").unwrap();
    let mut pong = [0; 7];
    redis.read_exact(&mut pong).unwrap();
    assert_eq!(&pong, b"+PONG\r\n");
}

#[test]
fn postgres_answers() {
    let mut postgres = connected("TOLLGATE_TEST_POSTGRES");
    // SSLRequest: its length, and the code that asks for TLS. The answer is one letter, yes or no.
    let request = [8_i32.to_be_bytes(), 80_877_103_i32.to_be_bytes()].concat();
    postgres.write_all(&request).unwrap();
    let mut answer = [0];
    postgres.read_exact(&mut answer).unwrap();
    assert!(matches!(&answer, b"N" | b"S"), "{answer:?}");
}
