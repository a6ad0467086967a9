//! What the demo begins with: packs, and a document as the first revision. What is there already stays, but for the address
//! of the demo's own CRM.

use crate::folder::FirstToken;
use crate::parts::{Parts, system_entry};
use anyhow::{Context as _, bail};
use gateway::watch::{Readers, replace};
use model::revision::{Change, PublishError, Staged};
use std::net::SocketAddr;
use std::path::Path;

/// Lays the packs of the demo into an empty folder.
pub(crate) fn lay_packs(data: &Path) -> anyhow::Result<()> {
    let packs = crate::folder::packs(data)?;
    for pack in demo::PACKS {
        let file = packs.join(format!("{}-{}.wasm", pack.name, pack.version));
        if !file.exists() {
            let component = pack_host::componentize(pack.wasm)?;
            replace(&file, &component, Readers::Everybody)?;
        }
    }
    Ok(())
}

/// Publishes the demo's document where there is none, and another address of the CRM where it moved.
pub(super) async fn document(parts: &Parts, data: &Path, crm: SocketAddr) -> anyhow::Result<()> {
    let place = data.join("crm.address");
    let before = std::fs::read_to_string(&place).unwrap_or_else(|_| demo::CRM_ADDRESS.to_owned());
    let after = crm.to_string();
    let revisions = parts.revisions();
    let newest = revisions.newest().await.context("the demo needs its database to start")?;
    let (text, base) = match &newest {
        None => (demo::DOCUMENT.replace(demo::CRM_ADDRESS, &after), 0),
        Some(newest) => (newest.text.replace(before.trim(), &after), newest.number),
    };
    if newest.is_none_or(|newest| *newest.text != *text) {
        let change = Change {
            text,
            base,
            nodes: None,
            staged: Staged::Keep,
            audit: system_entry(
                &parts.node,
                parts.clock.now(),
                "demo.seed",
                "/v1/document".to_owned(),
                serde_json::json!({ "crm": after }),
            ),
            answer: None,
            events: Vec::new(),
        };
        match revisions.publish(change).await {
            Ok(_) => {}
            Err(PublishError::Invalid(errors)) => {
                let lines: Vec<String> = errors.iter().map(ToString::to_string).collect();
                bail!("the demo's document can't be put in force:\n{}", lines.join("\n"));
            }
            Err(error) => return Err(error).context("the demo's document can't be published"),
        }
    }
    Ok(replace(&place, after.as_bytes(), Readers::Everybody)?)
}

/// The admin token of the demo; what `demo.env` says must be accepted.
pub(super) async fn token(parts: &Parts, data: &Path) -> anyhow::Result<String> {
    let first = FirstToken::of(data)?;
    if !first.bring(parts).await.context("the demo needs its database to start")? {
        bail!(
            "the database has another admin token than {}: take the data folder that it belongs to, or an empty database",
            data.join("admin.token").display()
        );
    }
    Ok(first.token)
}
