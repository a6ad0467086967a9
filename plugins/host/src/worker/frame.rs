//! How a job and what came of it are written: parts one after the other, each after its length as eight bytes, least
//! significant first. A job is its limits, its task, both JSON, and the pack file; an answer is JSON, and the code of what
//! was prepared.

use std::io::{self, Read};

use serde::{Deserialize, Serialize};

use super::{Done, Job, JobLimits, MAX_ARTEFACT_BYTES, Task};
use crate::artefact::Artefact;
use crate::pack::PackError;
use crate::package::Package;
use crate::trial::Trial;

/// The limits of a job as JSON, at most.
const MAX_LIMITS_BYTES: u64 = 1 << 10;

/// The first part of an answer; the code of what was prepared follows.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum AnswerHead {
    /// Of each: whether it has a memory image, or why there is none.
    Prepared(Vec<Result<bool, PackError>>),
    Tried(Trial),
    Failed(PackError),
}

pub(super) fn write_job(limits: &JobLimits, job: &Job<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    append(&mut bytes, &json(limits));
    append(&mut bytes, &json(&job.task));
    append(&mut bytes, &job.package.write());
    bytes
}

/// Within which limits a job is to be done, which stands before it.
pub(super) fn read_limits(job: &mut impl Read) -> io::Result<JobLimits> {
    let mut length = [0; 8];
    job.read_exact(&mut length)?;
    let mut json = Vec::new();
    job.take(u64::from_le_bytes(length).min(MAX_LIMITS_BYTES)).read_to_end(&mut json)?;
    Ok(serde_json::from_slice(&json)?)
}

/// What is to be done, and with which pack.
pub(super) fn read_job(bytes: &[u8]) -> Option<(Task, Package)> {
    let mut rest = bytes;
    let task = serde_json::from_slice(take(&mut rest)?).ok()?;
    let package = Package::read(take(&mut rest)?).ok()?;
    rest.is_empty().then_some((task, package))
}

pub(super) fn write_answer(answer: Result<Done, PackError>) -> Vec<u8> {
    let mut bytes = Vec::new();
    match answer {
        Err(error) => append(&mut bytes, &json(&AnswerHead::Failed(error))),
        Ok(Done::Tried(trial)) => append(&mut bytes, &json(&AnswerHead::Tried(trial))),
        Ok(Done::Prepared(made)) => {
            let head = |made: &Result<Artefact, PackError>| {
                made.as_ref().map(|artefact| artefact.image).map_err(PackError::clone)
            };
            append(&mut bytes, &json(&AnswerHead::Prepared(made.iter().map(head).collect())));
            for artefact in made.iter().flatten() {
                append(&mut bytes, &artefact.code);
            }
        }
    }
    bytes
}

/// `None` for what no worker writes.
pub(super) fn read_answer(bytes: &[u8]) -> Option<Result<Done, PackError>> {
    let mut rest = bytes;
    let answer = match serde_json::from_slice(take(&mut rest)?).ok()? {
        AnswerHead::Failed(error) => Err(error),
        AnswerHead::Tried(trial) => Ok(Done::Tried(trial)),
        AnswerHead::Prepared(heads) => {
            let mut made = Vec::with_capacity(heads.len());
            for head in heads {
                made.push(match head {
                    Err(error) => Err(error),
                    Ok(image) => {
                        let code = take(&mut rest)?;
                        if code.len() > MAX_ARTEFACT_BYTES {
                            return None;
                        }
                        Ok(Artefact { image, code: code.to_vec() })
                    }
                });
            }
            Ok(Done::Prepared(made))
        }
    };
    rest.is_empty().then_some(answer)
}

fn append(bytes: &mut Vec<u8>, part: &[u8]) {
    bytes.extend_from_slice(&(part.len() as u64).to_le_bytes());
    bytes.extend_from_slice(part);
}

fn take<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (length, after) = rest.split_first_chunk::<8>()?;
    let length = usize::try_from(u64::from_le_bytes(*length)).ok()?;
    let (part, after) = after.split_at_checked(length)?;
    *rest = after;
    Some(part)
}

fn json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("it is made of JSON's types")
}
