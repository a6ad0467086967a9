//! Where and how the running version of an attachment decides, as flags say it.

use super::named;
use crate::misused;
use anyhow::Context as _;
use clap::Args;
use model::document::{Mode, OnFailure, PhaseName};
use serde_json::{Map, Value, json};

/// Where and how the running version decides. What is not said stays as it is.
#[derive(Args)]
#[command(next_help_heading = "The attachment")]
pub(super) struct Placed {
    /// Exchanges of this tenant.
    #[arg(long)]
    tenant: Option<String>,
    /// Exchanges of this service.
    #[arg(long)]
    service: Option<String>,
    /// Exchanges on this route.
    #[arg(long)]
    route: Option<String>,
    /// When it speaks: cost, request, response; several with commas.
    #[arg(long = "phase", value_delimiter = ',', value_parser = named::<PhaseName>)]
    phases: Vec<PhaseName>,
    /// Whether its decisions act: enforce, observe. Must be said for a new attachment.
    #[arg(long, value_parser = named::<Mode>)]
    mode: Option<Mode>,
    /// What happens when it can't decide: closed, open. Must be said for a new attachment.
    #[arg(long, value_parser = named::<OnFailure>)]
    on_failure: Option<OnFailure>,
    /// Lower numbers decide first.
    #[arg(long, allow_negative_numbers = true)]
    order: Option<i32>,
    /// The settings: JSON, or @FILE.
    #[arg(long, value_name = "JSON|@FILE")]
    settings: Option<String>,
    /// How many decisions one instance makes before it is dropped; 1 for a fresh one each time.
    #[arg(long, value_name = "N")]
    reuse: Option<u32>,
}

impl Placed {
    pub(super) fn is_said(&self) -> bool {
        let Self { tenant, service, route, phases, mode, on_failure, order, settings, reuse } =
            self;
        [tenant, service, route, settings].into_iter().any(Option::is_some)
            || !phases.is_empty()
            || mode.is_some()
            || on_failure.is_some()
            || order.is_some()
            || reuse.is_some()
    }

    /// What a new attachment must be told, as nobody else can know it.
    pub(super) fn new_attachment(&self) -> anyhow::Result<Map<String, Value>> {
        let said = [
            ("--phase", !self.phases.is_empty()),
            ("--mode", self.mode.is_some()),
            ("--on-failure", self.on_failure.is_some()),
        ];
        let missing: Vec<&str> =
            said.into_iter().filter(|(_, said)| !said).map(|(flag, _)| flag).collect();
        if !missing.is_empty() {
            return Err(misused(format!(
                "there is no such attachment yet, and a new one must be told {}",
                missing.join(", ")
            )));
        }
        Ok(Map::new())
    }

    pub(super) fn change(&self, fields: &mut Map<String, Value>) -> anyhow::Result<()> {
        let scope = [("tenant", &self.tenant), ("service", &self.service), ("route", &self.route)];
        for (part, id) in scope {
            if let Some(id) = id {
                let scope = fields.entry("scope").or_insert_with(|| json!({}));
                if let Some(scope) = scope.as_object_mut() {
                    scope.insert(part.to_owned(), json!(id));
                }
            }
        }
        if !self.phases.is_empty() {
            fields.insert("phases".to_owned(), json!(self.phases));
        }
        if let Some(mode) = self.mode {
            fields.insert("mode".to_owned(), json!(mode));
        }
        if let Some(on_failure) = self.on_failure {
            fields.insert("on_failure".to_owned(), json!(on_failure));
        }
        if let Some(order) = self.order {
            fields.insert("order".to_owned(), json!(order));
        }
        match self.reuse {
            Some(1) => drop(fields.remove("reuse")),
            Some(reuse) => drop(fields.insert("reuse".to_owned(), json!(reuse))),
            None => {}
        }
        if let Some(settings) = &self.settings {
            let (text, place) = match settings.strip_prefix('@') {
                Some(file) => {
                    let text = std::fs::read_to_string(file);
                    (text.with_context(|| format!("{file} can't be read"))?, file)
                }
                None => (settings.clone(), "--settings"),
            };
            let settings: Value =
                serde_json::from_str(&text).with_context(|| format!("{place} is no JSON"))?;
            fields.insert("settings".to_owned(), settings);
        }
        Ok(())
    }
}
