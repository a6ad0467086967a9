//! The admin API, as commands speak to it: where it is, with which token, and what its refusals say.
//!
//! Invariant: the token goes to the address that was named and nowhere else: no redirect is followed, and over plain HTTP
//! it leaves this machine only where that was asked for.

use crate::{Ending, document, misused, print, say};
use anyhow::{Context as _, bail};
use clap::Args;
use http::{HeaderMap, Method};
use model::config::ConfigError;
use reqwest::{RequestBuilder, Url};
use serde_json::Value;
use std::path::PathBuf;
use std::time::Duration;

/// How long a connection may take to stand.
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);
/// How long one answer may take: a document with new packs is compiled meanwhile.
const ANSWER_DEADLINE: Duration = Duration::from_secs(120);
/// The largest answer that is read, in bytes: a document, escaped in JSON.
const ANSWER_BYTES_MAX: usize = 256 << 20;

const URL_VARIABLE: &str = "TOLLGATE_ADMIN_URL";
const TOKEN_VARIABLE: &str = "TOLLGATE_ADMIN_TOKEN";

/// Which admin API.
#[derive(Args)]
pub(crate) struct Remote {
    /// The admin API, like http://127.0.0.1:8081 [env: TOLLGATE_ADMIN_URL].
    #[arg(long, value_name = "URL")]
    admin_url: Option<String>,
    /// A file that holds the token [env, the token itself: TOLLGATE_ADMIN_TOKEN].
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Sends the token over plain HTTP, also to another machine.
    #[arg(long)]
    insecure: bool,
}

impl Remote {
    /// Whether the command line names an API, whatever the environment says.
    pub(crate) fn is_named(&self) -> bool {
        self.admin_url.is_some()
    }

    /// A client of it.
    pub(crate) fn connect(&self) -> anyhow::Result<Api> {
        let base = self.address()?;
        let token = match &self.token_file {
            Some(file) => std::fs::read_to_string(file)
                .with_context(|| format!("{} can't be read", file.display()))?,
            None => variable(TOKEN_VARIABLE)?.ok_or_else(|| {
                misused(format!("give the token: --token-file FILE or {TOKEN_VARIABLE}"))
            })?,
        };
        let mut client = reqwest::Client::builder()
            .connect_timeout(CONNECT_DEADLINE)
            .timeout(ANSWER_DEADLINE)
            .redirect(reqwest::redirect::Policy::none());
        if is_loopback(&base) {
            client = client.no_proxy();
        }
        Ok(Api { client: client.build()?, base, token: token.trim().to_owned() })
    }

    /// Where it is, if the token may go there.
    fn address(&self) -> anyhow::Result<Url> {
        let url = match &self.admin_url {
            Some(url) => url.clone(),
            None => variable(URL_VARIABLE)?.ok_or_else(|| {
                misused(format!("name the admin API: --admin-url URL or {URL_VARIABLE}"))
            })?,
        };
        safe(&url, self.insecure, "the admin API's URL is not one like http://127.0.0.1:8081")
    }
}

/// An address that a credential may be sent to: over plain HTTP it leaves this machine only where that was asked for.
pub(crate) fn safe(url: &str, insecure: bool, otherwise: &'static str) -> anyhow::Result<Url> {
    let base = base(url).ok_or_else(|| misused(otherwise))?;
    if base.scheme() == "http" && !is_loopback(&base) && !insecure {
        return Err(misused(format!(
            "{base} is not https, and on another machine: the token could be read on its way; --insecure sends it all the same"
        )));
    }
    Ok(base)
}

/// An admin API with a token for it.
pub(crate) struct Api {
    client: reqwest::Client,
    base: Url,
    token: String,
}

/// What it answered.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Value,
}

impl Api {
    /// A request for this path, with the token. The path may have a query.
    pub(crate) fn request(&self, method: Method, path: &str) -> anyhow::Result<RequestBuilder> {
        let url = format!("{}{path}", self.base.as_str().trim_end_matches('/'));
        let url: Url = url.parse().with_context(|| format!("`{path}` is no path"))?;
        Ok(self.client.request(method, url).bearer_auth(&self.token))
    }

    /// Sends it and reads the whole answer, whatever its status.
    pub(crate) async fn send(&self, request: RequestBuilder) -> anyhow::Result<Answer> {
        // The URL stands in the message once.
        let sent = request.send().await.map_err(reqwest::Error::without_url);
        let mut response = sent.with_context(|| format!("{} does not answer", self.base))?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let mut bytes = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(reqwest::Error::without_url)? {
            if bytes.len() + chunk.len() > ANSWER_BYTES_MAX {
                bail!("{} answered more than {ANSWER_BYTES_MAX} bytes", self.base);
            }
            bytes.extend_from_slice(&chunk);
        }
        let body = serde_json::from_slice(&bytes)
            .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&bytes).trim().to_owned()));
        Ok(Answer { status, headers, body })
    }

    /// The items of a list, page by page, at most so many. The path has no query, or ends in one.
    pub(crate) async fn items(
        &self,
        path: &str,
        most: usize,
    ) -> anyhow::Result<Result<Vec<Value>, Refusal>> {
        let mut items = Vec::new();
        let mut place = path.to_owned();
        loop {
            let answer = match self.get(&place).await?.success() {
                Ok(answer) => answer,
                Err(refusal) => return Ok(Err(refusal)),
            };
            let page = answer.body.get("items").and_then(Value::as_array);
            items.extend(page.into_iter().flatten().cloned());
            let next = answer.body.get("next_cursor").and_then(Value::as_str);
            match next.filter(|_| items.len() < most) {
                Some(cursor) => {
                    let joint = if path.contains('?') { '&' } else { '?' };
                    place = format!("{path}{joint}cursor={cursor}");
                }
                None => break,
            }
        }
        items.truncate(most);
        Ok(Ok(items))
    }

    /// The answer to a GET.
    pub(crate) async fn get(&self, path: &str) -> anyhow::Result<Answer> {
        self.send(self.request(Method::GET, path)?).await
    }
}

