//! What an attachment is told.

use std::collections::BTreeMap;

use tollgate_pack::serde_json::Value;
use tollgate_pack::{is_header_name, is_header_value, schemars};

/// Where data is at home, where it is processed, who asks for it from where, and what of that is allowed. Regions are names of
/// your own, such as `eu`.
#[tollgate_pack::settings]
pub(crate) struct Settings {
    /// Where the tenants' data is at home.
    pub(crate) home: Home,
    /// Where the routes process it.
    pub(crate) processing: Processing,
    /// Where callers sit. Needed by rules that have `origin`.
    #[serde(default)]
    pub(crate) origin: Origin,
    /// What is allowed, by home region. Data of a region without a rule is not served.
    #[schemars(length(min = 1))]
    pub(crate) rules: Vec<Rule>,
    /// What is allowed beyond the rules.
    #[serde(default)]
    pub(crate) transfers: Vec<Transfer>,
    /// What the upstream is told.
    #[serde(default)]
    pub(crate) tell: Tell,
}

/// Where the tenants' data is at home: what the first of these says that is given and says something, in this order.
#[tollgate_pack::settings]
pub(crate) struct Home {
    /// By the tenant's id.
    #[serde(default)]
    pub(crate) tenants: BTreeMap<String, String>,
    /// Under this prefix and the tenant's id, operators keep the region's name in the pack's data.
    pub(crate) data: Option<String>,
    /// This claim of the caller's JWT is the region's name.
    pub(crate) claim: Option<String>,
}

/// Where the routes process data.
#[tollgate_pack::settings]
pub(crate) struct Processing {
    /// The region of a route that `routes` doesn't name.
    pub(crate) default: String,
    /// By the route's id.
    #[serde(default)]
    pub(crate) routes: BTreeMap<String, String>,
}

/// Where callers sit: the first network that holds the peer's address, else the header.
#[tollgate_pack::settings]
#[derive(Default)]
pub(crate) struct Origin {
    /// CIDR blocks by region.
    #[serde(default)]
    pub(crate) networks: BTreeMap<String, Vec<String>>,
    /// A header with the caller's country, which an edge in front of the gateway sets and does not let clients set.
    pub(crate) header: Option<CountryHeader>,
}

/// A header with a country's ISO 3166-1 code.
#[tollgate_pack::settings]
pub(crate) struct CountryHeader {
    /// The header's name.
    pub(crate) name: String,
    /// Country codes by region: `DE`, or `EU` for its 27 members, or `EEA` for these, Iceland, Liechtenstein and Norway.
    pub(crate) countries: BTreeMap<String, Vec<String>>,
}

/// What is allowed with data of one home region.
#[tollgate_pack::settings]
pub(crate) struct Rule {
    /// The home region.
    pub(crate) home: String,
    /// The regions in which it may be processed.
    pub(crate) processing: Vec<String>,
    /// The regions from which it may be asked for; from everywhere when absent.
    pub(crate) origin: Option<Vec<String>>,
}

/// A transfer beyond the rule of the home region.
#[tollgate_pack::settings]
pub(crate) struct Transfer {
    /// The home region.
    pub(crate) home: String,
    /// The region in which it is processed, or from which it is asked for.
    pub(crate) to: String,
    /// Only on these routes; on all when absent.
    pub(crate) routes: Option<Vec<String>>,
    /// Why it is lawful, such as `SCC 2021/914 module 2, contract 4711`. The upstream may be told.
    #[schemars(length(min = 1))]
    pub(crate) basis: String,
    /// The last day, in UTC: `2027-06-30`; without end when absent.
    pub(crate) until: Option<Date>,
}

/// Headers for the upstream. What a client sent under these names is removed.
#[tollgate_pack::settings]
#[derive(Default)]
pub(crate) struct Tell {
    /// This header names the home region.
    pub(crate) home: Option<String>,
    /// This header names the basis of each transfer that was needed.
    pub(crate) basis: Option<String>,
}

/// A day.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, tollgate_pack::serde::Deserialize)]
#[serde(crate = "::tollgate_pack::serde", try_from = "Value")]
pub(crate) struct Date {
    pub(crate) year: i16,
    pub(crate) month: u8,
    pub(crate) day: u8,
}

impl Settings {
    /// Finds what no schema finds.
    pub(crate) fn check(&self) -> Result<(), String> {
        let Home { tenants, data, claim } = &self.home;
        if tenants.is_empty() && data.is_none() && claim.is_none() {
            return Err(
                "`home` says of no tenant where its data is: give `tenants`, `data` or `claim`"
                    .to_owned(),
            );
        }
        for (at, rule) in self.rules.iter().enumerate() {
            if rule.home.is_empty() || !is_header_value(&rule.home) {
                return Err(format!(
                    "`{}` can't be a region: it is empty or has control characters",
                    rule.home
                ));
            }
            if self.rules.iter().take(at).any(|earlier| earlier.home == rule.home) {
                return Err(format!("there are two rules for `{}`", rule.home));
            }
            let nowhere = self.origin.networks.is_empty() && self.origin.header.is_none();
            if rule.origin.is_some() && nowhere {
                return Err(format!(
                    "the rule for `{}` asks where callers sit: give `origin.networks` or `origin.header`",
                    rule.home
                ));
            }
        }
        let ruled = |home: &String| self.rules.iter().any(|rule| rule.home == *home);
        if let Some(home) = tenants.values().find(|home| !ruled(home)) {
            return Err(format!(
                "there is no rule for `{home}`, in which tenants' data is at home"
            ));
        }
        if let Some(transfer) = self.transfers.iter().find(|transfer| !ruled(&transfer.home)) {
            return Err(format!(
                "there is no rule for `{}`, from which a transfer is",
                transfer.home
            ));
        }
        let bases = self.transfers.iter().map(|transfer| &transfer.basis);
        if let Some(basis) =
            bases.into_iter().find(|basis| basis.is_empty() || !is_header_value(basis))
        {
            return Err(format!(
                "`{basis}` can't be a basis: it is empty or has control characters"
            ));
        }
        let countries = self.origin.header.iter().map(|header| &header.name);
        let mut names = self.tell.home.iter().chain(&self.tell.basis).chain(countries);
        match names.find(|name| !is_header_name(name)) {
            Some(name) => Err(format!("`{name}` is not a header's name")),
            None => Ok(()),
        }
    }
}

impl Processing {
    pub(crate) fn region(&self, route: &str) -> &str {
        self.routes.get(route).unwrap_or(&self.default)
    }
}

impl TryFrom<Value> for Date {
    type Error = String;

    fn try_from(value: Value) -> Result<Self, String> {
        let parse = |text: &str| {
            let parts: Vec<&str> = text.split('-').collect();
            let [year, month, day] = parts.as_slice() else { return None };
            let digits = |part: &str, length| {
                part.len() == length && part.bytes().all(|byte| byte.is_ascii_digit())
            };
            let whole = digits(year, 4) && digits(month, 2) && digits(day, 2);
            let (year, month, day) = (year.parse().ok()?, month.parse().ok()?, day.parse().ok()?);
            let real = whole && (1..=12).contains(&month) && (1..=31).contains(&day);
            real.then_some(Self { year, month, day })
        };
        value
            .as_str()
            .and_then(parse)
            .ok_or_else(|| format!("{value} is no day: write `2027-06-30`"))
    }
}

impl schemars::JsonSchema for Date {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Date".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "string", "pattern": "^[0-9]{4}-[0-9]{2}-[0-9]{2}$" })
    }
}
