//! A pack for the host's tests: `how` chooses in which way it misbehaves, or what it answers.
#![allow(clippy::panic, clippy::indexing_slicing, reason = "misbehaving is what it is for")]

use std::sync::atomic::{AtomicU64, Ordering};
use std::{collections::BTreeMap, hint::black_box};
use tollgate_pack::{Decision, Denial, HeaderEdit, Policy, Request, log, pack};

#[derive(serde::Deserialize)]
#[serde(tag = "how", rename_all = "kebab-case", deny_unknown_fields)]
enum Misbehave {
    /// Never returns.
    Spin,
    /// Hashes the path this many times, then continues.
    Work { rounds: u32 },
    /// Panics with this message.
    Panic { message: String },
    /// Calls itself without end.
    Recurse,
    /// Allocates this much at least, or without end.
    Hoard { bytes: Option<usize> },
    /// Calls the host without end.
    Storm,
    /// Writes this many lines to the log, then continues.
    Chatter { lines: u32, line: String },
    /// Hands the host one name of this many bytes.
    LongName { bytes: usize },
    /// Sets a header to this value this many times.
    Set { name: String, value: String, times: usize },
    /// Denies with these parts; details are JSON texts, or should be.
    Deny { status: u16, reason: String, details: Vec<(String, String)> },
    /// Refuses its settings with this message.
    Reject { message: String },
    /// Never returns from its configuration.
    SpinInConfigure,
    /// Counts its decisions in a global and puts the count into the header `x-count`.
    Count,
    /// Denies with everything that the request tells; values of headers and parameters of these names.
    Echo { names: Vec<String> },
}

pack!(Misbehave);

/// What is hoarded at a time.
const HOARDED: usize = 64 << 10;

static COUNT: AtomicU64 = AtomicU64::new(0);

impl Policy for Misbehave {
    type Settings = Self;

    fn new(settings: Self) -> Result<Self, String> {
        match settings {
            Self::Reject { message } => Err(message),
            Self::SpinInConfigure => spin(),
            settings => Ok(settings),
        }
    }

    fn on_request(&self, request: &Request) -> Decision {
        match self {
            Self::Spin | Self::SpinInConfigure | Self::Reject { .. } => spin(),
            Self::Work { rounds } => {
                black_box(work(request.path().as_bytes(), *rounds));
                Decision::Continue
            }
            Self::Panic { message } => panic!("{message}"),
            Self::Recurse => {
                black_box(recurse(1));
                Decision::Continue
            }
            Self::Hoard { bytes } => {
                let mut hoard = Vec::new();
                while hoard.len() * HOARDED <= bytes.unwrap_or(usize::MAX) {
                    hoard.push(black_box(Vec::<u8>::with_capacity(HOARDED)));
                }
                Decision::Continue
            }
            Self::Storm => loop {
                black_box(request.method());
            },
            Self::Chatter { lines, line } => {
                (0..*lines).for_each(|_| log::info(line));
                Decision::Continue
            }
            Self::LongName { bytes } => {
                black_box(request.header(&"n".repeat(*bytes)));
                Decision::Continue
            }
            Self::Set { name, value, times } => {
                vec![HeaderEdit::set(name, value.as_str()); *times].into()
            }
            Self::Deny { status, reason, details } => {
                let mut denial = Denial::new(reason, "As the settings say.").status(*status);
                denial.details.clone_from(details);
                denial.into()
            }
            Self::Count => {
                let count = COUNT.fetch_add(1, Ordering::Relaxed) + 1;
                vec![HeaderEdit::set("x-count", count.to_string())].into()
            }
            Self::Echo { names } => echo(request, names).into(),
        }
    }
}

fn spin() -> ! {
    let mut turns = 0_u64;
    loop {
        turns = black_box(turns).wrapping_add(1);
    }
}

/// FNV-1a, over and over.
fn work(bytes: &[u8], rounds: u32) -> u64 {
    (0..rounds).fold(0xcbf2_9ce4_8422_2325, |hash, _| {
        bytes
            .iter()
            .fold(hash, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
    })
}

#[allow(unconditional_recursion, reason = "it must exhaust the stack")]
fn recurse(depth: u64) -> u64 {
    let frame = black_box([depth; 32]);
    recurse(depth + 1) + frame[31]
}

fn echo(request: &Request, names: &[String]) -> Denial {
    let each = |get: &dyn Fn(&str) -> Option<Vec<u8>>| -> BTreeMap<String, Option<Vec<u8>>> {
        names.iter().map(|name| (name.clone(), get(name))).collect()
    };
    let all = |name: &String| (name.clone(), request.headers_all(name));
    Denial::new("echo", "What the request tells.")
        .detail("method", request.method())
        .detail("path", request.path())
        .detail("query", request.query())
        .detail("query_param", each(&|name| request.query_param(name).map(String::into_bytes)))
        .detail("header", each(&|name| request.header(name)))
        .detail("headers_all", names.iter().map(all).collect::<BTreeMap<_, _>>())
        .detail("header_names", request.header_names())
        .detail("client_address", request.client_address())
        .detail("route", request.route())
        .detail("version", request.version())
        .detail("tenant", request.tenant())
        .detail("consumer", request.consumer())
        .detail("scopes", request.scopes())
        .detail("claim", each(&|name| request.claim(name).map(String::into_bytes)))
}
