//! `tollgate rekey`: sealed secrets, sealed again under the first master key.

use crate::remote::{self, Form, Remote};
use crate::{Ending, print};
use clap::Args;
use http::Method;
use serde_json::Value;

/// Seals every secret of the document again under the first of `master_keys`. Put the new key first on every node, keep
/// the old one behind it, then run this, then take the old one out.
///
/// Example: tollgate rekey --admin-url http://127.0.0.1:8081 --token-file data/admin.token
#[derive(Args)]
pub(crate) struct Rekey {
    /// Prints the API's answer.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    remote: Remote,
}

impl Rekey {
    pub(crate) fn run(self) -> anyhow::Result<Ending> {
        let form = Form::json_if(self.json);
        let api = self.remote.connect()?;
        let answer =
            remote::run(async { api.send(api.request(Method::POST, "/v1/secrets:rekey")?).await })?;
        let answer = match answer.success() {
            Ok(answer) => answer,
            Err(refusal) => return Ok(refusal.show(form)),
        };
        let count = |field: &str| answer.body.get(field).and_then(Value::as_u64);
        match (form, count("resealed"), count("revision")) {
            (Form::Json, ..) => print(&answer.body.to_string()),
            (Form::Text, Some(0), _) => print("every secret is sealed under the first key already"),
            (Form::Text, Some(rekeyed), Some(revision)) => {
                print(&format!("{rekeyed} sealed again; revision {revision} is published"));
            }
            (Form::Text, ..) => print(&answer.body.to_string()),
        }
        Ok(Ending::Done)
    }
}
