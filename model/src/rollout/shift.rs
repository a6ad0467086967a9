//! What became of attachments when a version of a pack came into service or went out of it: as answers and events tell it.

use crate::event::{Event, PACK_HALTED, PACK_PROMOTED, PACK_QUARANTINED, PACK_ROLLED_BACK};
use crate::id::{AttachmentId, TenantId};
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// What became of one attachment that ran a version, or had it as its candidate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "PackShift")]
pub struct Shift {
    /// The attachment.
    pub id: AttachmentId,
    /// Whose exchanges it decides, where they are one tenant's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<TenantId>,
    /// `name@version`: what it runs now.
    pub pack: String,
    /// What became of it.
    pub became: Became,
}

/// What became of an attachment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Became {
    /// Its candidate runs now.
    Promoted,
    /// Its candidate was taken back, or it runs again what it ran before.
    RolledBack,
    /// It decides nothing: there is no version to go back to.
    Halted,
    /// Nothing: it stays as it was.
    Kept,
}

/// What a change of the document does to the attachments that ran `name@version` or had it as their candidate, in the
/// document's order.
pub fn shifts(before: &Value, after: &Value, pack: &str) -> Vec<Shift> {
    let after: Vec<&Value> = entries(after, "attachments").collect();
    let concerned = entries(before, "attachments").filter_map(|old| {
        let (runs, is_candidate) = (text(old, "/pack"), candidate(old) == Some(pack));
        (runs == Some(pack) || is_candidate).then_some((old, is_candidate))
    });
    let shift = |(old, was_candidate): (&Value, bool)| {
        let id = text(old, "/id")?;
        let new = after.iter().find(|entry| text(entry, "/id") == Some(id))?;
        let (ran, runs) = (text(old, "/pack"), text(new, "/pack")?);
        let became = if was_candidate && runs == pack {
            Became::Promoted
        } else if (was_candidate && candidate(new).is_none()) || (ran == Some(pack) && runs != pack)
        {
            Became::RolledBack
        } else if is_halted(new) && !is_halted(old) {
            Became::Halted
        } else {
            Became::Kept
        };
        let tenant = text(new, "/scope/tenant").map(TenantId::from);
        Some(Shift { id: id.into(), tenant, pack: runs.to_owned(), became })
    };
    concerned.filter_map(shift).collect()
}

/// What the outbox tells of a change: of each attachment that another version decides now, and of the version, where the
/// change takes it out of service. Ids are made by `id`.
pub fn events(
    (before, after): (&Value, &Value),
    pack: &str,
    (reason, at): (&str, Timestamp),
    id: impl Fn() -> String,
) -> Vec<Event> {
    let shifts = shifts(before, after, pack);
    let (name, version) = pack.split_once('@').unwrap_or((pack, ""));
    let quarantines =
        is_quarantined(after, name, version) && !is_quarantined(before, name, version);
    let told = |shift: &Shift| {
        let r#type = match shift.became {
            Became::Promoted => PACK_PROMOTED,
            Became::RolledBack => PACK_ROLLED_BACK,
            // Where the version is quarantined, its own event tells.
            Became::Halted if quarantines => return None,
            Became::Halted => PACK_HALTED,
            Became::Kept => return None,
        };
        let data =
            json!({ "pack": name, "version": version, "runs": shift.pack, "reason": reason });
        let subject = format!("/v1/attachments/{}", shift.id);
        let tenant = shift.tenant.clone();
        Some(Event { id: id(), at, r#type: r#type.to_owned(), tenant, subject, data })
    };
    let mut events: Vec<Event> = shifts.iter().filter_map(told).collect();
    if quarantines {
        let changed = shifts.iter().filter(|shift| shift.became != Became::Kept);
        let attachments: Vec<&Shift> = changed.collect();
        let data = json!({ "pack": name, "version": version, "reason": reason, "attachments": attachments });
        let subject = format!("/v1/packs/{name}/versions/{version}");
        let r#type = PACK_QUARANTINED.to_owned();
        events.push(Event { id: id(), at, r#type, tenant: None, subject, data });
    }
    events
}

fn entries<'a>(document: &'a Value, list: &str) -> impl Iterator<Item = &'a Value> {
    document.get(list).and_then(Value::as_array).into_iter().flatten()
}

fn text<'a>(entry: &'a Value, pointer: &str) -> Option<&'a str> {
    entry.pointer(pointer).and_then(Value::as_str)
}

