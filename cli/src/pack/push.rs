//! `tollgate pack push`: pack files into the store of a deployment.

use super::key;
use crate::remote::{self, Answer, Api, Form, Remote};
use crate::{Ending, print, say};
use clap::Args;
use http::{Method, header};
use pack_host::Package;
use serde_json::Value;
use std::path::PathBuf;

/// What a pack file is (OCI image layout, as a tar).
const MEDIA_TYPE: &str = "application/vnd.oci.image.layout.v1.tar";

/// Uploads signed pack files. Their vectors are run there, and what passes is kept and named in the document; nothing
/// decides until it is attached.
///
/// Example: tollgate pack push page-limit-1.0.0.tgpack
#[derive(Args)]
pub(super) struct Push {
    /// Pack files.
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// Tries them there, and keeps nothing.
    #[arg(long)]
    dry_run: bool,
    /// Prints what the API answers, a line for each file.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    remote: Remote,
}

impl Push {
    pub(super) fn run(self) -> anyhow::Result<Ending> {
        let api = self.remote.connect()?;
        let form = Form::json_if(self.json);
        for file in &self.files {
            let package = key::read(file)?;
            if package.signed_by().is_none() {
                say(&format!(
                    "{} is not signed: tollgate pack sign {} --key KEYFILE",
                    file.display(),
                    file.display()
                ));
                return Ok(Ending::Refused);
            }
            match remote::run(self.send(&api, &package))?.success() {
                Ok(answer) if form == Form::Json => print(&answer.body.to_string()),
                Ok(answer) => self.show(&package, &answer),
                Err(refusal) => {
                    if self.files.len() > 1 && form == Form::Text {
                        say(&format!("{}:", file.display()));
                    }
                    return Ok(refusal.show(form));
                }
            }
        }
        Ok(Ending::Done)
    }

    async fn send(&self, api: &Api, package: &Package) -> anyhow::Result<Answer> {
        let path = if self.dry_run { "/v1/packs?dry_run=true" } else { "/v1/packs" };
        let request = api
            .request(Method::POST, path)?
            .header(header::CONTENT_TYPE, MEDIA_TYPE)
            .body(package.write());
        api.send(request).await
    }

    fn show(&self, package: &Package, answer: &Answer) {
        let label = package.label();
        print(&match (self.dry_run, answer.status) {
            (true, _) => format!("{label} would be taken"),
            (false, 201) => format!("{label} is in the store ({})", package.digest()),
            (false, _) => format!("{label} was in the store already ({})", package.digest()),
        });
        let trial = answer.body.get("trial");
        let vectors = trial.and_then(|trial| trial.get("vectors")).and_then(Value::as_array);
        match vectors.map_or(0, Vec::len) {
            0 => print("  it has no vectors: nothing says what it should decide"),
            1 => print("  its vector came out as expected there"),
            count => print(&format!("  its {count} vectors came out as expected there")),
        }
        if let Some(revision) = answer.body.get("revision").and_then(Value::as_u64) {
            print(&format!("  revision {revision} names it in `packs`"));
        }
    }
}
