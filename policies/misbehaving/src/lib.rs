//! A pack for the host's tests: `how` chooses in which way it misbehaves, or what it answers.
#![allow(clippy::panic, clippy::indexing_slicing, reason = "misbehaving is what it is for")]

use std::sync::atomic::{AtomicU64, Ordering};
use std::{collections::BTreeMap, hint::black_box};
use tollgate_pack::{Answer, Decision, Denial, Edits, Policy, Request, Response, log};

#[tollgate_pack::settings]
#[serde(tag = "how", rename_all = "kebab-case")]
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
    /// Has the host hand over the body this many times, then continues.
    Devour { times: u32 },
    /// Asks this many times for a parameter that is not in the query, then continues.
    Query { times: u32 },
    /// Sets a header to this value this many times.
    Set { name: String, value: String, times: usize },
    /// Puts this, so many times over, in the body's place.
    Rewrite { body: String, times: usize },
    /// Answers with these parts.
    Answer { status: u16, headers: Vec<(String, String)>, body: String },
    /// Denies with these parts; details are JSON texts, or should be.
    Deny { status: u16, reason: String, details: Vec<(String, String)> },
    /// Refuses its settings with this message.
    Reject { message: String },
    /// Never returns from its configuration.
    SpinInConfigure,
    /// Panics in its configuration.
    PanicInConfigure,
    /// Allocates without end in its configuration.
    HoardInConfigure,
    /// Counts its decisions in a global and puts the count into the header `x-count`.
    Count,
    /// Denies with everything that the exchange tells; values of headers and parameters of these names.
    Echo { names: Vec<String> },
    /// Denies with what the capabilities tell of these zones, keys and counters, and so many random numbers.
    Ask {
        #[serde(default)]
        zones: Vec<String>,
        #[serde(default)]
        keys: Vec<String>,
        #[serde(default)]
        counters: Vec<(String, u64)>,
        #[serde(default)]
        random: u32,
    },
    /// Costs this much.
    Cost { units: u32 },
    /// Does as the request's header `x-how` says: one of these, as JSON.
    Told,
    /// Sets this header to its mark.
    Mark { name: String },
    /// Does what its mark counts to.
    Marked { ways: Vec<Self> },
}

/// What a test changes in the pack's bytes, so that two versions of it differ under the same settings: the last digit.
static MARK: [u8; 16] = *b"tollgate-mark: 0";

/// What is hoarded at a time.
const HOARDED: usize = 64 << 10;

static COUNT: AtomicU64 = AtomicU64::new(0);

#[tollgate_pack::pack]
impl Policy for Misbehave {
    type Settings = Self;

    fn new(settings: Self) -> Result<Self, String> {
        log::report_panics();
        match settings {
            Self::Reject { message } => Err(message),
            Self::SpinInConfigure => spin(),
            Self::PanicInConfigure => panic!("in configure"),
            Self::HoardInConfigure => {
                hoard(usize::MAX);
                Ok(settings)
            }
            settings => Ok(settings),
        }
    }

    fn on_request(&self, request: &Request) -> Decision {
        match self {
            Self::Echo { names } => echo(request, names).into(),
            how => how.act(request, None),
        }
    }

    fn on_response(&self, request: &Request, response: &Response) -> Decision {
        match self {
            Self::Echo { names } => echo_response(echo(request, names), response, names).into(),
            how => how.act(request, Some(response)),
        }
    }

    fn cost(&self, request: &Request) -> u32 {
        match self {
            Self::Cost { units } => *units,
            Self::Count => u32::try_from(count()).unwrap_or(u32::MAX),
            how => match how.act(request, None) {
                Decision::Continue => request.body().map_or(1, |_| 0),
                _ => 2,
            },
        }
    }
}

