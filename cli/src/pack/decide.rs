//! `tollgate pack promote`, `rollback`, `quarantine`: what people decide about a version.

use super::reference::Reference;
use crate::remote::{self, Answer, Form, Remote};
use crate::{Ending, print};
use clap::Args;
use http::Method;
use serde_json::{Map, Value};

/// Makes a candidate the running version, where it is one.
///
/// Example: tollgate pack promote page-limit@1.1.0
#[derive(Args)]
pub(super) struct Promote {
    #[command(flatten)]
    decision: Decision,
}

/// Takes a candidate back; a running version is replaced by the one that ran before.
///
/// Example: tollgate pack rollback page-limit@1.1.0 --reason "denies the mobile client"
#[derive(Args)]
pub(super) struct Rollback {
    #[command(flatten)]
    decision: Decision,
}

/// Takes a version out of service everywhere, for good: candidates are taken back, running versions replaced by the one
/// that ran before. Where there was none the attachment is halted, and its `on_failure` holds.
///
/// Example: tollgate pack quarantine page-limit@1.1.0 --reason "leaks notes in its message"
#[derive(Args)]
pub(super) struct Quarantine {
    /// NAME@VERSION.
    pack: Reference,
    /// Why, for people; kept in the document, the history and the audit log.
    #[arg(long)]
    reason: String,
    /// Shows what it would change, and changes nothing.
    #[arg(long)]
    dry_run: bool,
    /// Prints what the API answers.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    remote: Remote,
}

/// About which version, where, and why.
#[derive(Args)]
struct Decision {
    /// NAME@VERSION.
    pack: Reference,
    /// On this attachment only.
    #[arg(long, value_name = "ID")]
    attachment: Option<String>,
    /// Why, for people; kept in the history and the audit log.
    #[arg(long)]
    reason: Option<String>,
    /// Shows what it would change, and changes nothing.
    #[arg(long)]
    dry_run: bool,
    /// Prints what the API answers.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    remote: Remote,
}

impl Promote {
    pub(super) fn run(self) -> anyhow::Result<Ending> {
        self.decision.run("promote")
    }
}

impl Rollback {
    pub(super) fn run(self) -> anyhow::Result<Ending> {
        self.decision.run("rollback")
    }
}

impl Quarantine {
    pub(super) fn run(self) -> anyhow::Result<Ending> {
        let Self { pack, reason, dry_run, json, remote } = self;
        let decision =
            Decision { pack, attachment: None, reason: Some(reason), dry_run, json, remote };
        decision.run("quarantine")
    }
}

impl Decision {
    fn run(self, verb: &str) -> anyhow::Result<Ending> {
        let form = Form::json_if(self.json);
        let api = self.remote.connect()?;
        let dry_run = if self.dry_run { "?dry_run=true" } else { "" };
        let path = format!("{}:{verb}{dry_run}", self.pack.path());
        let fields = [("attachment", &self.attachment), ("reason", &self.reason)];
        let body: Map<String, Value> = fields
            .into_iter()
            .filter_map(|(name, value)| {
                value.as_deref().map(|value| (name.to_owned(), value.into()))
            })
            .collect();
        let request = api.request(Method::POST, &path)?.json(&body);
        match remote::run(api.send(request))?.success() {
            Ok(answer) if self.dry_run => return Ok(answer.tried(form)),
            Ok(answer) if form == Form::Json => print(&answer.body.to_string()),
            Ok(answer) => {
                for line in told(&answer) {
                    print(&line);
                }
            }
            Err(refusal) => return Ok(refusal.show(form)),
        }
        Ok(Ending::Done)
    }
}

/// What became of each attachment, and the revision that says so.
fn told(answer: &Answer) -> Vec<String> {
    let attachments = answer.body.get("attachments").and_then(Value::as_array);
    let text = |entry: &Value, field: &str| {
        entry.get(field).and_then(Value::as_str).unwrap_or_default().to_owned()
    };
    let mut lines: Vec<String> = attachments
        .into_iter()
        .flatten()
        .map(|entry| {
            let became = match &*text(entry, "became") {
                "promoted" => "now runs",
                "rolled_back" => "runs",
                "halted" => "is halted: nothing ran there before",
                other => other,
            }
            .to_owned();
            match text(entry, "pack") {
                pack if pack.is_empty() => format!("{} {became}", text(entry, "id")),
                pack => format!("{} {became} {pack}", text(entry, "id")),
            }
        })
        .collect();
    let revision = answer.body.get("revision").and_then(Value::as_u64);
    lines.extend(revision.map(|revision| format!("revision {revision} is published")));
    lines
}
