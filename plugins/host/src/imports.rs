//! The functions that packs call: the exchange, lazily, and what the capabilities name.
//!
//! Invariant: every one of them is charged, by the call and by the byte. They are linked by hand and not generated from
//! WIT, because names can then be read where the guest has them and values handed over where the exchange has them.

use std::sync::Arc;

use bytes::Bytes;
use http::HeaderMap;
use jiff::tz::TimeZone;
use model::document::PhaseName;
use wasmtime::component::{
    ComponentType, Lift, Linker, LinkerInstance, Lower, Resource, ResourceType, WasmStr,
};
use wasmtime::{Result, StoreContextMut};

use crate::call::{Asked, Call, NothingAsked, charge, charge_call};
use crate::package::BodyOf;
use crate::random::Random;
use crate::request::{PolicyRequest, PolicyResponse};

/// The longest log line in bytes; the rest is cut.
const MAX_LOG_LINE: usize = 1024;

/// What finding a time zone by its name costs, beside the call: it may have to be read (about 1 µs when it was before).
const FUEL_OF_A_ZONE: usize = 2_000;

/// What reading a byte of the query costs: it is decoded, not copied.
const FUEL_PER_PARSED_BYTE: usize = 4;

/// Offers everything. What a pack may import of it, its manifest says; that is checked when it is packed and compiled.
pub(crate) fn link(linker: &mut Linker<Call>) -> Result<()> {
    exchange(&mut linker.instance("tollgate:policy/exchange@1.0.0")?)?;
    linker.instance("tollgate:policy/log@1.0.0")?.func_wrap("write", write)?;
    let mut clock = linker.instance("tollgate:policy/clock@1.0.0")?;
    clock.func_wrap("now", now)?;
    clock.func_wrap("local", local)?;
    linker.instance("tollgate:policy/random@1.0.0")?.func_wrap("next", next)?;
    linker.instance("tollgate:policy/data@1.0.0")?.func_wrap("get", get)?;
    linker.instance("tollgate:policy/counters@1.0.0")?.func_wrap("add", add)
}

/// What stands behind a guest's handle. A call sees one request and one response, so the handle's value says nothing.
pub(crate) trait Handle: 'static {
    /// The resource's name.
    const NAME: &str;
    /// What it tells of.
    type Target;

    fn target(asked: &Asked) -> Result<&Self::Target, NothingAsked>;
}

/// The handle of the request.
pub(crate) enum TheRequest {}

impl Handle for TheRequest {
    const NAME: &str = "request";
    type Target = PolicyRequest;

    fn target(asked: &Asked) -> Result<&PolicyRequest, NothingAsked> {
        Ok(&asked.request)
    }
}

/// The handle of the response.
pub(crate) enum TheResponse {}

impl Handle for TheResponse {
    const NAME: &str = "response";
    type Target = PolicyResponse;

    fn target(asked: &Asked) -> Result<&PolicyResponse, NothingAsked> {
        asked.response.as_deref().ok_or(NothingAsked)
    }
}

fn exchange(exchange: &mut LinkerInstance<'_, Call>) -> Result<()> {
    let mut request = Getters::<TheRequest>::of(exchange)?;
    request.tell("method", |request, _| request.head.method.as_str().to_owned())?;
    request.tell("path", |request, _| request.head.path.clone())?;
    request.tell("query", |request, _| request.head.query.clone())?;
    request.find("header", |request, name| header(&request.head.headers, lent(name)?))?;
    request.find("headers-all", |request, name| {
        lent(name).map(|name| headers_all(&request.head.headers, name)).unwrap_or_default()
    })?;
    request.tell("header-names", |request, _| {
        let names = request.head.headers.keys().filter_map(|name| lent(name.as_str()));
        names.map(str::to_owned).collect::<Vec<_>>()
    })?;
    request.tell("body", |request, asked| {
        let shown =
            asked.phase != PhaseName::Cost && asked.about.manifest.body.contains(&BodyOf::Request);
        shown.then(|| request.body.clone()).flatten()
    })?;
    request.tell("body-size", |request, _| request.body_size)?;
    request.tell("client-address", |request, _| request.head.client.to_string())?;
    request.tell("route", |request, _| request.route.as_str().to_owned())?;
    request.tell("version", |request, _| request.version.as_str().to_owned())?;
    request.tell("tenant", |request, _| request.identity.tenant.as_str().to_owned())?;
    request.tell("plan", |request, _| request.plan.as_str().to_owned())?;
    request.tell("consumer", |request, _| request.identity.consumer.as_str().to_owned())?;
    request.tell("scopes", |request, _| request.identity.scopes.clone())?;
    request.find("claim", |request, name| {
        request.identity.claims.get(name).map(ToString::to_string)
    })?;

    exchange.func_wrap("[method]request.query-param", query_param)?;

    let mut response = Getters::<TheResponse>::of(exchange)?;
    response.tell("status", |response, _| response.status.as_u16())?;
    response.find("header", |response, name| header(&response.headers, name))?;
    response.find("headers-all", |response, name| headers_all(&response.headers, name))?;
    response.tell("header-names", |response, _| {
        response.headers.keys().map(|name| name.as_str().to_owned()).collect::<Vec<_>>()
    })?;
    response.tell("body", |response, asked| {
        let shown = asked.about.manifest.body.contains(&BodyOf::Response);
        shown.then(|| response.body.clone()).flatten()
    })
}

