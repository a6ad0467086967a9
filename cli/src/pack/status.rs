//! `tollgate pack status`: which version decides where, how its candidates do, and what would take them back.

use super::list::{VERSIONS_MAX, label, lines};
use super::standing::{Seen, candidate, running};
use crate::remote::{self, Api, Form, Refusal, Remote};
use crate::{Ending, misused, print};
use clap::Args;
use model::document::Attachment;
use model::id::is_id;
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// The most attachments that are looked through.
const ATTACHMENTS_MAX: usize = 100_000;
/// Rollouts of a pack that are looked through: the newest.
const ROLLOUTS_MAX: usize = 500;

/// Shows each pack's versions, where they are attached, and its rollouts: what was seen of a candidate, and what would roll
/// it back.
///
/// Example: tollgate pack status page-limit
#[derive(Args)]
pub(super) struct Status {
    /// Of this pack only.
    name: Option<String>,
    /// Prints `[{"pack", "versions", "attachments", "rollouts"}]`.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    remote: Remote,
}

/// What is to be told of one pack.
struct Told {
    pack: String,
    versions: Vec<Value>,
    attachments: Vec<Value>,
    rollouts: Vec<Value>,
}

impl Status {
    pub(super) fn run(self) -> anyhow::Result<Ending> {
        let form = Form::json_if(self.json);
        if let Some(name) = self.name.as_ref().filter(|name| !is_id(name)) {
            return Err(misused(format!("`{name}` is no name of a pack")));
        }
        let api = self.remote.connect()?;
        let packs = match remote::run(self.ask(&api))? {
            Ok(packs) => packs,
            Err(refusal) => return Ok(refusal.show(form)),
        };
        if form == Form::Json {
            let told: Vec<Value> = packs.iter().map(Told::json).collect();
            print(&Value::from(told).to_string());
            return Ok(Ending::Done);
        }
        match (&self.name, &*packs) {
            (Some(name), []) => print(&format!("there is no pack `{name}`")),
            (None, []) => print("there are no packs; `tollgate pack push FILE` brings one"),
            (_, packs) => {
                for (index, pack) in packs.iter().enumerate() {
                    if index > 0 {
                        print("");
                    }
                    pack.show()?;
                }
            }
        }
        let known = !packs.is_empty() || self.name.is_none();
        Ok(if known { Ending::Done } else { Ending::Refused })
    }

    async fn ask(&self, api: &Api) -> anyhow::Result<Result<Vec<Told>, Refusal>> {
        let versions = match api.items("/v1/packs?limit=500", VERSIONS_MAX).await? {
            Ok(versions) => versions,
            Err(refusal) => return Ok(Err(refusal)),
        };
        let attachments = match api.items("/v1/attachments?limit=500", ATTACHMENTS_MAX).await? {
            Ok(attachments) => attachments,
            Err(refusal) => return Ok(Err(refusal)),
        };
        let is_wanted = |name: &str| self.name.as_deref().is_none_or(|wanted| wanted == name);
        let names: BTreeSet<&str> = versions
            .iter()
            .filter_map(|version| version.get("id").and_then(Value::as_str))
            .filter(|name| is_wanted(name))
            .collect();
        let mut packs = Vec::new();
        for name in names {
            let path = format!("/v1/packs/{name}/rollouts?limit=500");
            let rollouts = match api.items(&path, ROLLOUTS_MAX).await? {
                Ok(rollouts) => rollouts,
                Err(refusal) => return Ok(Err(refusal)),
            };
            let of_it = |entry: &&Value, field: &str| {
                let text = entry.get(field).and_then(Value::as_str);
                text.and_then(|text| text.split('@').next()) == Some(name)
            };
            packs.push(Told {
                pack: name.to_owned(),
                versions: versions.iter().filter(|entry| of_it(entry, "id")).cloned().collect(),
                attachments: attachments
                    .iter()
                    .filter(|entry| of_it(entry, "pack"))
                    .cloned()
                    .collect(),
                rollouts,
            });
        }
        Ok(Ok(packs))
    }
}

impl Told {
    fn json(&self) -> Value {
        let Self { pack, versions, attachments, rollouts } = self;
        json!({ "pack": pack, "versions": versions, "attachments": attachments, "rollouts": rollouts })
    }

    fn show(&self) -> anyhow::Result<()> {
        lines(&self.versions).iter().for_each(|line| print(line));
        let rollouts: Vec<Seen> = self
            .rollouts
            .iter()
            .map(|rollout| serde_json::from_value(rollout.clone()))
            .collect::<Result<_, _>>()?;
        for entry in &self.attachments {
            let attachment: Attachment = serde_json::from_value(entry.clone())?;
            print("");
            print(&running(&attachment));
            let of_it = |seen: &&Seen| seen.attachment == attachment.id.as_str();
            if let Some(rollout) = &attachment.rollout {
                let is_it = |seen: &&Seen| {
                    seen.state == "open"
                        && rollout.candidate.ends_with(&format!("@{}", seen.candidate))
                };
                let seen = rollouts.iter().filter(of_it).find(is_it);
                candidate(&attachment, rollout, seen).iter().for_each(|line| print(line));
            }
            if let Some(last) = rollouts.iter().filter(of_it).find(|seen| seen.state != "open") {
                print(&format!("  before: {}", last.ended()));
            }
        }
        if self.attachments.is_empty() {
            let newest = self.versions.last().map(label).unwrap_or_default();
            print(&format!(
                "not attached; `tollgate pack attach {newest} --id ID …` has it decide"
            ));
        }
        Ok(())
    }
}
