//! `tollgate pack attach`: a version at work on some exchanges, or on its way there beside the running one.
//!
//! Invariant: the attachment that is changed is the one that was read: another change in between refuses this one.

mod candidate;
mod placed;

use super::reference::Reference;
use super::standing::{ends, share};
use crate::document::{Precondition, conditional};
use crate::remote::{self, Answer, Api, Form, Refusal, Remote};
use crate::{Ending, misused, print, say};
use anyhow::{Context as _, bail};
use candidate::Candidate;
use clap::Args;
use http::Method;
use model::document::Attachment;
use model::id::is_id;
use placed::Placed;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// Has a version of a pack decide: as the running version of an attachment, which is made when there is none, or with
/// --observe or --canary as a candidate beside the running version.
///
/// Example: tollgate pack attach page-limit@1.0.0 --id pages --route contacts.list --phase request --mode enforce
/// --on-failure closed --settings '{"most":50}'
///
/// Example: tollgate pack attach page-limit@1.1.0 --id pages --canary 10 --difference-rate 0.05
#[derive(Args)]
pub(super) struct Attach {
    /// NAME@VERSION.
    pack: Reference,
    /// The attachment.
    #[arg(long)]
    id: String,
    #[command(flatten)]
    place: Placed,
    #[command(flatten)]
    candidate: Candidate,
    /// Shows what it would change, and changes nothing.
    #[arg(long)]
    dry_run: bool,
    /// Prints what the API answers.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    remote: Remote,
}

/// A value by the name that documents write.
fn named<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    serde_json::from_value(text.into()).map_err(|error| error.to_string())
}

impl Attach {
    pub(super) fn run(self) -> anyhow::Result<Ending> {
        if !is_id(&self.id) {
            return Err(misused(format!("`{}` is no id of an attachment", self.id)));
        }
        if self.candidate.is_wanted() && self.place.is_said() {
            return Err(misused(
                "a candidate decides where and how the running version does: change the attachment first, without --observe or --canary",
            ));
        }
        if !self.candidate.is_wanted() && self.candidate.is_judged() {
            return Err(misused("what is said of a candidate needs --observe or --canary PERCENT"));
        }
        let form = Form::json_if(self.json);
        let api = self.remote.connect()?;
        match remote::run(self.publish(&api))? {
            Ok((answer, _)) if self.dry_run => return Ok(answer.tried(form)),
            Ok((answer, _)) if form == Form::Json => print(&answer.body.to_string()),
            Ok((answer, attachment)) => self.show(&answer, attachment)?,
            Err(refusal) if refusal.status() == 412 && form == Form::Text => {
                say(
                    "somebody else changed the attachment meanwhile; nothing was changed: run it again",
                );
                return Ok(Ending::Refused);
            }
            Err(refusal) => return Ok(refusal.show(form)),
        }
        Ok(Ending::Done)
    }

    async fn publish(&self, api: &Api) -> anyhow::Result<Result<(Answer, Value), Refusal>> {
        let path = format!("/v1/attachments/{}", self.id);
        let (present, precondition) = match api.get(&path).await?.success() {
            Ok(answer) => {
                let tag = answer.header("etag").context("the admin API sent no ETag")?.to_owned();
                (Some(answer.body), Precondition::Is(tag))
            }
            Err(refusal) if refusal.status() == 404 => (None, Precondition::Absent),
            Err(refusal) => return Ok(Err(refusal)),
        };
        let attachment = self.attachment(present)?;
        let path = if self.dry_run { format!("{path}?dry_run=true") } else { path };
        let request = conditional(api.request(Method::PUT, &path)?, &precondition);
        let answer = api.send(request.json(&attachment)).await?;
        Ok(answer.success().map(|answer| (answer, attachment)))
    }

    /// The attachment as it will be.
    fn attachment(&self, present: Option<Value>) -> anyhow::Result<Value> {
        let pack = self.pack.to_string();
        let mut fields = match present {
            Some(Value::Object(fields)) => fields,
            Some(_) => bail!("the admin API sent no attachment"),
            None if self.candidate.is_wanted() => bail!(
                "there is no attachment `{}` whose running version {pack} could decide beside; without --observe and --canary it is made",
                self.id
            ),
            None => self.place.new_attachment()?,
        };
        if let Some(rollout) = self.candidate.rollout(&pack) {
            fields.insert("rollout".to_owned(), rollout);
        } else {
            if fields.get("pack").and_then(Value::as_str) != Some(&*pack) {
                // What was measured against the version before says nothing any more.
                fields.remove("rollout");
            }
            // Whoever says what decides has it decide.
            fields.remove("halted");
            fields.insert("pack".to_owned(), pack.into());
            self.place.change(&mut fields)?;
        }
        Ok(Value::Object(fields))
    }

    fn show(&self, answer: &Answer, attachment: Value) -> anyhow::Result<()> {
        let Self { id, pack, .. } = self;
        let revision = answer.body.get("revision").and_then(Value::as_u64);
        let revision = revision.map_or_else(|| "published".to_owned(), |n| format!("revision {n}"));
        let attachment: Attachment = serde_json::from_value({
            let mut attachment = attachment;
            if let Some(fields) = attachment.as_object_mut() {
                fields.insert("id".to_owned(), json!(id));
            }
            attachment
        })?;
        match &attachment.rollout {
            Some(rollout) if self.candidate.is_wanted() => {
                print(&format!(
                    "{revision}: {pack} decides on {id} beside {}: {}",
                    attachment.pack,
                    share(rollout)
                ));
                for line in ends(&attachment, rollout) {
                    print(&format!("  {line}"));
                }
            }
            _ => print(&format!("{revision}: {pack} decides on {id}")),
        }
        Ok(())
    }
}
