//! `tollgate webhooks listen`: events of an endpoint, pulled from the gateway where nothing can reach the receiver.
//!
//! Invariant: what does not fit its signature is shown as such and forwarded nowhere. An outage ends nothing: it goes on
//! behind the last event that it saw.

mod forward;

use crate::remote::{self, is_loopback, safe, variable};
use crate::{Ending, misused, print, say};
use anyhow::Context as _;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use clap::Args;
use forward::Forward;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use model::id::is_id;
use reqwest::{RequestBuilder, Url};
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;
use webhook_signature::{Secret, Verifier};

const CREDENTIAL: &str = "TOLLGATE_CREDENTIAL";
const SECRET: &str = "TOLLGATE_WEBHOOK_SECRET";
const GATEWAY: &str = "TOLLGATE_GATEWAY_URL";

/// How long the gateway is asked to wait for something, and how long an answer may take.
const WAIT: Duration = Duration::from_secs(20);
const ANSWER_DEADLINE: Duration = Duration::from_secs(45);
/// Events in one answer, and the largest answer that is read: some MiB of events, escaped in JSON.
const LIMIT: u32 = 50;
const ANSWER_BYTES_MAX: usize = 64 << 20;
/// Pauses after an outage: the first, doubled each time, and the longest.
const PAUSE: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(10);
/// How old a signature may be: it is made when the gateway answers.
const TOLERANCE: Duration = Duration::from_secs(300);

/// Prints what would be sent to an endpoint, as it comes, and forwards it if asked to. Signatures are verified with the
/// endpoint's secret: TOLLGATE_WEBHOOK_SECRET or --secret-file.
///
/// Example: tollgate webhooks listen acme-hook --gateway-url http://127.0.0.1:8080 --forward-to http://127.0.0.1:3000/hook
#[derive(Args)]
pub(super) struct Listen {
    /// The endpoint's id.
    #[arg(value_name = "ENDPOINT")]
    endpoint: String,
    /// The gateway [env: TOLLGATE_GATEWAY_URL].
    #[arg(long, value_name = "URL")]
    gateway_url: Option<String>,
    /// A file that holds an API key or a JWT of a consumer of the endpoint's tenant [env, itself: TOLLGATE_CREDENTIAL].
    #[arg(long, value_name = "FILE")]
    credential_file: Option<PathBuf>,
    /// A file that holds the endpoint's secret, `whsec_…` [env, itself: TOLLGATE_WEBHOOK_SECRET].
    #[arg(long, value_name = "FILE")]
    secret_file: Option<PathBuf>,
    /// Sends what was verified there, with the same headers and body, and prints the answer.
    #[arg(long, value_name = "URL")]
    forward_to: Option<Url>,
    /// Begins behind this cursor, 0 for the first event that is kept; behind what is there already when absent.
    #[arg(long, value_name = "CURSOR", default_value = "latest")]
    from: String,
    /// Ends after so many events.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// Prints each event as JSON on a line.
    #[arg(long)]
    json: bool,
    /// Sends the credential over plain HTTP, also to another machine.
    #[arg(long)]
    insecure: bool,
}

/// What the gateway answers.
#[derive(Deserialize)]
struct Page {
    items: Vec<Item>,
    next_cursor: String,
}

/// An event as it would be sent.
#[derive(Deserialize)]
struct Item {
    cursor: String,
    headers: BTreeMap<String, String>,
    #[serde(default)]
    body: Option<String>,
    #[serde(default)]
    body_base64: Option<String>,
}

/// How a question ended.
enum Asked {
    /// With events, or none yet.
    Page(Page),
    /// It is worth asking again after that time.
    Later(String, Option<Duration>),
    /// It isn't.
    Refused(String),
}

impl Listen {
    pub(super) fn run(self) -> anyhow::Result<Ending> {
        if !is_id(&self.endpoint) {
            return Err(misused(format!("`{}` is no id of an endpoint", self.endpoint)));
        }
        if self.from != "latest" && self.from.parse::<u64>().is_err() {
            return Err(misused("--from takes the cursor of an event, 0 or `latest`"));
        }
        let gateway = match &self.gateway_url {
            Some(url) => url.clone(),
            None => variable(GATEWAY)?.ok_or_else(|| {
                misused(format!("name the gateway: --gateway-url URL or {GATEWAY}"))
            })?,
        };
        let otherwise = "the gateway's URL is not one like http://127.0.0.1:8080";
        let base = safe(&gateway, self.insecure, otherwise)?;
        let credential = held(self.credential_file.as_deref(), CREDENTIAL)?;
        let credential = credential.ok_or_else(|| {
            misused(format!("give a credential: --credential-file FILE or {CREDENTIAL}"))
        })?;
        let verifier = match held(self.secret_file.as_deref(), SECRET)? {
            Some(secret) => {
                let secret = Secret::parse(&secret)
                    .map_err(|error| misused(format!("the endpoint's secret {error}")))?;
                Some(Verifier::new(TOLERANCE).secret(secret))
            }
            None => {
                say(&format!("signatures are not verified: give --secret-file FILE or {SECRET}"));
                None
            }
        };
        let forward = self.forward_to.clone().map(Forward::to).transpose()?;
        let listening = Listening { listen: self, base, credential, verifier, forward };
        remote::run(listening.listen())
    }
}

