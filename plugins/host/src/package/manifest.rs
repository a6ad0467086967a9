//! What a pack says about itself.

use model::document::{PackLimits, PhaseName};
use model::id::{PackId, is_id};
use serde::{Deserialize, Serialize};

use super::PackageError;
use crate::limits::Limits;

/// The interface that this host serves, as manifests name it.
pub const ABI: &str = "tollgate:policy@1";
/// An interface that others have and people bring packs of.
const PROXY_WASM: &str = "proxy-wasm@";

/// What a pack says about itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The pack's name.
    pub name: PackId,
    /// Its version: three numbers, like `1.0.0`.
    pub version: String,
    /// The interface that it is built against: [`ABI`].
    pub abi: String,
    /// When it can speak; an attachment takes some or all of these.
    pub phases: Vec<PhaseName>,
    /// Whose body it reads or changes.
    #[serde(default)]
    pub body: Vec<BodyOf>,
    /// What it imports beside the exchange.
    #[serde(default)]
    pub capabilities: Vec<Capability>,
    /// What one call needs, where an attachment says nothing else.
    #[serde(default)]
    pub limits: PackLimits,
}

/// Whose body.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BodyOf {
    /// The request's.
    Request,
    /// The response's.
    Response,
}

impl BodyOf {
    /// The name as manifests write it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Request => "request",
            Self::Response => "response",
        }
    }
}

/// Something that the host gives to packs that ask for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Capability {
    /// Lines in the operator's log.
    Log,
    /// The time of the exchange.
    Clock,
    /// Random numbers, seeded by the request.
    Random,
    /// Read-only data that operators keep for the pack.
    Data,
    /// Counters for the caller's tenant.
    Counters,
}

impl Capability {
    /// The name as manifests write it, and that of the interface.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Log => "log",
            Self::Clock => "clock",
            Self::Random => "random",
            Self::Data => "data",
            Self::Counters => "counters",
        }
    }

    /// All of them.
    pub const ALL: &'static [Self] =
        &[Self::Log, Self::Clock, Self::Random, Self::Data, Self::Counters];
}

impl Manifest {
    /// Refuses a manifest that can't be served, with what to change.
    pub fn check(&self) -> Result<(), PackageError> {
        let refuse = |message: String| Err(PackageError::Manifest { message });
        if !is_id(self.name.as_str()) {
            return refuse(format!(
                "`name` is {:?}: take 1 to 64 letters, digits, `.`, `_` or `-`, starting with a letter or digit",
                self.name.as_str()
            ));
        }
        if !is_version(&self.version) {
            return refuse(format!(
                "`version` is {:?}: take three numbers, like `1.0.0`",
                self.version
            ));
        }
        if self.abi.starts_with(PROXY_WASM) {
            return Err(PackageError::ProxyWasm { abi: self.abi.clone() });
        }
        if self.abi != ABI {
            return Err(PackageError::UnknownAbi { abi: self.abi.clone() });
        }
        if self.phases.is_empty() {
            return refuse("`phases` is empty: name `cost`, `request` or `response`".to_owned());
        }
        let twice = [
            ("phases", repeated(&self.phases).map(|phase| phase.as_str())),
            ("body", repeated(&self.body).map(|body| body.as_str())),
            ("capabilities", repeated(&self.capabilities).map(|capability| capability.as_str())),
        ];
        if let Some((field, name)) =
            twice.into_iter().find_map(|(field, name)| Some((field, name?)))
        {
            return refuse(format!("`{field}` names `{name}` twice"));
        }
        // A response phase may judge by what the request held.
        let response = self.phases.contains(&PhaseName::Response);
        let request = self.phases.contains(&PhaseName::Request) || response;
        for body in &self.body {
            let spoken = match body {
                BodyOf::Request => request,
                BodyOf::Response => response,
            };
            if !spoken {
                let name = body.as_str();
                return refuse(format!("`body` names `{name}`, but `phases` has no `{name}`"));
            }
        }
        Limits::from(self.limits).check().or_else(|error| refuse(error.to_string()))
    }

    /// Whether it reads or changes this body.
    pub fn reads(&self, body: BodyOf) -> bool {
        self.body.contains(&body)
    }
}

/// The first that is there a second time.
fn repeated<T: Copy + PartialEq>(list: &[T]) -> Option<T> {
    let mut seen = Vec::with_capacity(list.len());
    list.iter().copied().find(|item| {
        let again = seen.contains(item);
        seen.push(*item);
        again
    })
}

/// As the document's `pack-version`.
fn is_version(text: &str) -> bool {
    let number = |part: &str| {
        (1..=9).contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_digit())
    };
    text.split('.').count() == 3 && text.split('.').all(number)
}
