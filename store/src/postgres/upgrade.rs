//! Bringing the schema up to date, when the server is there.

use super::Target;
use crate::OpenError;
use crate::schema::{Dialect, migrator};
use sqlx::migrate::{Migrate as _, Migrator};
use sqlx::{AnyConnection, ConnectOptions as _, Connection as _};
use std::time::Duration;
use tokio::sync::watch;

/// How long a server may take to answer at all.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// How long the changes may take, with waiting for another node that makes them.
const UPGRADE_TIMEOUT: Duration = Duration::from_secs(600);
/// The oldest version that is served: 15.
const OLDEST: u32 = 150_000;

/// Whether the schema is known to be up to date.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    UpToDate,
    /// Not yet, because of this.
    Behind(String),
}

impl Default for Standing {
    fn default() -> Self {
        Self::Behind("its schema was not looked at yet".to_owned())
    }
}

impl Standing {
    pub(super) fn is_up_to_date(&self) -> bool {
        *self == Self::UpToDate
    }
}

/// Brings the schema up to date and notes how it went.
pub(super) async fn run(
    target: &Target,
    standing: &watch::Sender<Standing>,
) -> Result<(), OpenError> {
    let done = upgrade(target).await;
    standing.send_modify(|standing| match &done {
        Ok(()) => *standing = Standing::UpToDate,
        // What was found up to date once stays so: changes only add.
        Err(_) if standing.is_up_to_date() => {}
        Err(error) => *standing = Standing::Behind(error.to_string()),
    });
    done
}

/// On a connection of its own: the pool's are bound to end soon.
async fn upgrade(target: &Target) -> Result<(), OpenError> {
    let connect = tokio::time::timeout(CONNECT_TIMEOUT, target.any.connect()).await;
    let mut connection = connect.map_err(|_| OpenError::Silent(CONNECT_TIMEOUT))??;
    let changes = async {
        let version = sqlx::query_scalar("SHOW server_version_num");
        let version: String = version.fetch_one(&mut connection).await?;
        judge(&version)?;
        let migrator = migrator(Dialect::Postgres);
        if !has_all(&mut connection, &migrator).await {
            migrator.run_direct(None, &mut connection, false).await?;
        }
        connection.close().await.map_err(OpenError::from)
    };
    let done = tokio::time::timeout(UPGRADE_TIMEOUT, changes).await;
    done.map_err(|_| OpenError::Busy(UPGRADE_TIMEOUT))?
}

/// Whether every change was made already: then nobody is waited for, and the user need not be one who may make them.
async fn has_all(connection: &mut AnyConnection, migrator: &Migrator) -> bool {
    // Where the table is missing, none was made.
    let made = connection.list_applied_migrations(&migrator.table_name).await.unwrap_or_default();
    let is_made = |version, sum| made.iter().any(|m| m.version == version && m.checksum == sum);
    migrator.iter().all(|change| is_made(change.version, change.checksum.clone()))
}

/// Whether a server of this version is served.
fn judge(version: &str) -> Result<(), OpenError> {
    match version.parse::<u32>() {
        Ok(number) if number >= OLDEST => Ok(()),
        Ok(number) => Err(OpenError::TooOld(format!("{}.{}", number / 10_000, number % 10_000))),
        Err(_) => Err(OpenError::TooOld(version.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_before_15_are_refused() {
        for version in ["150000", "150014", "160002", "180000"] {
            judge(version).unwrap();
        }
        for (version, said) in [("140011", "14.11"), ("devel", "devel")] {
            let error = judge(version).unwrap_err();
            assert!(error.is_lasting());
            assert!(error.to_string().contains(&format!("PostgreSQL {said}")), "{error}");
        }
    }
}