fn candidate(attachment: &Value) -> Option<&str> {
    text(attachment, "/rollout/candidate")
}

fn is_halted(attachment: &Value) -> bool {
    attachment.get("halted") == Some(&Value::Bool(true))
}

fn is_quarantined(document: &Value, name: &str, version: &str) -> bool {
    entries(document, "packs").any(|pack| {
        text(pack, "/id") == Some(name)
            && text(pack, "/version") == Some(version)
            && pack.get("quarantined").is_some()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rollout::{promote, quarantine, roll_back, roll_back_to};

    const AT: Timestamp = Timestamp::UNIX_EPOCH;

    fn document() -> Value {
        let with = |id: &str, pack: &str, candidate: Option<&str>| {
            let mut attachment = json!({ "id": id, "pack": pack, "scope": { "tenant": "acme" } });
            if let Some(candidate) = candidate {
                attachment["rollout"] = json!({ "candidate": candidate });
            }
            attachment
        };
        json!({
            "packs": [{ "id": "p", "version": "1.0.0" }, { "id": "p", "version": "1.1.0" }],
            "attachments": [
                with("a", "p@1.0.0", Some("p@1.1.0")),
                with("b", "p@1.1.0", None),
                with("c", "p@1.0.0", None),
            ],
        })
    }

    /// Ids, what they became, and the types of events, after a change.
    fn came(
        pack: &str,
        change: impl Fn(&mut Value),
    ) -> (Vec<(String, Became, String)>, Vec<String>) {
        let (before, mut after) = (document(), document());
        change(&mut after);
        let shifts = shifts(&before, &after, pack).into_iter();
        let shifts = shifts.map(|shift| (shift.id.to_string(), shift.became, shift.pack)).collect();
        let events = events((&before, &after), pack, ("why", AT), || "id".to_owned());
        assert!(events.iter().all(|event| event.data["reason"] == "why"));
        (shifts, events.into_iter().map(|event| event.r#type).collect())
    }

    #[test]
    fn each_change_is_told_as_what_it_is() {
        let told = |id: &str, became, pack: &str| (id.to_owned(), became, pack.to_owned());
        let kept = told("b", Became::Kept, "p@1.1.0");
        let (shifts, events) = came("p@1.1.0", |document| {
            promote(document, "p@1.1.0", None).unwrap();
        });
        assert_eq!(shifts, [told("a", Became::Promoted, "p@1.1.0"), kept.clone()]);
        assert_eq!(events, [PACK_PROMOTED]);
        let (shifts, events) = came("p@1.1.0", |document| {
            roll_back(document, "p@1.1.0", None).unwrap();
        });
        assert_eq!(shifts, [told("a", Became::RolledBack, "p@1.0.0"), kept]);
        assert_eq!(events, [PACK_ROLLED_BACK]);
        let (shifts, events) = came("p@1.1.0", |document| {
            roll_back_to(document, "p@1.1.0", |_| Some("p@1.0.0".to_owned()));
        });
        let back = told("b", Became::RolledBack, "p@1.0.0");
        assert_eq!(shifts, [told("a", Became::Kept, "p@1.0.0"), back.clone()]);
        assert_eq!(events, [PACK_ROLLED_BACK]);
        for (before, became, types) in [
            (
                Some("p@1.0.0"),
                back,
                &[PACK_ROLLED_BACK, PACK_ROLLED_BACK, PACK_QUARANTINED] as &[&str],
            ),
            (None, told("b", Became::Halted, "p@1.1.0"), &[PACK_ROLLED_BACK, PACK_QUARANTINED]),
        ] {
            let (shifts, events) = came("p@1.1.0", |document| {
                quarantine(document, "p@1.1.0", "why", AT, |_| before.map(str::to_owned)).unwrap();
            });
            assert_eq!(shifts, [told("a", Became::RolledBack, "p@1.0.0"), became]);
            assert_eq!(events, types);
        }
    }
}
