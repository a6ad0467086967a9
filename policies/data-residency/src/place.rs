//! Where a tenant's data is at home, and where a caller sits.

use std::collections::BTreeMap;

use ipnet::IpNet;
use tollgate_pack::{Denial, Request};

use crate::settings::{Home, Origin};

/// The European Union's members (ISO 3166-1; Greece is `GR`).
const EU: &[&str] = &[
    "AT", "BE", "BG", "CY", "CZ", "DE", "DK", "EE", "ES", "FI", "FR", "GR", "HR", "HU", "IE", "IT",
    "LT", "LU", "LV", "MT", "NL", "PL", "PT", "RO", "SE", "SI", "SK",
];
/// Who belongs to the European Economic Area beside them.
const EFTA_IN_EEA: &[&str] = &["IS", "LI", "NO"];

/// Where the tenants' data is at home.
pub(crate) struct Homes {
    tenants: BTreeMap<String, String>,
    data: Option<String>,
    claim: Option<String>,
}

/// Where callers sit.
pub(crate) struct Origins {
    networks: Vec<(IpNet, String)>,
    header: Option<String>,
    countries: BTreeMap<String, String>,
}

impl Homes {
    pub(crate) fn new(home: &Home) -> Self {
        Self { tenants: home.tenants.clone(), data: home.data.clone(), claim: home.claim.clone() }
    }

    /// The home region of the caller's tenant.
    pub(crate) fn of(&self, request: &Request) -> Result<String, Denial> {
        let tenant = request.tenant();
        let kept = || {
            let key = self.data.as_ref()?.clone() + &tenant;
            let region = String::from_utf8(request.data(&key)?).ok()?;
            Some(region.trim().to_owned()).filter(|region| !region.is_empty())
        };
        let claimed = || request.claim_as(self.claim.as_ref()?);
        self.tenants.get(&tenant).cloned().or_else(kept).or_else(claimed).ok_or_else(|| {
            Denial::new("home_unknown", "It is not known where this tenant's data is at home.")
        })
    }
}

impl Origins {
    pub(crate) fn new(origin: &Origin) -> Result<Self, String> {
        let mut networks = Vec::new();
        for (region, blocks) in &origin.networks {
            for block in blocks {
                let parsed: IpNet = block.parse().map_err(|_| {
                    format!("`{block}` of `{region}` is no CIDR block: write `192.0.2.0/24`")
                })?;
                networks.push((parsed, region.clone()));
            }
        }
        // The narrowest block that holds an address says where it is.
        networks.sort_by_key(|(block, _)| std::cmp::Reverse(block.prefix_len()));
        let mut countries = BTreeMap::new();
        let listed = origin.header.iter().flat_map(|header| &header.countries);
        for (region, codes) in listed {
            for code in codes {
                for country in members(code)? {
                    if let Some(other) = countries
                        .insert(country.to_owned(), region.clone())
                        .filter(|other| other != region)
                    {
                        return Err(format!("`{country}` is in `{other}` and in `{region}`"));
                    }
                }
            }
        }
        let header = origin.header.as_ref().map(|header| header.name.clone());
        Ok(Self { networks, header, countries })
    }

    /// The region that the caller sits in.
    pub(crate) fn of(&self, request: &Request) -> Result<String, Denial> {
        let address = request.client_ip();
        let network =
            self.networks.iter().find(|(block, _)| address.is_some_and(|it| block.contains(&it)));
        if let Some((_, region)) = network {
            return Ok(region.clone());
        }
        let country = self.header.as_ref().and_then(|name| {
            // Two lines: somebody else than the edge wrote one of them.
            let mut lines = request.headers_all(name);
            let country = lines.pop().filter(|_| lines.is_empty())?;
            Some(String::from_utf8(country).ok()?.to_ascii_uppercase())
        });
        country.and_then(|country| self.countries.get(&country).cloned()).ok_or_else(|| {
            Denial::new("origin_unknown", "It is not known from which region this request comes.")
                .detail("address", request.client_address())
        })
    }
}

/// The countries that a code stands for.
fn members(code: &str) -> Result<Vec<&str>, String> {
    match code {
        "EU" => Ok(EU.to_vec()),
        "EEA" => Ok([EU, EFTA_IN_EEA].concat()),
        code if code.len() == 2 && code.bytes().all(|byte| byte.is_ascii_uppercase()) => {
            Ok(vec![code])
        }
        code => Err(format!(
            "`{code}` is no country: write ISO 3166-1 codes such as `DE`, or `EU`, or `EEA`"
        )),
    }
}
