//! `tollgate webhooks replay`: the events of a window, sent again by a job.

use super::deliveries::{are_ids, cell};
use crate::remote::{self, Api, Form, Refusal, Remote};
use crate::{Ending, misused, print, say};
use clap::Args;
use http::Method;
use jiff::Timestamp;
use serde_json::{Value, json};
use std::io::{BufRead as _, IsTerminal as _, Write as _};
use std::time::Duration;

/// Between two looks at a job that is followed.
const LOOK_PAUSE: Duration = Duration::from_secs(1);

/// Sends the events that a tenant's window accepted again. Says how many that is, asks, and starts a job, which goes on
/// whatever becomes of this command. What was delivered is skipped, unless --force.
///
/// Example: tollgate webhooks replay --tenant acme --endpoint acme-hook --since 2026-11-21T09:00:00Z --until 2026-11-21T12:00:00Z
#[derive(Args)]
pub(super) struct Replay {
    /// Whose events.
    #[arg(long, value_name = "ID")]
    tenant: String,
    /// To this endpoint; to all of the tenant's when absent.
    #[arg(long, value_name = "ID")]
    endpoint: Option<String>,
    /// Events that were accepted from then on.
    #[arg(long, value_name = "TIME")]
    since: Timestamp,
    /// Events that were accepted before then; now when absent. At most 31 days after --since.
    #[arg(long, value_name = "TIME")]
    until: Option<Timestamp>,
    /// Only events of this type, `*` for any run of characters; may stand several times.
    #[arg(long = "type", value_name = "TYPE")]
    types: Vec<String>,
    /// Sends what was delivered once more, too.
    #[arg(long)]
    force: bool,
    /// How many a second are queued at most.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    rate: u32,
    /// Says how many it would be, and starts nothing.
    #[arg(long)]
    dry_run: bool,
    /// Doesn't ask.
    #[arg(long)]
    yes: bool,
    /// Waits until all are queued.
    #[arg(long)]
    follow: bool,
    /// Prints what the API answers: the dry run's count, or the job.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    remote: Remote,
}

impl Replay {
    pub(super) fn run(self) -> anyhow::Result<Ending> {
        are_ids(std::iter::once(&self.tenant).chain(&self.endpoint))?;
        if !self.yes && !self.dry_run && !std::io::stdin().is_terminal() {
            return Err(misused(
                "nobody can be asked here: --yes starts it without asking, --dry-run only counts",
            ));
        }
        let api = self.remote.connect()?;
        remote::run(self.replay(&api))
    }

    async fn replay(&self, api: &Api) -> anyhow::Result<Ending> {
        let form = Form::json_if(self.json);
        let asked = self.asked();
        if !self.yes || self.dry_run {
            let counted = match post(api, "/v1/webhook_replays?dry_run=true", &asked).await? {
                Ok(counted) => counted,
                Err(refusal) => return Ok(refusal.show(form)),
            };
            let at = |pointer| cell(&counted, pointer);
            match form {
                Form::Json if self.dry_run => print(&counted.to_string()),
                Form::Json => {}
                Form::Text => print(&format!(
                    "{} events: {} deliveries to queue, {} to skip",
                    at("/events"),
                    at("/queue"),
                    at("/skip")
                )),
            }
            if self.dry_run {
                return Ok(Ending::Done);
            }
            if !confirmed()? {
                say("nothing was started");
                return Ok(Ending::Refused);
            }
        }
        let started = match post(api, "/v1/webhook_replays", &asked).await? {
            Ok(started) => started,
            Err(refusal) => return Ok(refusal.show(form)),
        };
        if self.follow { follow(api, &started, form).await } else { Ok(told(&started, form)) }
    }

    fn asked(&self) -> Value {
        let mut asked = json!({
            "tenant": self.tenant,
            "since": self.since,
            "until": self.until.unwrap_or_else(|| model::Clock::system().now()),
            "types": self.types,
            "dedupe": if self.force { "force" } else { "skip_delivered" },
            "rate": self.rate,
        });
        if let (Some(endpoint), Some(fields)) = (&self.endpoint, asked.as_object_mut()) {
            fields.insert("endpoint".to_owned(), endpoint.as_str().into());
        }
        asked
    }
}

async fn post(api: &Api, path: &str, body: &Value) -> anyhow::Result<Result<Value, Refusal>> {
    let request = api.request(Method::POST, path)?.json(body);
    Ok(api.send(request).await?.success().map(|answer| answer.body))
}

/// Waits for its end, and says how far it is where somebody looks.
async fn follow(api: &Api, started: &Value, form: Form) -> anyhow::Result<Ending> {
    let path = format!("/v1/webhook_replays/{}", cell(started, "/id"));
    loop {
        let replay = match api.get(&path).await?.success() {
            Ok(answer) => answer.body,
            Err(refusal) => return Ok(refusal.show(form)),
        };
        match cell(&replay, "/state").as_str() {
            "running" => {}
            state => {
                let done = state == "done";
                told(&replay, form);
                return Ok(if done { Ending::Done } else { Ending::Refused });
            }
        }
        if std::io::stderr().is_terminal() {
            let (queued, counted) = (cell(&replay, "/queued"), cell(&replay, "/counted"));
            say(&format!("{queued} of {counted} queued"));
        }
        tokio::time::sleep(LOOK_PAUSE).await;
    }
}

fn told(replay: &Value, form: Form) -> Ending {
    let at = |pointer| cell(replay, pointer);
    match form {
        Form::Json => print(&replay.to_string()),
        Form::Text => print(&format!(
            "replay {} is {}: {} of {} queued, {} skipped",
            at("/id"),
            at("/state"),
            at("/queued"),
            at("/counted"),
            at("/skipped")
        )),
    }
    Ending::Done
}

fn confirmed() -> anyhow::Result<bool> {
    let mut out = std::io::stderr();
    write!(out, "Send them again? [y/N] ")?;
    out.flush()?;
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line)?;
    Ok(matches!(line.trim(), "y" | "Y" | "yes"))
}
