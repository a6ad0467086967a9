//! Keeps data where it may be: denies a request whose tenant's data would be processed, or is asked for, outside of the
//! regions that its home region's rule names.
//!
//! Three questions are answered for each request: where is the tenant's data at home, where does the route process it, and
//! where does the caller sit. What can't be answered is denied. A transfer beyond the rule needs an entry that names its legal
//! basis (for the EU: GDPR Chapter V), and may end on a day.

mod place;
mod settings;
#[cfg(test)]
mod tests;

use tollgate_pack::{Decision, Denial, Edits, LocalTime, Policy, Request};

use place::{Homes, Origins};
use settings::{Date, Rule, Settings, Transfer};

struct DataResidency {
    homes: Homes,
    origins: Origins,
    settings: Settings,
}

#[tollgate_pack::pack]
impl Policy for DataResidency {
    type Settings = Settings;

    fn new(settings: Settings) -> Result<Self, String> {
        settings.check()?;
        Ok(Self {
            homes: Homes::new(&settings.home),
            origins: Origins::new(&settings.origin)?,
            settings,
        })
    }

    fn on_request(&self, request: &Request) -> Decision {
        self.judge(request).into()
    }
}

impl DataResidency {
    fn judge(&self, request: &Request) -> Result<Edits, Denial> {
        let home = self.homes.of(request)?;
        let Some(rule) = self.settings.rules.iter().find(|rule| rule.home == home) else {
            let message = "No rule says where this tenant's data may be.";
            return Err(Denial::new("home_without_rule", message).detail("home", home));
        };
        let route = request.route();
        let mut bases = Vec::new();
        let processed = self.settings.processing.region(&route);
        if !rule.processing.iter().any(|region| region == processed) {
            let refused = Denial::new(
                "processing_outside",
                "This route processes data outside of the regions that the tenant's data may be in.",
            );
            bases.push(self.transfer(
                request,
                rule,
                processed,
                refused.detail("processing", processed),
            )?);
        }
        if let Some(allowed) = &rule.origin {
            let origin = self.origins.of(request)?;
            if !allowed.contains(&origin) {
                let refused = Denial::new(
                    "origin_outside",
                    "The tenant's data may not be asked for from this region.",
                );
                bases.push(self.transfer(
                    request,
                    rule,
                    &origin,
                    refused.detail("origin", &origin),
                )?);
            }
        }
        Ok(self.told(&home, &bases))
    }

    /// The transfer that allows what the rule alone does not; else the refusal.
    fn transfer(
        &self,
        request: &Request,
        rule: &Rule,
        to: &str,
        refused: Denial,
    ) -> Result<&Transfer, Denial> {
        let route = request.route();
        let mut fitting = self.settings.transfers.iter().filter(|transfer| {
            let of_route = transfer.routes.as_ref().is_none_or(|routes| routes.contains(&route));
            transfer.home == rule.home && transfer.to == to && of_route
        });
        let refused = || refused.clone().detail("home", &rule.home).detail("route", &route);
        let Some(first) = fitting.clone().next() else { return Err(refused()) };
        // Days end in UTC, wherever the caller is.
        let today = request.local_time(Some("UTC")).map(|now| Date::from(&now));
        let holds = |transfer: &&Transfer| match (&transfer.until, &today) {
            (None, _) => true,
            (Some(until), Some(today)) => today <= until,
            (Some(_), None) => false,
        };
        fitting.find(holds).ok_or_else(|| refused().detail("basis_ended", &first.basis))
    }

    /// Tells the upstream what was found, where the settings name headers for it.
    fn told(&self, home: &str, bases: &[&Transfer]) -> Edits {
        let tell = &self.settings.tell;
        let mut edits = Edits::new();
        if let Some(name) = &tell.home {
            edits = edits.set(name, home);
        }
        if let Some(name) = &tell.basis {
            // One that the client sent says nothing.
            edits = edits.remove(name);
            edits = bases
                .iter()
                .fold(edits, |edits, transfer| edits.append(name, transfer.basis.as_str()));
        }
        edits
    }
}

impl From<&LocalTime> for Date {
    fn from(now: &LocalTime) -> Self {
        Self { year: now.year, month: now.month, day: now.day }
    }
}
