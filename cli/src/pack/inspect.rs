//! `tollgate pack inspect`: what is in a pack file, or what a deployment knows of a version.

use super::key;
use super::reference::Reference;
use super::test::trial;
use crate::remote::{self, Form, Remote};
use crate::{Ending, misused, print};
use clap::Args;
use pack_host::{Interface, Package, Trial};
use serde_json::{Value, json};
use std::path::Path;

/// Shows what a pack file holds: its manifest, digest and signature, what its module imports and exports, its vectors, and
/// whether a memory image can be taken. Of NAME@VERSION, what the deployment's store knows.
///
/// Example: tollgate pack inspect page-limit-1.0.0.tgpack
#[derive(Args)]
pub(super) struct Inspect {
    /// A pack file, or NAME@VERSION of the deployment.
    #[arg(value_name = "FILE|NAME@VERSION")]
    pack: String,
    /// Prints JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    remote: Remote,
}

impl Inspect {
    pub(super) fn run(self) -> anyhow::Result<Ending> {
        let form = Form::json_if(self.json);
        let file = Path::new(&self.pack);
        if file.exists() {
            let package = key::read(file)?;
            let interface = Interface::of(package.module())?;
            let trial = trial(&package)?;
            let told = told(&package, &interface, &trial)?;
            match form {
                Form::Json => print(&told.to_string()),
                Form::Text => show(&told),
            }
            return Ok(Ending::Done);
        }
        let Ok(reference) = self.pack.parse::<Reference>() else {
            return Err(misused(format!(
                "there is no file {}, and it is no NAME@VERSION",
                self.pack
            )));
        };
        let api = self.remote.connect()?;
        match remote::run(api.get(&reference.path()))?.success() {
            Ok(answer) if form == Form::Json => print(&answer.body.to_string()),
            Ok(answer) => show(&answer.body),
            Err(refusal) => return Ok(refusal.show(form)),
        }
        Ok(Ending::Done)
    }
}

fn told(package: &Package, interface: &Interface, trial: &Trial) -> anyhow::Result<Value> {
    let mut manifest = serde_json::to_value(package.manifest())?;
    let vectors: Vec<&str> = package.vectors().iter().map(|vector| vector.name.as_str()).collect();
    let rest = json!({
        "digest": package.digest(), "signed_by": package.signed_by(), "module_bytes": package.module().len(),
        "imports": interface.imports, "exports": interface.exports, "settings_schema": package.settings_schema().is_some(),
        "vectors": vectors, "image": trial.image, "reusable": trial.reusable,
    });
    if let (Some(manifest), Value::Object(rest)) = (manifest.as_object_mut(), rest) {
        manifest.extend(rest);
    }
    Ok(manifest)
}

/// A field on each line, those of objects by their way: `file.size`.
fn show(told: &Value) {
    let fields = fields(told, "");
    let width = fields.iter().map(|(name, _)| name.len()).max().unwrap_or_default();
    for (name, value) in fields {
        print(&format!("{name:width$}  {value}"));
    }
}

fn fields(told: &Value, before: &str) -> Vec<(String, String)> {
    let named = told.as_object().into_iter().flatten().flat_map(|(name, value)| match value {
        Value::Object(inner) if !inner.is_empty() => fields(value, &format!("{before}{name}.")),
        _ => vec![(format!("{before}{name}"), shown(value))],
    });
    named.collect()
}

fn shown(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::Bool(true) => "yes".to_owned(),
        Value::Bool(false) => "no".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(items) if items.is_empty() => "-".to_owned(),
        Value::Object(fields) if fields.is_empty() => "-".to_owned(),
        Value::Array(items) => items.iter().map(shown).collect::<Vec<_>>().join(", "),
        Value::Number(_) | Value::Object(_) => value.to_string(),
    }
}
