//! `tollgate check`: every error of a document, each with its pointer.

use crate::{Ending, print, say};
use anyhow::Context as _;
use clap::Args;
use std::io::Read as _;
use std::path::PathBuf;

/// Checks a document: prints every error with its JSON pointer; exit 1 on any.
///
/// Example: tollgate check fixtures/demo/document.yaml
#[derive(Args)]
pub(crate) struct Check {
    /// The document, YAML or JSON; `-` for standard input.
    document: PathBuf,
    /// Prints `{"valid", "errors": [{"pointer", "message"}]}`.
    #[arg(long)]
    json: bool,
}

impl Check {
    pub(crate) fn run(self) -> anyhow::Result<Ending> {
        let text = if self.document.as_os_str() == "-" {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text).context("standard input can't be read")?;
            text
        } else {
            std::fs::read_to_string(&self.document)
                .with_context(|| format!("{} can't be read", self.document.display()))?
        };
        let errors = model::config::read(&text).err().unwrap_or_default();
        if self.json {
            print(&serde_json::json!({ "valid": errors.is_empty(), "errors": errors }).to_string());
        } else {
            for error in &errors {
                print(&error.to_string());
            }
            match errors.len() {
                0 => print(&format!("{}: valid", self.document.display())),
                1 => say("1 error"),
                count => say(&format!("{count} errors")),
            }
        }
        Ok(if errors.is_empty() { Ending::Done } else { Ending::Refused })
    }
}
