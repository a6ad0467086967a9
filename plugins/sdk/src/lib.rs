//! What a Tollgate policy pack written in Rust depends on; nothing else is needed.
//!
//! A pack is a type that implements [`Policy`], marked [`macro@pack`], and a type for its settings, marked
//! [`macro@settings`]:
//!
//! ```
//! use tollgate_pack::{Decision, Denial, Policy, Request};
//!
//! /// What an attachment demands.
//! #[tollgate_pack::settings]
//! struct Settings {
//!     /// The header that must be there.
//!     header: String,
//! }
//!
//! struct RequireHeader {
//!     header: String,
//! }
//!
//! #[tollgate_pack::pack]
//! impl Policy for RequireHeader {
//!     type Settings = Settings;
//!
//!     fn new(settings: Settings) -> Result<Self, String> {
//!         Ok(Self { header: settings.header })
//!     }
//!
//!     fn on_request(&self, request: &Request) -> Decision {
//!         match request.header(&self.header) {
//!             Some(_) => Decision::Continue,
//!             None => Denial::new("header_missing", "A header is missing.")
//!                 .detail("header", &self.header)
//!                 .into(),
//!         }
//!     }
//! }
//!
//! // As `cargo test` does it:
//! let policy: RequireHeader = tollgate_pack::configure(r#"{"header":"x-id"}"#).expect("these are good settings");
//! let request = Request::builder().header("x-id", "1").build();
//! assert_eq!(policy.on_request(&request), Decision::Continue);
//! # let schema = tollgate_pack::settings_schema::<RequireHeader>();
//! # assert_eq!(schema["additionalProperties"], false);
//! # assert_eq!(schema["properties"]["header"]["description"], "The header that must be there.");
//! ```
//!
//! # Phases
//!
//! The methods that the implementation writes are what the pack does; `pack.yaml` lists the same under `phases`:
//!
//! | method | phase | asked |
//! |---|---|---|
//! | [`Policy::on_request`] | `request` | before the request goes to the upstream |
//! | [`Policy::on_response`] | `response` | before the answer goes to the caller |
//! | [`Policy::cost`] | `cost` | before the request is charged |
//!
//! A pack that writes none of them is refused when it is compiled:
//!
//! ```compile_fail
//! struct Idle;
//!
//! #[tollgate_pack::pack]
//! impl tollgate_pack::Policy for Idle {
//!     type Settings = ();
//!
//!     fn new((): ()) -> Result<Self, String> {
//!         Ok(Self)
//!     }
//! }
//! ```
//!
//! # No state
//!
//! The host keeps the memory that [`Policy::new`] leaves behind and starts every decision from it: compile, parse and index
//! there. Whatever a decision writes to memory is gone afterwards; what must last is a counter ([`Request::count`]).
//!
//! # Capabilities
//!
//! What needs a capability says so; `pack.yaml` names them under `capabilities`. A pack imports what it calls: one that never
//! calls [`log`] needs no `log`. A panic ends the decision, by the attachment's `on_failure`, and says why only after
//! [`log::report_panics`].
//!
//! # Building and testing
//!
//! `tollgate pack build` compiles for `wasm32-unknown-unknown` and writes `settings.schema.json` from the settings' type;
//! `tollgate pack test` runs the vectors on the real host. Built for any other target, as `cargo test` does, [`Request`] and
//! [`Response`] are values that a test makes with [`Request::builder`] and [`Response::builder`], which also say what the
//! time is, and what data and counters there are.

#[cfg(target_arch = "wasm32")]
#[doc(hidden)]
#[allow(missing_docs, reason = "what the attribute `pack` writes uses it, and nobody else")]
pub mod abi;
mod decision;
mod exchange;
pub mod log;
#[cfg(not(target_arch = "wasm32"))]
mod made;
mod time;

use ::schemars::{JsonSchema, generate::SchemaSettings};
use ::serde::de::DeserializeOwned;

pub use decision::{Answer, Decision, Denial, Edits, HeaderEdit, HeaderLine};
pub use exchange::{Request, Response};
#[cfg(not(target_arch = "wasm32"))]
pub use made::{RequestBuilder, ResponseBuilder};
pub use time::{LocalTime, Weekday};
pub use tollgate_pack_macros::{pack, settings};
/// What [`macro@settings`] derives from: its attributes and types are at hand without a further dependency.
pub use {::schemars, ::serde, ::serde_json};

/// A policy: made once from its settings, then asked about each exchange.
pub trait Policy: Sized + Send + Sync + 'static {
    /// The settings of one attachment: a type marked [`macro@settings`].
    type Settings: DeserializeOwned + JsonSchema;

    /// Checks the settings and prepares what every decision needs. The error refuses the configuration: it says how to mend
    /// it.
    fn new(settings: Self::Settings) -> Result<Self, String>;

    /// Decides about one request.
    fn on_request(&self, _request: &Request) -> Decision {
        Decision::Continue
    }

    /// Decides about one response.
    fn on_response(&self, _request: &Request, _response: &Response) -> Decision {
        Decision::Continue
    }

    /// What a request costs, in units of the plan's limits, in place of the route's cost.
    fn cost(&self, _request: &Request) -> u32 {
        1
    }
}

/// Makes a policy from the JSON text of its settings, as the host does.
pub fn configure<P: Policy>(settings: &str) -> Result<P, String> {
    let settings = serde_json::from_str(settings).map_err(|error| error.to_string())?;
    P::new(settings)
}

/// The JSON Schema (2020-12) of the policy's settings, as `pack build` writes it.
pub fn settings_schema<P: Policy>() -> serde_json::Value {
    SchemaSettings::draft2020_12().into_generator().into_root_schema_for::<P::Settings>().to_value()
}

/// Whether the text can be a header's name (RFC 9110 §5.1). For checking settings.
pub fn is_header_name(text: &str) -> bool {
    let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !text.is_empty() && text.bytes().all(token)
}

/// Whether the text can be a header's value as the SDK's edits make it: no control characters but tabs. For checking settings.
pub fn is_header_value(text: &str) -> bool {
    !text.chars().any(|c| c.is_control() && c != '\t')
}

/// How many values a JSON text has at most, with the names of members: about what reading it takes, told before it is read. A body of
/// a megabyte can have hundreds of thousands, more than a pack's fuel and memory are for.
pub fn json_values(text: &[u8]) -> usize {
    let (mut values, mut quoted, mut escaped) = (1, false, false);
    for byte in text {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b'[' | b'{' | b',' | b':' if !quoted => values += 1,
            _ => {}
        }
    }
    values
}

/// Outside the host nothing is exported: tests make the policy themselves.
#[doc(hidden)]
#[macro_export]
#[cfg(not(target_arch = "wasm32"))]
macro_rules! __export {
    ($policy:ty; $($phase:ident)*) => {
        const _: fn(&str) -> Result<$policy, String> = $crate::configure::<$policy>;
    };
}