impl Misbehave {
    fn act(&self, request: &Request, response: Option<&Response>) -> Decision {
        match self {
            Self::Spin
            | Self::SpinInConfigure
            | Self::PanicInConfigure
            | Self::HoardInConfigure
            | Self::Reject { .. } => spin(),
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
                hoard(bytes.unwrap_or(usize::MAX));
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
            Self::Devour { times } => {
                let body = || response.map_or_else(|| request.body(), Response::body);
                (0..*times).for_each(|_| drop(black_box(body())));
                Decision::Continue
            }
            Self::Query { times } => {
                (0..*times).for_each(|_| drop(black_box(request.query_param("no"))));
                Decision::Continue
            }
            Self::Set { name, value, times } => {
                (0..*times).fold(Edits::new(), |edits, _| edits.set(name, value.as_str())).into()
            }
            Self::Rewrite { body, times } => Edits::new().body(body.repeat(*times)).into(),
            Self::Answer { status, headers, body } => {
                let add = |answer: Answer, (name, value): &(String, String)| {
                    answer.header(name, value.as_str())
                };
                headers.iter().fold(Answer::new(*status), add).body(body.as_str()).into()
            }
            Self::Deny { status, reason, details } => {
                let mut denial = Denial::new(reason, "As the settings say.").status(*status);
                denial.details.clone_from(details);
                denial.into()
            }
            Self::Count => Edits::new().set("x-count", count().to_string()).into(),
            Self::Told => told(request).act(request, response),
            Self::Ask { zones, keys, counters, random } => {
                ask(request, zones, keys, counters, *random).into()
            }
            Self::Mark { name } => Edits::new().set(name, mark().to_string()).into(),
            Self::Marked { ways } => match ways.get(usize::from(mark())) {
                Some(way) => way.act(request, response),
                None => Decision::Continue,
            },
            Self::Echo { .. } | Self::Cost { .. } => Decision::Continue,
        }
    }
}

fn mark() -> u8 {
    black_box(&MARK)[15] - b'0'
}

fn told(request: &Request) -> Misbehave {
    let how = request.header("x-how").unwrap_or_default();
    match tollgate_pack::serde_json::from_slice(&how) {
        Ok(how) => how,
        Err(error) => panic!("x-how: {error}"),
    }
}

fn count() -> u64 {
    COUNT.fetch_add(1, Ordering::Relaxed) + 1
}

fn hoard(bytes: usize) {
    let mut hoard = Vec::new();
    while hoard.len() * HOARDED <= bytes {
        hoard.push(black_box(Vec::<u8>::with_capacity(HOARDED)));
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
        .detail("body", request.body())
        .detail("body_size", request.body_size())
        .detail("client_address", request.client_address())
        .detail("route", request.route())
        .detail("version", request.version())
        .detail("tenant", request.tenant())
        .detail("plan", request.plan())
        .detail("consumer", request.consumer())
        .detail("scopes", request.scopes())
        .detail("claim", each(&|name| request.claim(name).map(String::into_bytes)))
}

fn echo_response(denial: Denial, response: &Response, names: &[String]) -> Denial {
    let one = |name: &String| (name.clone(), response.header(name));
    let all = |name: &String| (name.clone(), response.headers_all(name));
    denial
        .detail("response_status", response.status())
        .detail("response_header", names.iter().map(one).collect::<BTreeMap<_, _>>())
        .detail("response_headers_all", names.iter().map(all).collect::<BTreeMap<_, _>>())
        .detail("response_header_names", response.header_names())
        .detail("response_body", response.body())
}

fn ask(
    request: &Request,
    zones: &[String],
    keys: &[String],
    counters: &[(String, u64)],
    random: u32,
) -> Denial {
    let local = |zone: Option<&str>| request.local_time(zone).map(|time| format!("{time:?}"));
    let zones: Vec<_> = zones.iter().map(|zone| local(Some(zone))).collect();
    let keys: Vec<_> = keys.iter().map(|key| request.data(key)).collect();
    let counters: Vec<_> = counters.iter().map(|(name, by)| request.count(name, *by)).collect();
    let random: Vec<_> = (0..random).map(|_| request.random()).collect();
    Denial::new("ask", "What the capabilities tell.")
        .detail("now", request.now())
        .detail("here", local(None))
        .detail("zones", zones)
        .detail("keys", keys)
        .detail("counters", counters)
        .detail("random", random)
}