/// The getters of a resource.
struct Getters<'a, 'b, H> {
    exchange: &'a mut LinkerInstance<'b, Call>,
    of: std::marker::PhantomData<H>,
}

impl<'a, 'b, H: Handle> Getters<'a, 'b, H> {
    fn of(exchange: &'a mut LinkerInstance<'b, Call>) -> Result<Self> {
        // Only borrowed handles are ever lent, and those have nothing to free.
        exchange.resource(H::NAME, ResourceType::host::<H>(), |_, _| Ok(()))?;
        Ok(Self { exchange, of: std::marker::PhantomData })
    }

    /// A getter without arguments.
    fn tell<R: Given>(
        &mut self,
        name: &str,
        get: impl Fn(&H::Target, &Asked) -> R + Send + Sync + 'static,
    ) -> Result<()> {
        let name = format!("[method]{}.{name}", H::NAME);
        self.exchange.func_wrap(&name, move |mut store, (_,): (Resource<H>,)| {
            charge_call(&mut store)?;
            let asked = store.data().asked()?;
            let given = get(H::target(asked)?, asked);
            charge(&mut store, given.bytes())?;
            Ok((given,))
        })
    }

    /// A getter that is given a name.
    fn find<R: Given>(
        &mut self,
        name: &str,
        get: impl Fn(&H::Target, &str) -> R + Send + Sync + 'static,
    ) -> Result<()> {
        let name = format!("[method]{}.{name}", H::NAME);
        self.exchange.func_wrap(&name, move |mut store, (_, name): (Resource<H>, WasmStr)| {
            charge_call(&mut store)?;
            let name = name.to_str(&store)?;
            let given = get(H::target(store.data().asked()?)?, &name);
            let bytes = name.len() + given.bytes();
            drop(name);
            charge(&mut store, bytes)?;
            Ok((given,))
        })
    }
}

type Store<'a> = StoreContextMut<'a, Call>;

fn write(mut store: Store<'_>, (level, message): (Level, WasmStr)) -> Result<()> {
    charge_call(&mut store)?;
    let message = message.to_str(&store)?;
    let bytes = message.len();
    let cut = message.get(..message.floor_char_boundary(MAX_LOG_LINE)).unwrap_or_default();
    // Escaped: a line of a pack stays one line and can't colour the operator's terminal.
    let line = cut.escape_debug().to_string();
    drop(message);
    charge(&mut store, bytes)?;
    store.data_mut().log(level, &line);
    Ok(())
}

fn now(mut store: Store<'_>, (): ()) -> Result<(u64,)> {
    charge_call(&mut store)?;
    let now = store.data().asked()?.request.now.as_microsecond();
    Ok((u64::try_from(now).unwrap_or(0),))
}

fn local(mut store: Store<'_>, (zone,): (Option<WasmStr>,)) -> Result<(Option<LocalTime>,)> {
    charge_call(&mut store)?;
    // As much as it may cost to find a zone among all of them.
    charge(&mut store, if zone.is_some() { FUEL_OF_A_ZONE } else { 0 })?;
    let request = &store.data().asked()?.request;
    let zone = match zone {
        // The database keeps the zones that it has read.
        Some(name) => TimeZone::get(&name.to_str(&store)?).ok(),
        None => Some(request.timezone.clone()),
    };
    Ok((zone.map(|zone| request.now.to_zoned(zone).datetime().into()),))
}

fn next(mut store: Store<'_>, (): ()) -> Result<(u64,)> {
    charge_call(&mut store)?;
    let asked = store.data_mut().asked_mut()?;
    let Asked { random, request, about, .. } = asked;
    let random = random
        .get_or_insert_with(|| Random::new(&request.request_id, about.manifest.name.as_str()));
    Ok((random.next(),))
}

fn get(mut store: Store<'_>, (key,): (WasmStr,)) -> Result<(Option<Bytes>,)> {
    charge_call(&mut store)?;
    let key = key.to_str(&store)?;
    let value = store.data().asked()?.data.get(&key).cloned();
    let bytes = key.len() + value.bytes();
    drop(key);
    charge(&mut store, bytes)?;
    Ok((value,))
}

