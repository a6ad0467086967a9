//! A process with many attachments, each with settings of its own: what it has in memory, after each of them decided.

use super::{ATTACHMENTS, document, header, key};
use crate::chain::{Place, Tollgate, get};
use crate::{Outcome, load, say};
use serde::Serialize;
use std::time::{Duration, Instant};

/// Longest start: all attachments are compiled in it.
const START_MAX: Duration = Duration::from_secs(600);
/// The numbers that are compared: what the rest of the process takes, and what attachments add.
const SIZES: [usize; 2] = [0, ATTACHMENTS];

/// One process.
#[derive(Debug, Serialize)]
pub(super) struct Many {
    pub(super) attachments: usize,
    /// From its start, with an empty cache, until it is ready.
    pub(super) ready_seconds: f64,
    resident_kib: u64,
    /// Open file descriptors.
    pub(super) descriptors: usize,
}

impl Many {
    pub(super) fn resident_mib(&self) -> f64 {
        f64::from(u32::try_from(self.resident_kib).unwrap_or(u32::MAX)) / 1024.0
    }
}

/// Measures each number.
pub(super) async fn measure(place: &Place<'_>) -> Outcome<Vec<Many>> {
    let mut measured = Vec::new();
    for attachments in SIZES {
        let one = of(place, attachments).await?;
        say(&format!(
            "{attachments} attachments  {:.0} MiB  {} descriptors  ready after {:.1} s",
            one.resident_mib(),
            one.descriptors,
            one.ready_seconds
        ));
        measured.push(one);
    }
    Ok(measured)
}

async fn of(place: &Place<'_>, attachments: usize) -> Outcome<Many> {
    let began = Instant::now();
    let document = document(ATTACHMENTS, attachments)?;
    let name = if attachments == 0 { "packs-none" } else { "packs-many" };
    let tollgate = Tollgate::start(place, name, &document, START_MAX).await?;
    let ready_seconds = began.elapsed().as_secs_f64();
    for number in 0..attachments {
        prove(&tollgate, number).await?;
    }
    Ok(Many {
        attachments,
        ready_seconds,
        resident_kib: tollgate.process.resident_kib()?,
        descriptors: tollgate.process.descriptors()?,
    })
}

/// Shows that the attachment of this number decides, by its own settings.
async fn prove(tollgate: &Tollgate, number: usize) -> Outcome<()> {
    let key = format!("x-api-key: {}\r\n", key(number));
    let given = format!("{key}{}: 1\r\n", header(number));
    // Nothing listens where the upstream should: what the pack lets pass ends there.
    for (headers, expected) in [(key, 403), (given, 502)] {
        let status = load::once(tollgate.address, get("/v1/contacts", &headers)).await?;
        if status != expected {
            let told = format!("attachment {number} answered {status} instead of {expected}");
            return Err(told.into());
        }
    }
    Ok(())
}
