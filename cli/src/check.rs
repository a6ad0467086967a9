//! `tollgate check`: every error of a document, each with its pointer.

use crate::document::{self, Precondition};
use crate::remote::{self, Form, Remote};
use crate::{Ending, print};
use clap::Args;
use std::path::PathBuf;

/// Checks a document: prints every error with its JSON pointer; exit 1 on any. With --admin-url, the admin API compiles
/// it as well, and so finds what only a node can know: addresses, secrets, key files, packs.
///
/// Example: tollgate check fixtures/demo/document.yaml
#[derive(Args)]
pub(crate) struct Check {
    /// The document, YAML or JSON; `-` for standard input.
    document: PathBuf,
    /// Prints `{"valid", "errors": [{"pointer", "message"}]}`.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    remote: Remote,
}

impl Check {
    pub(crate) fn run(self) -> anyhow::Result<Ending> {
        let form = Form::json_if(self.json);
        let text = document::text_of(&self.document)?;
        let errors = if self.remote.is_named() {
            let api = self.remote.connect()?;
            match remote::run(document::dry_run(&api, text, &Precondition::None))? {
                Ok(errors) => errors,
                Err(refusal) => return Ok(refusal.show(form)),
            }
        } else {
            model::config::read(&text).err().unwrap_or_default()
        };
        if errors.is_empty() && form == Form::Text {
            print(&format!("{}: valid", self.document.display()));
        }
        Ok(document::show_errors(&errors, form))
    }
}
