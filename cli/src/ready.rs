//! `tollgate ready`: whether a process is ready, for whoever has no other way to ask, like a container's health check.

use crate::{Ending, misused, print, say};
use anyhow::Context as _;
use clap::Args;
use serde_json::Value;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

/// How long the answer may take.
const DEADLINE: Duration = Duration::from_secs(5);
/// Where a process listens for this when nothing else is said.
const DEFAULT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8083);

/// Asks a process whether it is ready; exit 1 when it is not, or doesn't answer.
///
/// Example: tollgate ready --url http://127.0.0.1:8083
#[derive(Args)]
pub(crate) struct Ready {
    /// The process' status endpoints; as TOLLGATE_LISTEN_STATUS says when absent, else http://127.0.0.1:8083.
    #[arg(long)]
    url: Option<String>,
    /// Prints the answer as it came.
    #[arg(long)]
    json: bool,
}

impl Ready {
    pub(crate) fn run(self) -> anyhow::Result<Ending> {
        let url = match &self.url {
            Some(url) => url.trim_end_matches('/').to_owned(),
            None => format!("http://{}", listener()?),
        };
        let (status, body) = crate::remote::run(async {
            let client = reqwest::Client::builder().no_proxy().timeout(DEADLINE).build()?;
            let request = client.get(format!("{url}/readyz")).send().await;
            let response = request.map_err(reqwest::Error::without_url);
            let response = response.with_context(|| format!("{url} does not answer"))?;
            let status = response.status();
            Ok((status, response.text().await?))
        })?;
        if self.json {
            print(&body);
        } else {
            let body: Value = serde_json::from_str(&body).unwrap_or_default();
            for (part, state) in body.get("parts").and_then(Value::as_object).into_iter().flatten()
            {
                say(&format!("{part}: {}", state.as_str().unwrap_or_default()));
            }
        }
        Ok(if status.is_success() { Ending::Done } else { Ending::Refused })
    }
}

/// Where the status endpoints listen, as somebody on this machine reaches them.
fn listener() -> anyhow::Result<SocketAddr> {
    let Ok(text) = std::env::var("TOLLGATE_LISTEN_STATUS") else { return Ok(DEFAULT) };
    let address: SocketAddr = text
        .parse()
        .map_err(|_| misused("TOLLGATE_LISTEN_STATUS is not an address like `127.0.0.1:8083`"))?;
    Ok(reachable(address))
}

/// The loopback address for one that means all.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_means_all_is_asked_on_loopback() {
        for (listens, asked) in [
            ("0.0.0.0:8083", "127.0.0.1:8083"),
            ("[::]:1", "[::1]:1"),
            ("10.0.0.7:8083", "10.0.0.7:8083"),
        ] {
            let listens: SocketAddr = listens.parse().expect("an address");
            assert_eq!(reachable(listens).to_string(), asked);
        }
    }
}
