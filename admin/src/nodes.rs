//! `/v1/nodes`: which processes there are, and whether each has the newest revision in force.

use crate::Shared;
use crate::allowed::Reader;
use crate::answer::Answer;
use crate::body::Query;
use crate::page::{Listed, Page, PageQuery};
use crate::problem::Refused;
use axum::Router;
use axum::extract::State;
use axum::routing;
use jiff::{SignedDuration, Timestamp};
use model::id::NodeName;
use model::node::{NodeReport, Rejected};
use model::revision::RevisionInfo;
use schemars::JsonSchema;
use serde::Serialize;
use std::sync::Arc;

/// For how long a node is shown that reports no more.
const SHOWN: SignedDuration = SignedDuration::from_hours(24);

/// After how long without a report a node is taken for gone. Nodes report every 5 s.
const SILENT_MAX: SignedDuration = SignedDuration::from_secs(15);

/// Where the newest revision that is everybody's is looked for: only the very newest is ever on some nodes only.
const NEWEST_LOOKED_AT: u32 = 2;

/// A node, as it reports itself.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "Node")]
pub(crate) struct NodeItem {
    /// Its name.
    name: NodeName,
    /// What it is: `gateway`, `admin`.
    roles: Vec<String>,
    /// Its build: version, and commit where it is known.
    build: String,
    /// The revision in force on it; 0 before the first.
    revision: u64,
    /// How many revisions it is behind the newest that is everybody's.
    lag: u64,
    /// How it stands.
    state: Standing,
    /// The newest revision that it could not put in force, and why.
    #[serde(skip_serializing_if = "Option::is_none")]
    rejected: Option<Rejected>,
    /// When its process began.
    started_at: Timestamp,
    /// When it last reported.
    seen_at: Timestamp,
}

/// How a node stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Standing {
    /// It has the newest revision that is its own in force.
    InForce,
    /// It has not yet.
    Behind,
    /// It refused it.
    Rejected,
    /// It has not reported for 15 s.
    Gone,
}

/// The nodes, and what they should have in force.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Nodes {
    #[serde(flatten)]
    listed: Listed<NodeItem>,
    /// The newest revision that is everybody's; 0 before the first.
    newest: u64,
}

/// What nodes should have in force.
struct Wanted {
    /// The newest revision that is everybody's.
    of_all: u64,
    /// A newer one that is on some nodes only.
    staged: Option<(u64, Vec<NodeName>)>,
}

impl Wanted {
    fn of(newest: Vec<RevisionInfo>) -> Self {
        let mut wanted = Self { of_all: 0, staged: None };
        for info in newest {
            match info.nodes {
                None => {
                    wanted.of_all = info.number;
                    break;
                }
                Some(nodes) => wanted.staged = wanted.staged.or(Some((info.number, nodes))),
            }
        }
        wanted
    }

    /// The newest revision that is this node's.
    fn of_node(&self, name: &NodeName) -> u64 {
        match &self.staged {
            Some((number, nodes)) if nodes.contains(name) => *number,
            _ => self.of_all,
        }
    }
}

impl NodeItem {
    fn of(report: NodeReport, wanted: &Wanted, now: Timestamp) -> Self {
        let NodeReport { name, roles, build, revision, rejected, started_at, seen_at } = report;
        let its_own = wanted.of_node(&name);
        let refused = rejected.as_ref().is_some_and(|rejected| rejected.revision >= its_own);
        let state = if now.duration_since(seen_at) > SILENT_MAX {
            Standing::Gone
        } else if revision >= its_own {
            Standing::InForce
        } else if refused {
            Standing::Rejected
        } else {
            Standing::Behind
        };
        let lag = wanted.of_all.saturating_sub(revision);
        Self { name, roles, build, revision, lag, state, rejected, started_at, seen_at }
    }
}

/// The routes.
pub(crate) fn routes() -> Router<Arc<Shared>> {
    Router::new().route("/v1/nodes", routing::get(list))
}

/// `GET /v1/nodes`
async fn list(
    State(shared): State<Arc<Shared>>,
    Reader(acting): Reader,
    Query(query): Query<PageQuery>,
) -> Result<Answer, Refused> {
    acting.unbound()?;
    let page = Page::of("nodes", query.limit, query.cursor.as_deref())?;
    let now = shared.clock.now();
    let wanted = Wanted::of(shared.store.revisions(None, NEWEST_LOOKED_AT).await?);
    let reports = shared.store.nodes(now - SHOWN).await?;
    let further = |report: &NodeReport| {
        page.after.as_deref().is_none_or(|after| report.name.as_str() > after)
    };
    let items = reports.into_iter().filter(further);
    let items = items.map(|report| NodeItem::of(report, &wanted, now)).collect();
    let listed = page.listed(items, |node: &NodeItem| node.name.to_string());
    Ok(Answer::ok(&Nodes { listed, newest: wanted.of_all }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::config::ConfigError;

    fn info(number: u64, nodes: Option<&[&str]>) -> RevisionInfo {
        RevisionInfo {
            number,
            at: Timestamp::UNIX_EPOCH,
            digest: String::new(),
            size: 0,
            author: String::new(),
            action: String::new(),
            nodes: nodes.map(|nodes| nodes.iter().copied().map(NodeName::from).collect()),
        }
    }

    #[test]
    fn a_node_stands_as_its_own_newest_revision_does() {
        let now: Timestamp = "2026-11-01T12:00:00Z".parse().unwrap();
        let everybodys = || Wanted::of(vec![info(7, None), info(6, None)]);
        let staged = || Wanted::of(vec![info(8, Some(&["a"])), info(7, None)]);
        let none = || Wanted::of(Vec::new());
        let cases = [
            (everybodys(), "a", 7, None, 0, Standing::InForce, 0),
            (everybodys(), "a", 5, None, 2, Standing::Behind, 0),
            (everybodys(), "a", 6, Some(7), 1, Standing::Rejected, 15),
            (everybodys(), "a", 6, Some(5), 1, Standing::Behind, 15),
            (everybodys(), "a", 7, None, 0, Standing::Gone, 16),
            (staged(), "a", 7, None, 0, Standing::Behind, 1),
            (staged(), "a", 8, None, 0, Standing::InForce, 1),
            (staged(), "b", 7, None, 0, Standing::InForce, 1),
            (staged(), "a", 7, Some(8), 0, Standing::Rejected, 1),
            (none(), "a", 0, None, 0, Standing::InForce, 1),
        ];
        for (wanted, name, revision, rejected, lag, state, silent) in cases {
            let errors = vec![ConfigError::new("/packs/0", "is not there")];
            let report = NodeReport {
                name: name.into(),
                roles: vec!["gateway".to_owned()],
                build: "1".to_owned(),
                revision,
                rejected: rejected.map(|revision| Rejected { revision, errors }),
                started_at: now,
                seen_at: now - SignedDuration::from_secs(silent),
            };
            let node = NodeItem::of(report, &wanted, now);
            assert_eq!((node.lag, node.state), (lag, state), "{name} {revision} {rejected:?}");
        }
    }
}
