//! `tollgate pack list`: the packs that a deployment has.

use crate::remote::{self, Form, Remote};
use crate::table::table;
use crate::{Ending, print};
use clap::Args;
use jiff::Timestamp;
use serde_json::Value;

/// The most versions that are listed.
pub(super) const VERSIONS_MAX: usize = 10_000;

/// Lists the versions that the document names, with what the store knows of their files.
///
/// Example: tollgate pack list
#[derive(Args)]
pub(super) struct List {
    /// Prints a JSON array.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    remote: Remote,
}

impl List {
    pub(super) fn run(self) -> anyhow::Result<Ending> {
        let api = self.remote.connect()?;
        let form = Form::json_if(self.json);
        let versions = match remote::run(api.items("/v1/packs?limit=500", VERSIONS_MAX))? {
            Ok(versions) => versions,
            Err(refusal) => return Ok(refusal.show(form)),
        };
        match form {
            Form::Json => print(&Value::from(versions).to_string()),
            Form::Text if versions.is_empty() => {
                print("there are no packs; `tollgate pack push FILE` brings one");
            }
            Form::Text => lines(&versions).iter().for_each(|line| print(line)),
        }
        Ok(Ending::Done)
    }
}

const HEADINGS: [&str; 7] = ["PACK", "DIGEST", "KEY", "BYTES", "VECTORS", "UPLOADED", "STATE"];
/// So much of a digest is shown: enough to tell two apart.
const DIGEST_SHOWN: usize = "sha256:".len() + 12;

/// The versions as a table.
pub(super) fn lines(versions: &[Value]) -> Vec<String> {
    table(HEADINGS, &versions.iter().map(row).collect::<Vec<_>>())
}

fn row(version: &Value) -> [String; 7] {
    let file = version.get("file");
    let of_file = |field: &str| file.and_then(|file| file.get(field)).map_or_else(absent, shown);
    let digest = file.and_then(|file| file.get("digest")).or_else(|| version.get("digest"));
    let digest = digest.map_or_else(absent, shown);
    let state = match (version.get("quarantined"), file) {
        (Some(why), _) => {
            format!("quarantined: {}", why.get("reason").map_or_else(absent, shown))
        }
        (None, None) => "no file in the store".to_owned(),
        (None, Some(_)) => String::new(),
    };
    [
        label(version),
        digest.chars().take(DIGEST_SHOWN).collect(),
        of_file("key"),
        of_file("size"),
        of_file("vectors"),
        of_file("uploaded_at")
            .parse::<Timestamp>()
            .map_or_else(|_| absent(), |at| format!("{at:.0}")),
        state,
    ]
}

/// `name@version` of an entry of `packs`.
pub(super) fn label(version: &Value) -> String {
    let text = |field: &str| version.get(field).and_then(Value::as_str).unwrap_or_default();
    format!("{}@{}", text("id"), text("version"))
}

/// A value in a cell: text without quotes.
fn shown(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn absent() -> String {
    "-".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_version_is_told_in_a_row() {
        let digest = format!("sha256:{}", "ab".repeat(32));
        let rows = [
            json!({ "id": "a", "version": "1.0.0", "file": { "digest": digest, "size": 41_000, "key": "platform",
                "uploaded_at": "2026-11-21T09:00:00Z", "by": "ops", "vectors": 6 } }),
            json!({ "id": "a", "version": "1.1.0", "digest": digest,
                "quarantined": { "at": "2026-11-21T09:00:00Z", "reason": "5 faults in 30s" } }),
            json!({ "id": "b", "version": "1.0.0" }),
        ]
        .map(|version| row(&version));
        let expected = [
            "a@1.0.0 sha256:abababababab platform 41000 6 2026-11-21T09:00:00Z ",
            "a@1.1.0 sha256:abababababab - - - - quarantined: 5 faults in 30s",
            "b@1.0.0 - - - - - no file in the store",
        ];
        assert_eq!(rows.iter().map(|row| row.join(" ")).collect::<Vec<_>>(), expected);
    }
}
