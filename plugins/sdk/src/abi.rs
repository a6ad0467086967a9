//! The module's side of `plugins/wit`: its imports, its exports, and how values lie in memory between the two.
//!
//! Everything follows the canonical ABI: a string or a list is a pointer and a length; what the host hands over is allocated
//! through [`allocate`] and is the pack's; what the pack hands over stays the pack's, and lives until its next call.
//!
//! Invariant: all that is unsafe in a pack is in this file, and each of its functions relies on the host's side of the ABI
//! alone.
#![allow(unsafe_code, reason = "values are moved over the canonical ABI")]

use std::alloc::{Layout, alloc, handle_alloc_error, realloc};
use std::cell::RefCell;
use std::mem::MaybeUninit;
use std::sync::OnceLock;

use crate::decision::{Decision, HeaderEdit, HeaderLine};
use crate::log::Level;
use crate::time::{LocalTime, Weekday};
use crate::{Policy, Request, Response};

// ----- values in memory -----

/// A string, or a list of `T`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct List<T = u8> {
    at: *const T,
    length: usize,
}

/// An `option<T>`, where `T` is plain data: its payload may be anything where there is none.
#[repr(C)]
#[derive(Clone, Copy)]
struct Maybe<T: Copy> {
    some: u8,
    value: MaybeUninit<T>,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct RawTime {
    year: i16,
    month: u8,
    day: u8,
    weekday: u8,
    hour: u8,
    minute: u8,
    second: u8,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct RawLine {
    name: List,
    value: List,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct RawEdit {
    kind: u8,
    line: RawLine,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct RawEdits {
    headers: List<RawEdit>,
    body: Maybe<List>,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct RawDenial {
    status: Maybe<u16>,
    reason: List,
    message: List,
    details: List<RawLine>,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct RawAnswer {
    status: u16,
    headers: List<RawLine>,
    body: List,
}

#[repr(C)]
union RawChoice {
    none: (),
    edit: RawEdits,
    deny: RawDenial,
    answer: RawAnswer,
}

/// A `decision`.
#[repr(C)]
pub struct RawDecision {
    kind: u8,
    choice: RawChoice,
}

/// A `result<_, string>`.
#[repr(C)]
pub struct RawResult {
    failed: u8,
    message: List,
}

// The canonical ABI's sizes for the types of `plugins/wit`.
const _: () = {
    assert!(size_of::<Maybe<u64>>() == 16 && size_of::<Maybe<List>>() == 12);
    assert!(size_of::<Maybe<RawTime>>() == 10 && size_of::<Maybe<u16>>() == 4);
    assert!(size_of::<RawEdit>() == 20 && size_of::<RawEdits>() == 20);
    assert!(size_of::<RawDenial>() == 28 && size_of::<RawAnswer>() == 20);
    assert!(size_of::<RawDecision>() == 32 && size_of::<RawResult>() == 12);
};

impl<T> List<T> {
    fn of(items: &[T]) -> Self {
        Self { at: items.as_ptr(), length: items.len() }
    }

    /// Takes over what the host allocated.
    ///
    /// # Safety
    /// The list was handed over by the host, and this is done once.
    unsafe fn take(self) -> Vec<T> {
        // SAFETY: the host allocated `length` items by `allocate`, which is the global allocator, and filled them.
        unsafe { Vec::from_raw_parts(self.at.cast_mut(), self.length, self.length) }
    }
}

impl List {
    /// As [`List::take`]; the host guarantees UTF-8, and what is not would become U+FFFD.
    ///
    /// # Safety
    /// As [`List::take`].
    unsafe fn text(self) -> String {
        // SAFETY: the caller's promise.
        let bytes = unsafe { self.take() };
        String::from_utf8(bytes)
            .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
    }
}

impl<T: Copy> Maybe<T> {
    fn of(value: Option<T>) -> Self {
        match value {
            Some(value) => Self { some: 1, value: MaybeUninit::new(value) },
            None => Self { some: 0, value: MaybeUninit::uninit() },
        }
    }

    /// # Safety
    /// It was written by the host, or made by [`Maybe::of`].
    unsafe fn get(self) -> Option<T> {
        // SAFETY: the payload is there where `some` says so.
        (self.some == 1).then(|| unsafe { self.value.assume_init() })
    }
}

/// What a host function writes to the address it is given.
///
/// # Safety
/// `call` writes a whole `T`.
unsafe fn returned<T>(call: impl FnOnce(*mut T)) -> T {
    let mut slot = MaybeUninit::uninit();
    call(slot.as_mut_ptr());
    // SAFETY: the caller's promise.
    unsafe { slot.assume_init() }
}

// ----- imports -----

#[link(wasm_import_module = "tollgate:policy/exchange@1.0.0")]
unsafe extern "C" {
    #[link_name = "[resource-drop]request"]
    fn request_drop(handle: i32);
    #[link_name = "[method]request.method"]
    fn request_method(handle: i32, to: *mut List);
    #[link_name = "[method]request.path"]
    fn request_path(handle: i32, to: *mut List);
    #[link_name = "[method]request.query"]
    fn request_query(handle: i32, to: *mut Maybe<List>);
    #[link_name = "[method]request.query-param"]
    fn request_query_param(handle: i32, name: *const u8, length: usize, to: *mut Maybe<List>);
    #[link_name = "[method]request.header"]
    fn request_header(handle: i32, name: *const u8, length: usize, to: *mut Maybe<List>);
    #[link_name = "[method]request.headers-all"]
    fn request_headers_all(handle: i32, name: *const u8, length: usize, to: *mut List<List>);
    #[link_name = "[method]request.header-names"]
    fn request_header_names(handle: i32, to: *mut List<List>);
    #[link_name = "[method]request.body"]
    fn request_body(handle: i32, to: *mut Maybe<List>);
    #[link_name = "[method]request.body-size"]
    fn request_body_size(handle: i32, to: *mut Maybe<u64>);
    #[link_name = "[method]request.client-address"]
    fn request_client_address(handle: i32, to: *mut List);
    #[link_name = "[method]request.route"]
    fn request_route(handle: i32, to: *mut List);
    #[link_name = "[method]request.version"]
    fn request_version(handle: i32, to: *mut List);
    #[link_name = "[method]request.tenant"]
    fn request_tenant(handle: i32, to: *mut List);
    #[link_name = "[method]request.plan"]
    fn request_plan(handle: i32, to: *mut List);
    #[link_name = "[method]request.consumer"]
    fn request_consumer(handle: i32, to: *mut List);
    #[link_name = "[method]request.scopes"]
    fn request_scopes(handle: i32, to: *mut List<List>);
    #[link_name = "[method]request.claim"]
    fn request_claim(handle: i32, name: *const u8, length: usize, to: *mut Maybe<List>);

    #[link_name = "[resource-drop]response"]
    fn response_drop(handle: i32);
    #[link_name = "[method]response.status"]
    fn response_status(handle: i32) -> i32;
    #[link_name = "[method]response.header"]
    fn response_header(handle: i32, name: *const u8, length: usize, to: *mut Maybe<List>);
    #[link_name = "[method]response.headers-all"]
    fn response_headers_all(handle: i32, name: *const u8, length: usize, to: *mut List<List>);
    #[link_name = "[method]response.header-names"]
    fn response_header_names(handle: i32, to: *mut List<List>);
    #[link_name = "[method]response.body"]
    fn response_body(handle: i32, to: *mut Maybe<List>);
}

#[link(wasm_import_module = "tollgate:policy/log@1.0.0")]
unsafe extern "C" {
    #[link_name = "write"]
    fn log_write(level: i32, message: *const u8, length: usize);
}

#[link(wasm_import_module = "tollgate:policy/clock@1.0.0")]
unsafe extern "C" {
    #[link_name = "now"]
    fn clock_now() -> i64;
    #[link_name = "local"]
    fn clock_local(some: i32, zone: *const u8, length: usize, to: *mut Maybe<RawTime>);
}

#[link(wasm_import_module = "tollgate:policy/random@1.0.0")]
unsafe extern "C" {
    #[link_name = "next"]
    fn random_next() -> i64;
}

#[link(wasm_import_module = "tollgate:policy/data@1.0.0")]
unsafe extern "C" {
    #[link_name = "get"]
    fn data_get(key: *const u8, length: usize, to: *mut Maybe<List>);
}

#[link(wasm_import_module = "tollgate:policy/counters@1.0.0")]
unsafe extern "C" {
    #[link_name = "add"]
    fn counters_add(name: *const u8, length: usize, by: i64, to: *mut Maybe<u64>);
}

type Get<T> = unsafe extern "C" fn(i32, *mut T);
type GetNamed<T> = unsafe extern "C" fn(i32, *const u8, usize, *mut T);

/// What the host lends for the time of one call.
pub(crate) struct Lent<const RESPONSE: bool> {
    handle: i32,
}

pub(crate) type LentRequest = Lent<false>;
pub(crate) type LentResponse = Lent<true>;

// SAFETY of the following: every import is called as `plugins/wit` declares it, with a handle that the host lent and that is
// dropped last; what it writes is taken once.
impl<const RESPONSE: bool> Lent<RESPONSE> {
    fn text(&self, get: Get<List>) -> String {
        unsafe { returned(|to| get(self.handle, to)).text() }
    }

    fn bytes(&self, get: Get<Maybe<List>>) -> Option<Vec<u8>> {
        unsafe { returned(|to| get(self.handle, to)).get().map(|list| list.take()) }
    }

    fn texts(&self, get: Get<List<List>>) -> Vec<String> {
        unsafe {
            let lists = returned(|to| get(self.handle, to)).take();
            lists.into_iter().map(|list| list.text()).collect()
        }
    }

    fn bytes_of(&self, get: GetNamed<Maybe<List>>, name: &str) -> Option<Vec<u8>> {
        unsafe {
            returned(|to| get(self.handle, name.as_ptr(), name.len(), to))
                .get()
                .map(|list| list.take())
        }
    }

    fn text_of(&self, get: GetNamed<Maybe<List>>, name: &str) -> Option<String> {
        unsafe {
            returned(|to| get(self.handle, name.as_ptr(), name.len(), to))
                .get()
                .map(|list| list.text())
        }
    }

    fn all_of(&self, get: GetNamed<List<List>>, name: &str) -> Vec<Vec<u8>> {
        unsafe {
            let lists = returned(|to| get(self.handle, name.as_ptr(), name.len(), to)).take();
            lists.into_iter().map(|list| list.take()).collect()
        }
    }
}

impl<const RESPONSE: bool> Drop for Lent<RESPONSE> {
    fn drop(&mut self) {
        let end = if RESPONSE { response_drop } else { request_drop };
        unsafe { end(self.handle) };
    }
}

impl LentRequest {
    pub(crate) fn method(&self) -> String {
        self.text(request_method)
    }

    pub(crate) fn path(&self) -> String {
        self.text(request_path)
    }

    pub(crate) fn query(&self) -> Option<String> {
        unsafe { returned(|to| request_query(self.handle, to)).get().map(|list| list.text()) }
    }

    pub(crate) fn query_param(&self, name: &str) -> Option<String> {
        self.text_of(request_query_param, name)
    }

    pub(crate) fn header(&self, name: &str) -> Option<Vec<u8>> {
        self.bytes_of(request_header, name)
    }

    pub(crate) fn headers_all(&self, name: &str) -> Vec<Vec<u8>> {
        self.all_of(request_headers_all, name)
    }

    pub(crate) fn header_names(&self) -> Vec<String> {
        self.texts(request_header_names)
    }

    pub(crate) fn body(&self) -> Option<Vec<u8>> {
        self.bytes(request_body)
    }

    pub(crate) fn body_size(&self) -> Option<u64> {
        unsafe { returned(|to| request_body_size(self.handle, to)).get() }
    }

    pub(crate) fn client_address(&self) -> String {
        self.text(request_client_address)
    }

    pub(crate) fn route(&self) -> String {
        self.text(request_route)
    }

    pub(crate) fn version(&self) -> String {
        self.text(request_version)
    }

    pub(crate) fn tenant(&self) -> String {
        self.text(request_tenant)
    }

    pub(crate) fn plan(&self) -> String {
        self.text(request_plan)
    }

    pub(crate) fn consumer(&self) -> String {
        self.text(request_consumer)
    }

    pub(crate) fn scopes(&self) -> Vec<String> {
        self.texts(request_scopes)
    }

    pub(crate) fn claim(&self, name: &str) -> Option<String> {
        self.text_of(request_claim, name)
    }

    pub(crate) fn now(&self) -> u64 {
        unsafe { clock_now() }.cast_unsigned()
    }

    pub(crate) fn local_time(&self, zone: Option<&str>) -> Option<LocalTime> {
        let (some, name) = (i32::from(zone.is_some()), zone.unwrap_or_default());
        let time = unsafe { returned(|to| clock_local(some, name.as_ptr(), name.len(), to)).get() };
        time.map(|time| LocalTime {
            year: time.year,
            month: time.month,
            day: time.day,
            weekday: Weekday::from_iso(time.weekday),
            hour: time.hour,
            minute: time.minute,
            second: time.second,
        })
    }

    pub(crate) fn random(&self) -> u64 {
        unsafe { random_next() }.cast_unsigned()
    }

    pub(crate) fn data(&self, key: &str) -> Option<Vec<u8>> {
        unsafe {
            returned(|to| data_get(key.as_ptr(), key.len(), to)).get().map(|list| list.take())
        }
    }

    pub(crate) fn count(&self, name: &str, by: u64) -> Option<u64> {
        let by = by.cast_signed();
        unsafe { returned(|to| counters_add(name.as_ptr(), name.len(), by, to)).get() }
    }
}

impl LentResponse {
    pub(crate) fn status(&self) -> u16 {
        let status = unsafe { response_status(self.handle) };
        u16::try_from(status).unwrap_or_default()
    }

    pub(crate) fn header(&self, name: &str) -> Option<Vec<u8>> {
        self.bytes_of(response_header, name)
    }

    pub(crate) fn headers_all(&self, name: &str) -> Vec<Vec<u8>> {
        self.all_of(response_headers_all, name)
    }

    pub(crate) fn header_names(&self) -> Vec<String> {
        self.texts(response_header_names)
    }

    pub(crate) fn body(&self) -> Option<Vec<u8>> {
        self.bytes(response_body)
    }
}

pub(crate) fn log(level: Level, message: &str) {
    unsafe { log_write(level as i32, message.as_ptr(), message.len()) };
}

// ----- exports -----

/// What `cabi_realloc` does: gives the host memory to hand something over in.
///
/// # Safety
/// The host's: `old` is what this gave before, of this size and alignment.
pub unsafe fn allocate(old: *mut u8, old_size: usize, align: usize, size: usize) -> *mut u8 {
    let layout =
        |size| Layout::from_size_align(size, align).expect("the host asks for what there can be");
    if size == 0 {
        return std::ptr::without_provenance_mut(align);
    }
    // SAFETY: the size is not zero, and `old` is ours.
    let at = unsafe {
        if old_size == 0 { alloc(layout(size)) } else { realloc(old, layout(old_size), size) }
    };
    if at.is_null() {
        handle_alloc_error(layout(size));
    }
    at
}

/// Exports the policy. Written by the attribute `pack`.
#[doc(hidden)]
#[macro_export]
#[cfg(not(feature = "schema"))]
macro_rules! __export {
    ($policy:ty; $($phase:ident)*) => {
        const _: () = {
            static POLICY: std::sync::OnceLock<$policy> = std::sync::OnceLock::new();

            #[unsafe(export_name = "configure")]
            unsafe extern "C" fn configure(at: *mut u8, length: usize) -> *const $crate::abi::RawResult {
                unsafe { $crate::abi::configure(&POLICY, at, length) }
            }

            #[unsafe(export_name = "cabi_realloc")]
            unsafe extern "C" fn allocate(old: *mut u8, old_size: usize, align: usize, size: usize) -> *mut u8 {
                unsafe { $crate::abi::allocate(old, old_size, align, size) }
            }

            $($crate::__export_phase! { POLICY $phase })*
        };
    };
}

#[doc(hidden)]
#[macro_export]
#[cfg(not(feature = "schema"))]
macro_rules! __export_phase {
    ($policy:ident on_request) => {
        #[unsafe(export_name = "on-request")]
        unsafe extern "C" fn on_request(request: i32) -> *const $crate::abi::RawDecision {
            unsafe { $crate::abi::on_request(&$policy, request) }
        }
    };
    ($policy:ident on_response) => {
        #[unsafe(export_name = "on-response")]
        unsafe extern "C" fn on_response(
            request: i32,
            response: i32,
        ) -> *const $crate::abi::RawDecision {
            unsafe { $crate::abi::on_response(&$policy, request, response) }
        }
    };
    ($policy:ident cost) => {
        #[unsafe(export_name = "cost")]
        unsafe extern "C" fn cost(request: i32) -> u32 {
            unsafe { $crate::abi::cost(&$policy, request) }
        }
    };
}

/// Exports the JSON Schema of the policy's settings and nothing else.
#[doc(hidden)]
#[macro_export]
#[cfg(feature = "schema")]
macro_rules! __export {
    ($policy:ty; $($phase:ident)*) => {
        const _: () = {
            #[unsafe(export_name = "settings-schema")]
            extern "C" fn settings_schema() -> *const $crate::abi::List {
                $crate::abi::settings_schema::<$policy>()
            }
        };
    };
}

/// # Safety
/// Called by the host: `at` and `length` are a string that it hands over.
pub unsafe fn configure<P: Policy>(
    policy: &'static OnceLock<P>,
    at: *mut u8,
    length: usize,
) -> *const RawResult {
    // SAFETY: the caller's promise.
    let settings = unsafe { List { at: at.cast_const(), length }.text() };
    let made = crate::configure(&settings)
        .and_then(|made| policy.set(made).map_err(|_| "configured twice".to_owned()));
    // The host calls this once: what it is told needs no owner.
    Box::leak(Box::new(match made {
        Ok(()) => RawResult { failed: 0, message: List::of(&[]) },
        Err(message) => RawResult { failed: 1, message: List::of(message.leak().as_bytes()) },
    }))
}

/// # Safety
/// Called by the host, which lends the request for this call.
pub unsafe fn on_request<P: Policy>(
    policy: &'static OnceLock<P>,
    request: i32,
) -> *const RawDecision {
    let request = Request { lent: Lent { handle: request } };
    hand_over(configured(policy).on_request(&request))
}

/// # Safety
/// Called by the host, which lends both for this call.
pub unsafe fn on_response<P: Policy>(
    policy: &'static OnceLock<P>,
    request: i32,
    response: i32,
) -> *const RawDecision {
    let request = Request { lent: Lent { handle: request } };
    let response = Response { lent: Lent { handle: response } };
    hand_over(configured(policy).on_response(&request, &response))
}

/// # Safety
/// Called by the host, which lends the request for this call.
pub unsafe fn cost<P: Policy>(policy: &'static OnceLock<P>, request: i32) -> u32 {
    let request = Request { lent: Lent { handle: request } };
    configured(policy).cost(&request)
}

fn configured<P>(policy: &OnceLock<P>) -> &P {
    policy.get().expect("the host configures a pack before it asks")
}

#[cfg(feature = "schema")]
pub fn settings_schema<P: Policy>() -> *const List {
    let text = crate::settings_schema::<P>().to_string().leak();
    Box::leak(Box::new(List::of(text.as_bytes())))
}

/// The decision that most exchanges get.
static CONTINUE: Constant = Constant(RawDecision { kind: 0, choice: RawChoice { none: () } });

struct Constant(RawDecision);

// SAFETY: it points to nothing and is never written.
unsafe impl Sync for Constant {}

/// A decision that the host reads, with what its lists point to.
struct HandedOver {
    raw: RawDecision,
    _decision: Decision,
    _edits: Vec<RawEdit>,
    _lines: Vec<RawLine>,
}

thread_local! {
    /// The last decision: the host reads it after the call has returned.
    static LAST: RefCell<Option<Box<HandedOver>>> = const { RefCell::new(None) };
}

fn hand_over(decision: Decision) -> *const RawDecision {
    if decision == Decision::Continue {
        return &raw const CONTINUE.0;
    }
    let handed = Box::new(HandedOver::new(decision));
    let raw = &raw const handed.raw;
    LAST.set(Some(handed));
    raw
}

impl HandedOver {
    /// The raw decision points into the decision's strings and into the two lists, none of which moves again.
    fn new(decision: Decision) -> Self {
        let (mut edits, mut lines) = (Vec::new(), Vec::new());
        let (kind, choice) = match &decision {
            Decision::Continue => (0, RawChoice { none: () }),
            Decision::Edit(changes) => {
                edits = changes.headers.iter().map(edit).collect();
                let body = Maybe::of(changes.body.as_deref().map(List::of));
                (1, RawChoice { edit: RawEdits { headers: List::of(&edits), body } })
            }
            Decision::Deny(denial) => {
                let pairs = denial.details.iter();
                lines = pairs.map(|(name, json)| line(name, json.as_bytes())).collect();
                let raw = RawDenial {
                    status: Maybe::of(denial.status),
                    reason: List::of(denial.reason.as_bytes()),
                    message: List::of(denial.message.as_bytes()),
                    details: List::of(&lines),
                };
                (2, RawChoice { deny: raw })
            }
            Decision::Answer(answer) => {
                lines = answer.headers.iter().map(|held| line(&held.name, &held.value)).collect();
                let raw = RawAnswer {
                    status: answer.status,
                    headers: List::of(&lines),
                    body: List::of(&answer.body),
                };
                (3, RawChoice { answer: raw })
            }
        };
        Self {
            raw: RawDecision { kind, choice },
            _decision: decision,
            _edits: edits,
            _lines: lines,
        }
    }
}

fn edit(edit: &HeaderEdit) -> RawEdit {
    let of = |kind, held: &HeaderLine| RawEdit { kind, line: line(&held.name, &held.value) };
    match edit {
        HeaderEdit::Set(held) => of(0, held),
        HeaderEdit::Append(held) => of(1, held),
        HeaderEdit::Remove(name) => RawEdit { kind: 2, line: line(name, &[]) },
    }
}

fn line(name: &str, value: &[u8]) -> RawLine {
    RawLine { name: List::of(name.as_bytes()), value: List::of(value) }
}
