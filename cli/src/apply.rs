//! `tollgate apply`: a document's file, merged into the document in force, shown, asked about, and published.
//!
//! Invariant: what is published is what was shown. It was made from one revision and goes out with that revision's tag, so
//! that another change in between refuses it.

use crate::difference::{self, Change, Op};
use crate::document::{self, Precondition, conditional};
use crate::remote::{self, Api, Form, Refusal, Remote};
use crate::{Ending, misused, print, say};
use anyhow::Context as _;
use clap::Args;
use http::Method;
use model::config::{self, ConfigError};
use model::id::is_id;
use model::upsert::{Prune, upsert};
use serde_json::{Value, json};
use std::io::{BufRead as _, IsTerminal as _, Write as _};
use std::path::PathBuf;

/// How many changes are shown; what is deleted always is.
const CHANGES_SHOWN: usize = 100;

/// Publishes what a file says: adds and changes the resources that it names, and deletes nothing without --prune. Shows
/// every error, or the difference, and asks.
///
/// Example: tollgate apply plans.yaml --dry-run
#[derive(Args)]
pub(crate) struct Apply {
    /// The document or a part of one, YAML or JSON; `-` for standard input (then with --yes or --dry-run).
    document: PathBuf,
    /// Shows what would change, and changes nothing.
    #[arg(long)]
    dry_run: bool,
    /// Deletes what the file doesn't name: afterwards the document is the file's.
    #[arg(long)]
    prune: bool,
    /// Doesn't ask.
    #[arg(long)]
    yes: bool,
    /// Puts the revision in force on these nodes first; `POST /v1/revisions/{n}:release` gives it to all.
    #[arg(long, value_delimiter = ',', value_name = "NODE")]
    nodes: Vec<String>,
    /// Prints `{"valid", "errors", "changes", "applied", "revision"}`.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    remote: Remote,
}

/// What is to be published, and what it was made from.
struct Plan {
    text: String,
    changes: Vec<Change>,
    merged: Value,
    precondition: Precondition,
}

impl Apply {
    pub(crate) fn run(self) -> anyhow::Result<Ending> {
        let asks = !self.yes && !self.dry_run;
        if asks && (self.document.as_os_str() == "-" || !std::io::stdin().is_terminal()) {
            return Err(misused(
                "nobody can be asked here: --yes applies without asking, --dry-run only shows",
            ));
        }
        if let Some(name) = self.nodes.iter().find(|name| !is_id(name)) {
            return Err(misused(format!("`{name}` is not the name of a node")));
        }
        let form = Form::json_if(self.json);
        let text = document::text_of(&self.document)?;
        let file = match config::parse(&text) {
            Ok(file) => file,
            Err(errors) => return Ok(refused(&errors, form)),
        };
        let api = self.remote.connect()?;
        remote::run(self.publish(&api, text, file, form))
    }

    async fn publish(
        &self,
        api: &Api,
        text: String,
        file: Value,
        form: Form,
    ) -> anyhow::Result<Ending> {
        let plan = match self.plan(api, text, &file).await? {
            Ok(plan) => plan,
            Err(refusal) => return Ok(refusal.show(form)),
        };
        if plan.changes.is_empty() {
            match form {
                Form::Text => print("nothing to change: the document says all of this already"),
                Form::Json => print(&told(&[], &plan.changes, None)),
            }
            return Ok(Ending::Done);
        }
        let errors = document::dry_run(api, plan.text.clone(), &plan.precondition).await?;
        match errors {
            Ok(errors) if errors.is_empty() => {}
            Ok(errors) => return Ok(refused(&located(&errors, &plan, &file), form)),
            Err(refusal) => return Ok(lost(&refusal, form)),
        }
        if form == Form::Text {
            show(&plan.changes);
        }
        if self.dry_run {
            if form == Form::Json {
                print(&told(&[], &plan.changes, None));
            }
            return Ok(Ending::Done);
        }
        if !self.yes && !confirmed()? {
            say("nothing was changed");
            return Ok(Ending::Refused);
        }
        self.put(api, plan, form).await
    }

