//! What a Tollgate policy pack written in Rust depends on.
//!
//! A pack is a type that implements [`Policy`], and one line, [`pack!`]:
//!
//! ```
//! use tollgate_pack::{Decision, Denial, Policy, Request, pack};
//!
//! #[derive(serde::Deserialize)]
//! #[serde(deny_unknown_fields)]
//! struct Settings {
//!     header: String,
//! }
//!
//! struct RequireHeader {
//!     settings: Settings,
//! }
//!
//! impl Policy for RequireHeader {
//!     type Settings = Settings;
//!
//!     fn new(settings: Settings) -> Result<Self, String> {
//!         Ok(Self { settings })
//!     }
//!
//!     fn on_request(&self, request: &Request) -> Decision {
//!         match request.header(&self.settings.header) {
//!             Some(_) => Decision::Continue,
//!             None => Denial::new("header_missing", "A header is missing.").into(),
//!         }
//!     }
//! }
//!
//! pack!(RequireHeader);
//!
//! let policy: RequireHeader = tollgate_pack::configure(r#"{"header":"x-id"}"#).expect("these are good settings");
//! let request = Request::builder().header("x-id", "1").build();
//! assert_eq!(policy.on_request(&request), Decision::Continue);
//! ```
//!
//! Built for `wasm32-unknown-unknown`, the crate of a pack exports what the host calls. Built for any other target, as
//! `cargo test` does, [`Request`] is a value that a test makes with [`Request::builder`].

#[doc(hidden)]
pub mod abi;
mod decision;
pub mod log;
#[cfg(not(target_arch = "wasm32"))]
mod request;

use serde::de::DeserializeOwned;
#[cfg(target_arch = "wasm32")]
use std::sync::OnceLock;

#[cfg(target_arch = "wasm32")]
pub use abi::tollgate::policy::request_phase::Request;
pub use abi::tollgate::policy::request_phase::{Decision, Denial, HeaderEdit, HeaderLine};
#[cfg(not(target_arch = "wasm32"))]
pub use request::{Request, RequestBuilder};

/// A policy: made once from its settings, then asked about each request.
///
/// The host keeps the memory that [`Policy::new`] leaves behind and starts every decision from it. Whatever
/// [`Policy::on_request`] writes to memory is gone afterwards: there is no state between decisions.
pub trait Policy: Sized + Send + Sync + 'static {
    /// The settings of one attachment, read from JSON. Deny unknown fields, so that a typo is refused.
    type Settings: DeserializeOwned;

    /// Checks the settings and prepares what every decision needs. The error refuses the configuration.
    fn new(settings: Self::Settings) -> Result<Self, String>;

    /// Decides about one request.
    fn on_request(&self, request: &Request) -> Decision;
}

/// Makes a policy from the JSON text of its settings, as the host does. For tests.
pub fn configure<P: Policy>(settings: &str) -> Result<P, String> {
    let settings = serde_json::from_str(settings).map_err(|error| error.to_string())?;
    P::new(settings)
}

/// Whether the text can be a header's name (RFC 9110 §5.1). For checking settings.
pub fn is_header_name(text: &str) -> bool {
    let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !text.is_empty() && text.bytes().all(token)
}

/// Exports a [`Policy`] as the pack that this crate is.
#[macro_export]
macro_rules! pack {
    ($policy:ty) => {
        #[cfg(target_arch = "wasm32")]
        const _: () = {
            static POLICY: std::sync::OnceLock<$policy> = std::sync::OnceLock::new();

            struct Exported;

            impl $crate::abi::Guest for Exported {
                fn configure(settings: String) -> Result<(), String> {
                    $crate::install(&POLICY, &settings)
                }

                fn on_request(request: &$crate::Request) -> $crate::Decision {
                    $crate::installed(&POLICY).on_request(request)
                }
            }

            $crate::abi::export! { Exported with_types_in $crate::abi }
        };

        // Elsewhere nothing is exported: tests make the policy themselves.
        #[cfg(not(target_arch = "wasm32"))]
        const _: fn(&str) -> Result<$policy, String> = $crate::configure::<$policy>;
    };
}

/// Makes the policy and keeps it for [`installed`]. Used by [`pack!`].
#[doc(hidden)]
#[cfg(target_arch = "wasm32")]
pub fn install<P: Policy>(policy: &OnceLock<P>, settings: &str) -> Result<(), String> {
    log::report_panics();
    policy.set(configure(settings)?).map_err(|_| "configured twice".to_owned())
}

/// The policy that [`install`] made. Used by [`pack!`].
#[doc(hidden)]
#[cfg(target_arch = "wasm32")]
pub fn installed<P: Policy>(policy: &OnceLock<P>) -> &P {
    policy.get().expect("the host configures a pack before it asks for a decision")
}