/// What a file holds, or the environment.
fn held(file: Option<&Path>, name: &str) -> anyhow::Result<Option<String>> {
    let text = match file {
        Some(file) => Some(
            std::fs::read_to_string(file)
                .with_context(|| format!("{} can't be read", file.display()))?,
        ),
        None => variable(name)?,
    };
    Ok(text.map(|text| text.trim().to_owned()))
}

struct Listening {
    listen: Listen,
    base: Url,
    credential: String,
    verifier: Option<Verifier>,
    forward: Option<Forward>,
}

impl Listening {
    async fn listen(&self) -> anyhow::Result<Ending> {
        let client = client(&self.base)?;
        let mut cursor = self.listen.from.clone();
        let mut pause = PAUSE;
        let (mut seen, mut ending) = (0, Ending::Done);
        loop {
            // From `latest` a first answer at once says where that is: an outage later loses nothing.
            let wait = if cursor == "latest" { Duration::ZERO } else { WAIT };
            match ask(self.question(&client, &cursor, wait)?).await {
                Asked::Page(page) => {
                    pause = PAUSE;
                    for item in &page.items {
                        if !self.told(item).await? {
                            ending = Ending::Refused;
                        }
                        seen += 1;
                        if self.listen.count == Some(seen) {
                            return Ok(ending);
                        }
                    }
                    cursor = page.next_cursor;
                }
                Asked::Later(why, after) => {
                    say(&format!("{why}; trying again"));
                    tokio::time::sleep(after.unwrap_or(pause).min(PAUSE_MAX)).await;
                    pause = (pause * 2).min(PAUSE_MAX);
                }
                Asked::Refused(why) => {
                    say(&why);
                    return Ok(Ending::Refused);
                }
            }
        }
    }

    fn question(
        &self,
        client: &reqwest::Client,
        cursor: &str,
        wait: Duration,
    ) -> anyhow::Result<RequestBuilder> {
        let base = self.base.as_str().trim_end_matches('/');
        let path = format!("/.tollgate/endpoints/{}/events", self.listen.endpoint);
        let mut url: Url = format!("{base}{path}").parse()?;
        url.query_pairs_mut()
            .append_pair("cursor", cursor)
            .append_pair("limit", &LIMIT.to_string())
            .append_pair("wait", &wait.as_secs().to_string());
        let request = client.get(url);
        // A JWT has three parts.
        Ok(if self.credential.split('.').count() == 3 {
            request.bearer_auth(&self.credential)
        } else {
            request.header("x-api-key", &self.credential)
        })
    }

    /// Shows an event, and forwards it if it was verified. Whether it was, and was taken.
    async fn told(&self, item: &Item) -> anyhow::Result<bool> {
        let body = item.body()?;
        let headers = item.headers()?;
        let verified = match &self.verifier {
            None => None,
            Some(verifier) => {
                let now = model::Clock::system().now().as_second();
                Some(verifier.verify(&headers, &body, now).map(drop))
            }
        };
        let forwarded = match (&self.forward, &verified) {
            (Some(forward), None | Some(Ok(()))) => Some(forward.send(headers, body.clone()).await),
            _ => None,
        };
        let taken = forwarded.as_ref().is_none_or(|answer| answer.is_success());
        if self.listen.json {
            let verified = verified.as_ref().map(Result::is_ok);
            let told = json!({
                "cursor": item.cursor,
                "headers": item.headers,
                "body": item.shown(),
                "verified": verified,
                "forwarded": forwarded.as_ref().map(forward::Answer::json),
            });
            print(&told.to_string());
        } else {
            print(
                &item
                    .line(verified.as_ref().map(|v| v.as_ref().map_err(ToString::to_string).err())),
            );
            print(&plain(&item.shown_text()));
            if let Some(answer) = &forwarded {
                print(&plain(&answer.line()));
            }
        }
        Ok(taken && verified.is_none_or(|verified| verified.is_ok()))
    }
}

fn client(base: &Url) -> anyhow::Result<reqwest::Client> {
    let client = reqwest::Client::builder()
        .timeout(ANSWER_DEADLINE)
        .redirect(reqwest::redirect::Policy::none());
    let client = if is_loopback(base) { client.no_proxy() } else { client };
    Ok(client.build()?)
}