    /// What the file makes of the newest document.
    async fn plan(
        &self,
        api: &Api,
        text: String,
        file: &Value,
    ) -> anyhow::Result<Result<Plan, Refusal>> {
        let answer = match api.get("/v1/document").await?.success() {
            Ok(answer) => Some(answer),
            Err(refusal) if refusal.status() == 404 && refusal.code() == Some("NOT_FOUND") => None,
            Err(refusal) => return Ok(Err(refusal)),
        };
        let precondition = match &answer {
            None => Precondition::Absent,
            Some(answer) => {
                let tag = answer.header("etag").context("the admin API sent no ETag")?;
                Precondition::Is(tag.to_owned())
            }
        };
        let current = answer.map_or(Value::Null, |answer| answer.body);
        let prune = if self.prune { Prune::Delete } else { Prune::Keep };
        let merged = upsert(&current, file, prune);
        let before = if current.is_null() { json!({}) } else { current };
        Ok(Ok(Plan {
            changes: difference::changes(&before, &merged),
            // The file's own text, with its comments, where the file is the document.
            text: if merged == *file { text } else { merged.to_string() },
            merged,
            precondition,
        }))
    }

    async fn put(&self, api: &Api, plan: Plan, form: Form) -> anyhow::Result<Ending> {
        let path = match &*self.nodes {
            [] => "/v1/document".to_owned(),
            nodes => format!("/v1/document?nodes={}", nodes.join(",")),
        };
        let request = conditional(api.request(Method::PUT, &path)?, &plan.precondition);
        let answer = api
            .send(request.body(plan.text.clone()))
            .await
            .context("it is not known whether the document was published; apply it again to see")?;
        let answer = match answer.success() {
            Ok(answer) => answer,
            Err(refusal) => return Ok(lost(&refusal, form)),
        };
        let revision = answer.body.get("revision").and_then(Value::as_u64);
        match (form, revision, &*self.nodes) {
            (Form::Json, ..) => print(&told(&[], &plan.changes, revision)),
            (Form::Text, None, _) => print("published"),
            (Form::Text, Some(revision), []) => print(&format!("revision {revision} is published")),
            (Form::Text, Some(revision), nodes) => print(&format!(
                "revision {revision} is published on {}; POST /v1/revisions/{revision}:release gives it to all",
                nodes.join(", ")
            )),
        }
        Ok(Ending::Done)
    }
}

/// Errors where the file has them.
fn located(errors: &[ConfigError], plan: &Plan, file: &Value) -> Vec<ConfigError> {
    let moved = |error: &ConfigError| {
        let pointer = difference::place(&error.pointer, &plan.merged, file);
        ConfigError::new(pointer, error.message.clone())
    };
    errors.iter().map(moved).collect()
}

/// A refusal, or what is to be said when another change came first.
fn lost(refusal: &Refusal, form: Form) -> Ending {
    if refusal.status() == 412 && form == Form::Text {
        say(
            "somebody else changed the document meanwhile; nothing was changed: run it again to see what is different now",
        );
        return Ending::Refused;
    }
    refusal.show(form)
}

/// What is printed as JSON.
fn told(errors: &[ConfigError], changes: &[Change], revision: Option<u64>) -> String {
    let told = json!({
        "valid": errors.is_empty(), "errors": errors, "changes": changes,
        "applied": revision.is_some(), "revision": revision,
    });
    told.to_string()
}

/// Prints errors as `check` does.
fn refused(errors: &[ConfigError], form: Form) -> Ending {
    match form {
        Form::Json => print(&told(errors, &[], None)),
        Form::Text => return document::show_errors(errors, form),
    }
    Ending::Refused
}

/// Prints what is deleted, then the rest.
fn show(changes: &[Change]) {
    let (deleted, rest): (Vec<&Change>, Vec<&Change>) =
        changes.iter().partition(|change| change.op == Op::Remove);
    for change in deleted.iter().chain(rest.iter().take(CHANGES_SHOWN)) {
        print(&change.to_string());
    }
    if let Some(more) = rest.len().checked_sub(CHANGES_SHOWN).filter(|more| *more > 0) {
        print(&format!("… and {more} more"));
    }
    let count = |name: &str, op: Op| match changes.iter().filter(|change| change.op == op).count() {
        0 => None,
        count => Some(format!("{count} {name}")),
    };
    let counts = [
        count("deleted", Op::Remove),
        count("added", Op::Add),
        count("changed", Op::Change),
        count("reordered", Op::Reorder),
    ];
    print(&counts.into_iter().flatten().collect::<Vec<_>>().join(", "));
}

fn confirmed() -> anyhow::Result<bool> {
    let mut terminal = std::io::stderr();
    write!(terminal, "Apply? [y/N] ")?;
    terminal.flush()?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    Ok(matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
}
