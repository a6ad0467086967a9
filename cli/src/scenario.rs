//! `tollgate scenario`: fixed requests against the product, and exactly what must come of them.
//!
//! Each file starts the data plane, a dispatcher and the demo CRM of its own, on a clock that stands still; with `--against`,
//! the same requests go to a gateway that runs already. Ids and times that a server makes up are shown as `<id:1>`, `<time>`.

mod local;
mod output;

use crate::parts::{self, Traffic};
use crate::{Ending, print, say, token};
use anyhow::{Context as _, bail};
use clap::Args;
use jiff::Timestamp;
use local::Local;
use output::{Names, Output};
use pack_host::Host;
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Between two looks at what comes of a step by and by.
const LOOK_PAUSE: Duration = Duration::from_millis(20);
/// How long one request may take.
const REQUEST_DEADLINE: Duration = Duration::from_secs(30);

/// Runs scenarios and compares what happened with what they expect; exit 1 where it differs.
///
/// Example: tollgate scenario fixtures/scenarios/*.yaml
#[derive(Args)]
pub(crate) struct Scenario {
    /// Scenario files.
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// A gateway that runs already, with the demo's document; its clock is its own.
    #[arg(long, value_name = "URL")]
    against: Option<String>,
    /// Prints only what happened: one JSON object a step.
    #[arg(long)]
    json: bool,
}

/// A scenario as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Script {
    name: String,
    /// The document, relative to the scenario's file.
    document: PathBuf,
    /// The time at which it begins.
    clock: Timestamp,
    steps: Vec<Step>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Step {
    name: String,
    /// Moves the clock first.
    #[serde(default)]
    advance: Option<model::units::Duration>,
    request: Request,
    /// How often the request is sent; the last answer counts.
    #[serde(default = "once")]
    times: u32,
    /// What comes by and by: it is asked for until it is as expected, at most so long.
    #[serde(default)]
    within: Option<model::units::Duration>,
    expect: Output,
}

/// Who is asked.
#[derive(Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Party {
    #[default]
    Gateway,
    /// The demo CRM, past the gateway, with the projection and the mailing list beside it.
    Crm,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Request {
    #[serde(default)]
    to: Party,
    method: String,
    path: String,
    /// The trace that the request belongs to: 32 hex digits.
    trace_id: String,
    /// A consumer of the demo, by its API key.
    #[serde(default)]
    key_of: Option<String>,
    /// A consumer of the demo, by a JWT.
    #[serde(default)]
    jwt_of: Option<String>,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    #[serde(default)]
    body: Option<Value>,
}

fn once() -> u32 {
    1
}

impl Scenario {
    pub(crate) fn run(self) -> anyhow::Result<Ending> {
        crate::log::start("error");
        crate::descriptors::raise();
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        // What one scenario has compiled, the next one takes from here.
        let compiled = tempfile::tempdir()?;
        let host = match self.against {
            Some(_) => None,
            None => Some(parts::host(compiled.path(), Traffic::Served)?),
        };
        let differences = runtime.block_on(async {
            let mut differences = 0;
            for file in &self.files {
                let played = self.play(file, host.as_ref()).await;
                differences += played.with_context(|| file.display().to_string())?;
            }
            anyhow::Ok(differences)
        })?;
        runtime.shutdown_background();
        match differences {
            0 => Ok(Ending::Done),
            count => {
                say(&format!("{count} of the steps did not go as expected"));
                Ok(Ending::Refused)
            }
        }
    }

