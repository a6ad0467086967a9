//! `tollgate token`: development tokens of the demo issuer, and a way back into admin.

mod admin;

use crate::{Ending, print};
use anyhow::bail;
use clap::{Args, Subcommand};
use jiff::Timestamp;

/// Makes tokens: JWTs for development, an admin token when all are lost.
#[derive(Args)]
pub(crate) struct Token {
    #[command(subcommand)]
    command: TokenCommand,
}

#[derive(Subcommand)]
enum TokenCommand {
    Mint(Mint),
    Admin(admin::Admin),
}

/// Signs a JWT of the demo issuer. Its key is public: for development and tests only.
///
/// Example: tollgate token mint --tenant acme --consumer acme-mobile --scope contacts:read --ttl 1h
#[derive(Args)]
struct Mint {
    /// The tenant.
    #[arg(long, default_value = "acme")]
    tenant: String,
    /// The consumer (`client_id`); that of the demo's tenant when absent.
    #[arg(long)]
    consumer: Option<String>,
    /// The subject (`sub`); the consumer when absent.
    #[arg(long)]
    subject: Option<String>,
    /// A scope; may stand several times. Those of the demo's consumer when absent.
    #[arg(long = "scope")]
    scopes: Vec<String>,
    /// How long it is valid, like `1h`.
    #[arg(long, default_value = "24h")]
    ttl: model::units::Duration,
    /// The audience (`aud`).
    #[arg(long, default_value = demo::AUDIENCE)]
    audience: String,
}

impl Token {
    pub(crate) fn run(self) -> anyhow::Result<Ending> {
        match self.command {
            TokenCommand::Mint(mint) => mint.run(),
            TokenCommand::Admin(admin) => admin.run(),
        }
    }
}

impl Mint {
    fn run(self) -> anyhow::Result<Ending> {
        let known = demo::CONSUMERS.iter().find(|consumer| consumer.tenant == self.tenant);
        let consumer = match (self.consumer, known) {
            (Some(consumer), _) => consumer,
            (None, Some(known)) => known.id.to_owned(),
            (None, None) => {
                bail!("tenant `{}` is not of the demo: name the --consumer", self.tenant)
            }
        };
        let scopes = if self.scopes.is_empty() {
            known.map(|known| known.scopes.join(" ")).unwrap_or_default()
        } else {
            self.scopes.join(" ")
        };
        let now = model::Clock::system().now();
        let claims = Claimed { tenant: &self.tenant, consumer: &consumer, scopes: &scopes };
        let subject = self.subject.as_deref().unwrap_or(&consumer);
        print(&claims.mint(subject, &self.audience, now, self.ttl.0));
        Ok(Ending::Done)
    }
}

/// Whom a token stands for.
pub(crate) struct Claimed<'a> {
    pub(crate) tenant: &'a str,
    pub(crate) consumer: &'a str,
    pub(crate) scopes: &'a str,
}

impl Claimed<'_> {
    /// A token of the demo issuer.
    pub(crate) fn mint(
        &self,
        subject: &str,
        audience: &str,
        now: Timestamp,
        ttl: std::time::Duration,
    ) -> String {
        let issued = now.as_second();
        let expires = issued.saturating_add(i64::try_from(ttl.as_secs()).unwrap_or(i64::MAX));
        crm::Signer::demo().mint(&crm::Claims {
            iss: demo::ISSUER.to_owned(),
            aud: audience.to_owned(),
            sub: subject.to_owned(),
            client_id: self.consumer.to_owned(),
            tenant: self.tenant.to_owned(),
            scope: self.scopes.to_owned(),
            iat: issued,
            nbf: issued,
            exp: expires,
            jti: uuid::Uuid::new_v4().to_string(),
        })
    }
}

/// A day's token for a consumer of the demo.
pub(crate) fn for_demo(consumer: &demo::DemoConsumer, now: Timestamp) -> String {
    let scopes = consumer.scopes.join(" ");
    let claims = Claimed { tenant: consumer.tenant, consumer: consumer.id, scopes: &scopes };
    claims.mint(consumer.id, demo::AUDIENCE, now, crm::TOKEN_LIFETIME.unsigned_abs())
}
