//! `tollgate export`: the document, as `apply` takes it.

use crate::document;
use crate::remote::{self, Answer, Api, Form, Refusal, Remote};
use crate::{Ending, print};
use anyhow::Context as _;
use clap::Args;
use model::config;
use serde_json::Value;

/// Prints the newest document, or that of one revision: as it was written where that is YAML, else as YAML.
///
/// Example: tollgate export --revision 7 > document.yaml
#[derive(Args)]
pub(crate) struct Export {
    /// Of this revision.
    #[arg(long, value_name = "N")]
    revision: Option<u64>,
    /// Prints JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    remote: Remote,
}

impl Export {
    pub(crate) fn run(self) -> anyhow::Result<Ending> {
        let api = self.remote.connect()?;
        let found = remote::run(async {
            match self.revision {
                Some(number) => of_revision(&api, number).await,
                None => newest(&api, Form::json_if(self.json)).await,
            }
        })?;
        let text = match found {
            Ok(text) => text,
            Err(refusal) => return Ok(refusal.show(Form::json_if(self.json))),
        };
        let printed = if self.json {
            format!("{:#}", parsed(&text)?)
        } else if is_json(&text) {
            document::yaml(&parsed(&text)?)
        } else {
            text
        };
        print(printed.trim_end_matches('\n'));
        Ok(Ending::Done)
    }
}

/// The text of a revision, as it was written.
async fn of_revision(api: &Api, number: u64) -> anyhow::Result<Result<String, Refusal>> {
    let answer = api.get(&format!("/v1/revisions/{number}")).await?;
    answer
        .success()
        .map(|answer| text_of(&answer))
        .map_or_else(|refusal| Ok(Err(refusal)), |text| text.map(Ok))
}

/// The newest document: as it was written, where it is a revision that the store has.
async fn newest(api: &Api, form: Form) -> anyhow::Result<Result<String, Refusal>> {
    let document = match api.get("/v1/document").await?.success() {
        Ok(answer) => answer,
        Err(refusal) => return Ok(Err(refusal)),
    };
    let number = document.header("tollgate-revision").and_then(|number| number.parse::<u64>().ok());
    if let (Some(number), Form::Text) = (number, form)
        && let Ok(text) = of_revision(api, number).await?
        // A document in a file counts its own numbers, which are nobody's in the store.
        && parsed(&text).is_ok_and(|written| written == document.body)
    {
        return Ok(Ok(text));
    }
    Ok(Ok(document.body.to_string()))
}

fn text_of(revision: &Answer) -> anyhow::Result<String> {
    let text = revision.body.get("text").and_then(Value::as_str);
    Ok(text.context("the admin API sent no text of the revision")?.to_owned())
}

fn parsed(text: &str) -> anyhow::Result<Value> {
    config::parse(text)
        .map_err(|errors| anyhow::anyhow!("the document can't be read: {}", listed(&errors)))
}

fn listed(errors: &[config::ConfigError]) -> String {
    errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

/// As [`config::parse`] tells the two apart.
fn is_json(text: &str) -> bool {
    text.trim_start().starts_with('{')
}
