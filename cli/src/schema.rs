//! `tollgate schema`: the machine-readable truth, generated from code.

use crate::{Ending, print};
use clap::{Args, ValueEnum};

/// Prints a schema as JSON.
///
/// Example: tollgate schema document > document.schema.json
#[derive(Args)]
pub(crate) struct Schema {
    /// Of what.
    of: Of,
}

#[derive(Clone, Copy, ValueEnum)]
enum Of {
    /// The document (JSON Schema 2020-12).
    Document,
    /// The table of error codes.
    Errors,
    /// The admin API (OpenAPI 3.1).
    Openapi,
}

impl Schema {
    pub(crate) fn run(self) -> anyhow::Result<Ending> {
        let value = match self.of {
            Of::Document => model::config::schema(),
            Of::Errors => model::ErrorCode::table(),
            Of::Openapi => admin::openapi(),
        };
        print(&serde_json::to_string_pretty(&value)?);
        Ok(Ending::Done)
    }
}