fn add(mut store: Store<'_>, (name, by): (WasmStr, u64)) -> Result<(Option<u64>,)> {
    charge_call(&mut store)?;
    let name = name.to_str(&store)?.into_owned();
    charge(&mut store, name.len())?;
    Ok((store.data_mut().asked_mut()?.count.add(&name, by),))
}

/// The first value of this parameter (`application/x-www-form-urlencoded`). The whole query is read for it.
fn query_param(
    mut store: Store<'_>,
    (_, name): (Resource<TheRequest>, WasmStr),
) -> Result<(Option<String>,)> {
    charge_call(&mut store)?;
    let request = Arc::clone(&store.data().asked()?.request);
    let query = request.head.query.as_deref().unwrap_or_default();
    charge(&mut store, query.len().saturating_mul(FUEL_PER_PARSED_BYTE))?;
    let name = name.to_str(&store)?;
    let mut pairs = form_urlencoded::parse(query.as_bytes());
    let value = pairs.find(|(found, _)| *found == name).map(|(_, value)| value.into_owned());
    let bytes = name.len() + value.bytes();
    drop(name);
    charge(&mut store, bytes)?;
    Ok((value,))
}

fn header(headers: &HeaderMap, name: &str) -> Option<Vec<u8>> {
    Some(headers.get(name)?.as_bytes().to_vec())
}

fn headers_all(headers: &HeaderMap, name: &str) -> Vec<Vec<u8>> {
    headers.get_all(name).iter().map(|value| value.as_bytes().to_vec()).collect()
}

/// The name of a request's header that packs see. Credentials they don't: who calls is told by typed getters.
fn lent(name: &str) -> Option<&str> {
    let secret = ["authorization", "proxy-authorization", "x-api-key"];
    let is_secret = secret.iter().any(|secret| name.eq_ignore_ascii_case(secret));
    (!is_secret).then_some(name)
}

impl Call {
    /// Writes a line to the operator's log, if the call and its attachment may write one more.
    fn log(&mut self, level: Level, line: &str) {
        if self.take_log_line().is_none() {
            return;
        }
        let mut left_out = None;
        let mut request = None;
        if let Ok(asked) = self.asked() {
            let Some(count) = asked.log.pass(asked.request.now) else { return };
            left_out = (count > 0).then_some(count);
            request = Some(&*asked.request.request_id);
        }
        let pack = &*self.label;
        match level {
            Level::Debug => tracing::debug!(target: "pack", pack, request, left_out, "{line}"),
            Level::Info => tracing::info!(target: "pack", pack, request, left_out, "{line}"),
            Level::Warn => tracing::warn!(target: "pack", pack, request, left_out, "{line}"),
            Level::Error => tracing::error!(target: "pack", pack, request, left_out, "{line}"),
        }
    }
}

/// As in WIT.
#[allow(dead_code, reason = "made by guests alone")]
#[derive(Clone, Copy, ComponentType, Lift)]
#[component(enum)]
#[repr(u8)]
enum Level {
    #[component(name = "debug")]
    Debug,
    #[component(name = "info")]
    Info,
    #[component(name = "warn")]
    Warn,
    #[component(name = "error")]
    Error,
}

/// As in WIT.
#[derive(Clone, Copy, ComponentType, Lower)]
#[component(record)]
struct LocalTime {
    year: i16,
    month: u8,
    day: u8,
    weekday: u8,
    hour: u8,
    minute: u8,
    second: u8,
}

impl From<jiff::civil::DateTime> for LocalTime {
    fn from(time: jiff::civil::DateTime) -> Self {
        // All of them are small and positive.
        let small = i8::unsigned_abs;
        Self {
            year: time.year(),
            month: small(time.month()),
            day: small(time.day()),
            weekday: small(time.weekday().to_monday_one_offset()),
            hour: small(time.hour()),
            minute: small(time.minute()),
            second: small(time.second()),
        }
    }
}

/// What can be handed to a guest, and how much of it is copied.
trait Given: Lower + ComponentType + Send + Sync + 'static {
    fn bytes(&self) -> usize;
}

impl Given for String {
    fn bytes(&self) -> usize {
        self.len()
    }
}

impl Given for Arc<str> {
    fn bytes(&self) -> usize {
        self.len()
    }
}

impl Given for Vec<u8> {
    fn bytes(&self) -> usize {
        self.len()
    }
}

impl Given for Bytes {
    fn bytes(&self) -> usize {
        self.len()
    }
}

impl Given for u16 {
    fn bytes(&self) -> usize {
        0
    }
}

impl Given for u64 {
    fn bytes(&self) -> usize {
        0
    }
}

impl<T: Given> Given for Option<T> {
    fn bytes(&self) -> usize {
        self.as_ref().map_or(0, Given::bytes)
    }
}

impl<T: Given> Given for Vec<T> {
    fn bytes(&self) -> usize {
        self.iter().map(Given::bytes).sum()
    }
}