    async fn play(&self, file: &Path, host: Option<&Arc<Host>>) -> anyhow::Result<usize> {
        let text = std::fs::read_to_string(file).context("can't be read")?;
        let script: Script = serde_saphyr::from_str(&text).context("is not a scenario")?;
        let moves = script.steps.iter().find(|step| step.advance.is_some());
        if let (Some(_), Some(step)) = (&self.against, moves) {
            bail!(
                "step `{}` moves the clock, which only a gateway of the scenario's own lets it",
                step.name
            );
        }
        let past = script.steps.iter().find(|step| step.request.to != Party::Gateway);
        if let (Some(_), Some(step)) = (&self.against, past) {
            bail!("step `{}` asks the CRM itself, which only a scenario's own can be", step.name);
        }
        let local = match host {
            None => None,
            Some(host) => {
                let document = file.parent().unwrap_or(Path::new(".")).join(&script.document);
                Some(Local::start(&document, script.clock, host).await?)
            }
        };
        let base = |party| match (&self.against, &local) {
            (Some(url), _) => Ok(url.trim_end_matches('/').to_owned()),
            (None, Some(local)) => Ok(local.url(party)),
            (None, None) => bail!("there is no gateway"),
        };
        if !self.json {
            print(&format!("# {}", script.name));
        }
        let client = reqwest::Client::builder().no_proxy().timeout(REQUEST_DEADLINE).build()?;
        let mut names = Names::of_run(match local {
            Some(_) => "fixed".to_owned(),
            None => uuid::Uuid::new_v4().simple().to_string(),
        });
        let mut differences = 0;
        for step in &script.steps {
            if let (Some(local), Some(span)) = (&local, step.advance) {
                local.clock().advance(span.0);
            }
            let now = local
                .as_ref()
                .map_or_else(|| model::Clock::system().now(), |local| local.clock().now());
            let base = base(step.request.to)?;
            let patience = Instant::now() + step.within.map_or(Duration::ZERO, |within| within.0);
            let (before, mut happened) = (names.clone(), None);
            for _ in 0..step.times {
                happened = Some(send(&client, &base, step, &mut names, now).await?);
            }
            while happened.as_ref().is_some_and(|happened| *happened != step.expect)
                && Instant::now() < patience
            {
                tokio::time::sleep(LOOK_PAUSE).await;
                // What is looked at in vain names nothing.
                names = before.clone();
                happened = Some(send(&client, &base, step, &mut names, now).await?);
            }
            let Some(happened) = happened else { bail!("step `{}` is sent 0 times", step.name) };
            differences += usize::from(!self.show(step, &happened)?);
        }
        if let Some(local) = local {
            local.end().await;
        }
        Ok(differences)
    }

    /// Prints what happened; false where something else was expected.
    fn show(&self, step: &Step, happened: &Output) -> anyhow::Result<bool> {
        let as_expected = *happened == step.expect;
        let line = serde_json::to_string(happened)?;
        if self.json {
            print(&line);
        } else {
            print(&format!(
                "{} {}\n  {line}",
                if as_expected { "ok      " } else { "DIFFERS " },
                step.name
            ));
        }
        if !as_expected {
            say(&format!("{}: expected\n  {}", step.name, serde_json::to_string(&step.expect)?));
        }
        Ok(as_expected)
    }
}

async fn send(
    client: &reqwest::Client,
    base: &str,
    step: &Step,
    names: &mut Names,
    now: Timestamp,
) -> anyhow::Result<Output> {
    let asked = &step.request;
    let method = asked.method.parse().context("the method")?;
    let mut request = client
        .request(method, format!("{base}{}", names.resolve(&asked.path)))
        .header("traceparent", format!("00-{}-00f067aa0ba902b7-01", asked.trace_id));
    for (name, value) in &asked.headers {
        request = request.header(name, names.resolve(value));
    }
    if let Some(id) = &asked.key_of {
        request = request.header("x-api-key", consumer(id)?.api_key);
    }
    if let Some(id) = &asked.jwt_of {
        request = request.bearer_auth(token::for_demo(consumer(id)?, now));
    }
    if let Some(body) = &asked.body {
        request = request
            .header("content-type", "application/json")
            .body(names.resolve(&body.to_string()));
    }
    let response = request.send().await.with_context(|| format!("step `{}`", step.name))?;
    let status = response.status().as_u16();
    let headers = response.headers().clone();
    let body = response.bytes().await?;
    Ok(Output::of(status, &headers, &body, step, names))
}

fn consumer(id: &str) -> anyhow::Result<&'static demo::DemoConsumer> {
    demo::CONSUMERS
        .iter()
        .find(|consumer| consumer.id == id)
        .with_context(|| format!("`{id}` is not a consumer of the demo"))
}
