//! `tollgate pack diff`: where a candidate decided otherwise.

use super::reference::Named;
use crate::remote::{self, Form, Remote};
use crate::{Ending, print};
use clap::Args;
use model::rollout::Difference;
use serde_json::Value;

/// How many differences are shown when nobody says.
const SHOWN: usize = 20;
/// How many are looked through at most: as many as a rollout keeps.
const LOOKED_AT_MAX: usize = 10_000;

/// Shows on which requests a candidate decided otherwise than the running version, newest first: the request's id, both
/// decisions, and in what they differ.
///
/// Example: tollgate pack diff page-limit@1.1.0
#[derive(Args)]
pub(super) struct Diff {
    /// NAME, or NAME@VERSION for one candidate.
    pack: Named,
    /// Of this attachment only.
    #[arg(long, value_name = "ID")]
    attachment: Option<String>,
    /// At most so many.
    #[arg(long, default_value_t = SHOWN)]
    limit: usize,
    /// Prints a JSON array.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    remote: Remote,
}

impl Diff {
    pub(super) fn run(self) -> anyhow::Result<Ending> {
        let form = Form::json_if(self.json);
        let api = self.remote.connect()?;
        let attachment =
            self.attachment.as_ref().map(|id| format!("&attachment={id}")).unwrap_or_default();
        let path = format!("/v1/packs/{}/differences?limit=500{attachment}", self.pack.name);
        let most = if self.pack.version.is_some() { LOOKED_AT_MAX } else { self.limit };
        let mut found = match remote::run(api.items(&path, most))? {
            Ok(found) => found,
            Err(refusal) => return Ok(refusal.show(form)),
        };
        if let Some(version) = &self.pack.version {
            let candidate =
                |found: &Value| found.get("candidate").and_then(Value::as_str).map(str::to_owned);
            found.retain(|found| candidate(found).as_ref() == Some(version));
        }
        found.truncate(self.limit);
        if form == Form::Json {
            print(&Value::from(found).to_string());
            return Ok(Ending::Done);
        }
        if found.is_empty() {
            print("no differences");
        }
        for difference in found {
            show(&serde_json::from_value(difference)?);
        }
        Ok(Ending::Done)
    }
}

fn show(difference: &Difference) {
    let Difference { at, attachment, request_id, tenant, consumer, route, phase, .. } = difference;
    let acted = |which: &str| if difference.acted == which { " (acted)" } else { "" };
    print(&format!("{at:.3} {request_id}"));
    print(&format!("  {attachment}, {phase}: {tenant}/{consumer} on {route}"));
    print(&format!(
        "  {}: {}{}",
        difference.running,
        difference.running_decision,
        acted("running")
    ));
    print(&format!(
        "  {}: {}{}",
        difference.candidate,
        difference.candidate_decision,
        acted("candidate")
    ));
    print(&format!("  {}", difference.why));
}