impl Answer {
    /// The answer, if it is a success.
    pub(crate) fn success(self) -> Result<Self, Refusal> {
        match self.status {
            200..=299 => Ok(self),
            _ => Err(Refusal(Box::new(self))),
        }
    }

    /// Prints what a dry run says: every error, or what would change in the document (RFC 6902).
    pub(crate) fn tried(&self, form: Form) -> Ending {
        let errors = self.body.get("errors").map(listed_errors).unwrap_or_default();
        if form == Form::Json {
            print(&self.body.to_string());
        } else if errors.is_empty() {
            let changes = self.body.get("difference").and_then(Value::as_array);
            for change in changes.into_iter().flatten() {
                let text = |field: &str| change.get(field).and_then(Value::as_str).unwrap_or("");
                let value = change.get("value").map(Value::to_string).unwrap_or_default();
                print(format!("{} {} {value}", text("op"), text("path")).trim_end());
            }
            print("nothing was changed: this was a try");
        } else {
            return document::show_errors(&errors, form);
        }
        if errors.is_empty() { Ending::Done } else { Ending::Refused }
    }

    /// A header's text.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }
}

/// An answer that is no success.
pub(crate) struct Refusal(Box<Answer>);

impl Refusal {
    pub(crate) fn status(&self) -> u16 {
        self.0.status
    }

    /// The error code, if the answer has one.
    pub(crate) fn code(&self) -> Option<&str> {
        self.0.body.get("code").and_then(Value::as_str)
    }

    /// Every error that the answer lists.
    pub(crate) fn errors(&self) -> Vec<ConfigError> {
        let listed = self.0.body.get("details").and_then(|details| details.get("errors"));
        listed.map(listed_errors).unwrap_or_default()
    }

    /// Prints it: as the API's own JSON, or as code, message and errors. The command was refused.
    pub(crate) fn show(&self, form: Form) -> Ending {
        if form == Form::Json {
            print(&self.0.body.to_string());
            return Ending::Refused;
        }
        for error in self.errors() {
            print(&error.to_string());
        }
        let text = |field: &str| self.0.body.get(field).and_then(Value::as_str);
        match (text("code"), text("message")) {
            (Some(code), Some(message)) => say(&format!("{code}: {message}")),
            _ => say(&format!("the admin API answered {}", self.0.status)),
        }
        if let Some(trace) = text("trace_id").filter(|_| self.0.status >= 500) {
            say(&format!("trace id: {trace}"));
        }
        Ending::Refused
    }
}

/// How a command prints.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    Text,
    Json,
}

impl Form {
    /// By the flag `--json`.
    pub(crate) fn json_if(flag: bool) -> Self {
        if flag { Self::Json } else { Self::Text }
    }
}

/// `[{pointer, message}]`, as the API lists errors.
pub(crate) fn listed_errors(list: &Value) -> Vec<ConfigError> {
    serde_json::from_value(list.clone()).unwrap_or_default()
}

/// Runs what talks to the API.
pub(crate) fn run<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(work)
}

/// A variable of the environment; an empty one is none.
pub(crate) fn variable(name: &str) -> anyhow::Result<Option<String>> {
    match std::env::var(name) {
        Ok(value) if value.is_empty() => Ok(None),
        Ok(value) => Ok(Some(value)),
        Err(std::env::VarError::NotPresent) => Ok(None),
        Err(std::env::VarError::NotUnicode(_)) => bail!("the environment's {name} is not text"),
    }
}

/// An address of an API: no credentials, query or fragment, which would end up in places where they don't belong.
fn base(url: &str) -> Option<Url> {
    Url::parse(url).ok().filter(|url| {
        matches!(url.scheme(), "http" | "https")
            && url.host().is_some()
            && url.username().is_empty()
            && url.password().is_none()
            && url.query().is_none()
            && url.fragment().is_none()
    })
}

pub(crate) fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || bare.parse().is_ok_and(|ip: std::net::IpAddr| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Misused;

    #[test]
    fn a_token_leaves_this_machine_over_https_only() {
        for (url, insecure, goes) in [
            ("http://127.0.0.1:8081", false, true),
            ("http://localhost:8081/", false, true),
            ("http://[::1]:8081", false, true),
            ("https://admin.example", false, true),
            ("http://admin.example", false, false),
            ("http://localhost.example", false, false),
            ("http://10.0.0.1:8081", false, false),
            ("http://10.0.0.1:8081", true, true),
            ("http://user:pass@127.0.0.1", true, false),
            ("ftp://127.0.0.1", true, false),
            ("127.0.0.1:8081", true, false),
            ("https://admin.example/?x=1", true, false),
        ] {
            let remote = Remote { admin_url: Some(url.to_owned()), token_file: None, insecure };
            match remote.address() {
                Ok(_) => assert!(goes, "{url}"),
                Err(error) => {
                    assert!(!goes, "{url}: {error}");
                    assert!(error.downcast_ref::<Misused>().is_some(), "{url}: {error}");
                }
            }
        }
    }
}