async fn ask(request: RequestBuilder) -> Asked {
    let sent = match request.send().await {
        Ok(sent) => sent,
        Err(_) => return Asked::Later("the gateway does not answer".to_owned(), None),
    };
    let (status, headers) = (sent.status(), sent.headers().clone());
    let body = match read(sent).await {
        Ok(body) => body,
        Err(why) => return Asked::Later(why, None),
    };
    if status == StatusCode::OK {
        return match serde_json::from_slice(&body) {
            Ok(page) => Asked::Page(page),
            Err(_) => Asked::Refused("what answers is no gateway that has this".to_owned()),
        };
    }
    let problem: Value = serde_json::from_slice(&body).unwrap_or_default();
    let field = |name: &str| problem.get(name).and_then(Value::as_str).unwrap_or_default();
    let why = match (field("code"), field("message")) {
        ("", _) => format!("the gateway answered {}", status.as_u16()),
        (code, message) => format!("{code}: {message}"),
    };
    let passes = status.is_server_error()
        || matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT);
    if !passes {
        return Asked::Refused(why);
    }
    let after = headers.get(header::RETRY_AFTER).and_then(|value| value.to_str().ok());
    Asked::Later(why, after.and_then(|text| text.parse().ok()).map(Duration::from_secs))
}

async fn read(mut response: reqwest::Response) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    loop {
        match response.chunk().await {
            Ok(Some(chunk)) if bytes.len() + chunk.len() <= ANSWER_BYTES_MAX => bytes.extend(chunk),
            Ok(Some(_)) => {
                return Err(format!("the gateway answered more than {ANSWER_BYTES_MAX} bytes"));
            }
            Ok(None) => return Ok(bytes),
            Err(_) => return Err("the gateway's answer broke off".to_owned()),
        }
    }
}

impl Item {
    fn body(&self) -> anyhow::Result<Vec<u8>> {
        match (&self.body, &self.body_base64) {
            (Some(text), _) => Ok(text.as_bytes().to_vec()),
            (None, Some(text)) => BASE64_STANDARD.decode(text).context("a body is no base64"),
            (None, None) => Ok(Vec::new()),
        }
    }

    fn headers(&self) -> anyhow::Result<HeaderMap> {
        let header = |(name, value): (&String, &String)| {
            Ok((HeaderName::try_from(name)?, HeaderValue::try_from(value)?))
        };
        self.headers.iter().map(header).collect()
    }

    /// The body as JSON, where it is that.
    fn shown(&self) -> Value {
        match (&self.body, &self.body_base64) {
            (Some(text), _) => {
                serde_json::from_str(text).unwrap_or_else(|_| Value::from(text.as_str()))
            }
            (None, Some(text)) => Value::from(text.as_str()),
            (None, None) => Value::Null,
        }
    }

    fn shown_text(&self) -> String {
        match self.shown() {
            Value::String(text) => text,
            other => format!("{other:#}"),
        }
    }

    /// An event in a line. `unfit`: why it does not fit its signature, if that was asked and it doesn't.
    fn line(&self, unfit: Option<Option<String>>) -> String {
        let header = |name: &str| self.headers.get(name).map_or("-", String::as_str);
        let kind = self.shown();
        let kind = kind.get("type").and_then(Value::as_str).unwrap_or_else(|| header("ce-type"));
        let verified = match unfit {
            None => "not verified".to_owned(),
            Some(None) => "verified".to_owned(),
            Some(Some(why)) => format!("NOT VERIFIED: {why}"),
        };
        plain(&format!("{}  {}  {kind}  {verified}", self.cursor, header("webhook-id")))
    }
}

/// Text that says nothing to the terminal: line breaks stay.
fn plain(text: &str) -> String {
    let shown = |c: char| if c.is_control() && c != '\n' { char::REPLACEMENT_CHARACTER } else { c };
    text.chars().map(shown).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_told_in_a_line_that_says_nothing_to_the_terminal() {
        let item = |body: &str, headers: &[(&str, &str)]| Item {
            cursor: "7".to_owned(),
            headers: headers.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect(),
            body: Some(body.to_owned()),
            body_base64: None,
        };
        let structured = item(r#"{"type":"a.b"}"#, &[("webhook-id", "evt_1")]);
        assert_eq!(structured.line(Some(None)), "7  evt_1  a.b  verified");
        assert_eq!(structured.line(None), "7  evt_1  a.b  not verified");
        let binary = item("{}", &[("webhook-id", "evt_1"), ("ce-type", "a\u{1b}[2Jb")]);
        assert_eq!(
            binary.line(Some(Some("no".to_owned()))),
            "7  evt_1  a\u{fffd}[2Jb  NOT VERIFIED: no"
        );
        assert_eq!(plain("a\nb\u{7}"), "a\nb\u{fffd}");
    }

    #[test]
    fn a_body_is_text_or_base64() {
        let item = |body: Option<&str>, base64: Option<&str>| Item {
            cursor: String::new(),
            headers: BTreeMap::new(),
            body: body.map(str::to_owned),
            body_base64: base64.map(str::to_owned),
        };
        assert_eq!(item(Some("{}"), None).body().unwrap(), b"{}");
        assert_eq!(item(None, Some("AP8=")).body().unwrap(), [0, 255]);
        assert!(item(None, Some("?")).body().is_err());
    }
}
