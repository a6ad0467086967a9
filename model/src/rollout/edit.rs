//! The changes of a document by which a candidate comes into service, goes back, or is quarantined. On the value as it is
//! written, so that whatever else stands there stays.

use crate::id::AttachmentId;
use jiff::Timestamp;
use serde_json::{Value, json};

/// Nothing in the document is so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("nothing in the document is so")]
pub struct Unchanged;

/// What became of an attachment whose running version was taken out of service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fallen {
    /// It runs this one again.
    Back(AttachmentId, String),
    /// There is none to go back to: it is halted.
    Halted(AttachmentId),
}

/// Makes the candidate `name@version` the running version, wherever it is one (of this attachment alone, where one is
/// named). Says where.
pub fn promote(
    document: &mut Value,
    candidate: &str,
    only: Option<&AttachmentId>,
) -> Result<Vec<AttachmentId>, Unchanged> {
    changed(candidates(document, candidate, only).map(|(id, attachment)| {
        attachment.insert("pack".to_owned(), candidate.into());
        attachment.remove("rollout");
        id
    }))
}

/// Takes the candidate `name@version` back, wherever it is one. Says where.
pub fn roll_back(
    document: &mut Value,
    candidate: &str,
    only: Option<&AttachmentId>,
) -> Result<Vec<AttachmentId>, Unchanged> {
    changed(candidates(document, candidate, only).map(|(id, attachment)| {
        attachment.remove("rollout");
        id
    }))
}

/// Puts the running version `name@version` back to what each attachment ran before, as `before` knows it. A rollout in
/// progress there ends: it was measured against what goes.
pub fn roll_back_to(
    document: &mut Value,
    running: &str,
    before: impl Fn(&AttachmentId) -> Option<String>,
) -> Vec<(AttachmentId, Option<String>)> {
    let attachments =
        attachments(document).filter(|(_, entry)| text(entry, "pack") == Some(running));
    attachments
        .map(|(id, attachment)| {
            let known = before(&id);
            if let Some(version) = &known {
                attachment.insert("pack".to_owned(), version.as_str().into());
                attachment.remove("rollout");
            }
            (id, known)
        })
        .collect()
}

/// Takes a version out of service at one attachment: as a candidate it is taken back; where it runs, the attachment goes
/// back to what it ran before, as `before` knows it, or is halted.
pub fn take_out(
    document: &mut Value,
    pack: &str,
    only: &AttachmentId,
    before: impl Fn(&AttachmentId) -> Option<String>,
) -> Result<(), Unchanged> {
    let taken_back = roll_back(document, pack, Some(only)).is_ok();
    let runs = |entry: &Entry| text(entry, "pack") == Some(pack);
    let is_halted = |entry: &Entry| entry.get("halted") == Some(&Value::Bool(true));
    let found =
        attachments(document).find(|(id, entry)| id == only && runs(entry) && !is_halted(entry));
    match found {
        Some((id, attachment)) => {
            attachment.remove("rollout");
            match before(&id) {
                Some(version) => attachment.insert("pack".to_owned(), version.into()),
                None => attachment.insert("halted".to_owned(), true.into()),
            };
            Ok(())
        }
        None if taken_back => Ok(()),
        None => Err(Unchanged),
    }
}

/// Takes a version out of service everywhere: as a candidate it is taken back; where it runs, the attachment goes back to
/// what it ran before, as `before` knows it, or is halted. Says what became of attachments that ran it.
pub fn quarantine(
    document: &mut Value,
    pack: &str,
    reason: &str,
    at: Timestamp,
    before: impl Fn(&AttachmentId) -> Option<String>,
) -> Result<Vec<Fallen>, Unchanged> {
    mark(document, pack, reason, at)?;
    let _ = roll_back(document, pack, None);
    let fallen = roll_back_to(document, pack, before);
    let halted =
        |id: &AttachmentId| fallen.iter().any(|(fallen, known)| fallen == id && known.is_none());
    for (_, attachment) in attachments(document).filter(|(id, _)| halted(id)) {
        attachment.insert("halted".to_owned(), true.into());
        attachment.remove("rollout");
    }
    let told = fallen.into_iter().map(|(id, known)| match known {
        Some(version) => Fallen::Back(id, version),
        None => Fallen::Halted(id),
    });
    Ok(told.collect())
}

fn mark(document: &mut Value, pack: &str, reason: &str, at: Timestamp) -> Result<(), Unchanged> {
    let (id, version) = pack.split_once('@').ok_or(Unchanged)?;
    let packs = document.get_mut("packs").and_then(Value::as_array_mut).ok_or(Unchanged)?;
    let is_it = |entry: &&mut Value| {
        entry.get("id").and_then(Value::as_str) == Some(id)
            && entry.get("version").and_then(Value::as_str) == Some(version)
    };
    let entry = packs.iter_mut().find(is_it).and_then(Value::as_object_mut).ok_or(Unchanged)?;
    if entry.contains_key("quarantined") {
        return Err(Unchanged);
    }
    entry.insert("quarantined".to_owned(), json!({ "at": at.to_string(), "reason": reason }));
    Ok(())
}

type Entry = serde_json::Map<String, Value>;

fn attachments(document: &mut Value) -> impl Iterator<Item = (AttachmentId, &mut Entry)> {
    let entries = document.get_mut("attachments").and_then(Value::as_array_mut);
    entries.into_iter().flatten().filter_map(|entry| {
        let entry = entry.as_object_mut()?;
        let id = AttachmentId::from(text(entry, "id")?);
        Some((id, entry))
    })
}

fn candidates<'a>(
    document: &'a mut Value,
    candidate: &'a str,
    only: Option<&'a AttachmentId>,
) -> impl Iterator<Item = (AttachmentId, &'a mut Entry)> {
    attachments(document).filter(move |(id, entry)| {
        let rollout = entry.get("rollout").and_then(|rollout| rollout.get("candidate"));
        rollout.and_then(Value::as_str) == Some(candidate) && only.is_none_or(|only| only == id)
    })
}

fn changed(ids: impl Iterator<Item = AttachmentId>) -> Result<Vec<AttachmentId>, Unchanged> {
    let ids: Vec<_> = ids.collect();
    if ids.is_empty() { Err(Unchanged) } else { Ok(ids) }
}

fn text<'a>(entry: &'a Entry, field: &str) -> Option<&'a str> {
    entry.get(field).and_then(Value::as_str)
}
