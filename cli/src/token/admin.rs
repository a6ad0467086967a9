//! `tollgate token admin`: a way back for who has lost every admin token, and has the database.

use crate::parts::system_entry;
use crate::settings::Settings;
use crate::{Ending, folder, print};
use anyhow::Context as _;
use clap::Args;
use model::Clock;
use model::id::{NodeName, TokenId};
use model::role::{Actor, Role};
use model::token::{self, Token};
use serde_json::json;
use std::path::PathBuf;
use store::Store;
use store::control::{Effect, Write};
use uuid::Uuid;

/// Makes an admin token in the database, for when all others are lost, and prints it once. Needs the database and no
/// token; the process may run meanwhile.
///
/// Example: tollgate token admin --data .tollgate/demo
#[derive(Args)]
pub(super) struct Admin {
    /// The settings' file.
    #[arg(long)]
    config: Option<PathBuf>,
    /// The data folder; overrides the settings.
    #[arg(long)]
    data: Option<PathBuf>,
    /// What the token is called.
    #[arg(long, default_value = "recovered", value_parser = free_name)]
    name: String,
    /// Prints `{"id", "token"}`.
    #[arg(long)]
    json: bool,
}

impl Admin {
    pub(super) fn run(self) -> anyhow::Result<Ending> {
        let mut settings = Settings::read(self.config.as_deref())?;
        if let Some(data) = self.data {
            settings.data = data;
        }
        let node = match settings.node.clone() {
            Some(name) => name,
            None => folder::node_name(&settings.data)?,
        };
        let database = settings.database();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (id, token) = runtime
            .block_on(async {
                let store = Store::open(database.revealed()).await?;
                let made = make(&store, &node, self.name).await;
                store.close().await;
                made
            })
            .with_context(|| database.to_string())?;
        match self.json {
            true => print(&json!({ "id": id, "token": token }).to_string()),
            false => print(&token),
        }
        Ok(Ending::Done)
    }
}

fn free_name(name: &str) -> Result<String, String> {
    if Actor::is_reserved(name) {
        return Err(
            "is what history and audit call who has no token: choose another name".to_owned()
        );
    }
    Ok(name.to_owned())
}

async fn make(store: &Store, node: &NodeName, name: String) -> anyhow::Result<(TokenId, String)> {
    let text = ::admin::new_token();
    let now = Clock::system().now();
    let id = TokenId::from(Uuid::now_v7().to_string().as_str());
    let difference = json!({ "id": id, "name": name, "role": Role::Admin });
    let token = Token {
        id: id.clone(),
        name,
        role: Role::Admin,
        tenant: None,
        created_at: now,
        expires_at: None,
        revoked_at: None,
    };
    let audit = system_entry(node, now, "tokens.create", format!("/v1/tokens/{id}"), difference);
    let effect = Effect::CreateToken(token, token::hash(&text));
    store.write(Write { effect, audit, answer: None }).await?;
    Ok((id, text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_token_is_called_as_who_has_none() {
        for name in ["system", "Anonymous"] {
            free_name(name).unwrap_err();
        }
        assert_eq!(free_name("recovered").unwrap(), "recovered");
    }
}
