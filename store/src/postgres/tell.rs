//! Telling other processes that there is something to do with webhooks: at most once in [`TELL_PAUSE`], and in no
//! transaction that writes, since the server makes those who notify commit one by one.

use crate::webhooks::{Bell, CHANNEL, TELL_PAUSE};
use sqlx::AnyPool;

/// Ends never; abort it to stop. What can't be told is found by those who look after their pause.
pub(super) async fn run(pool: AnyPool, bell: Bell) {
    loop {
        bell.untold.notified().await;
        let tell = sqlx::query("SELECT pg_notify($1, '')").bind(CHANNEL).execute(&pool).await;
        if let Err(error) = tell {
            tracing::debug!(%error, "others were not told of webhooks");
        }
        tokio::time::sleep(TELL_PAUSE).await;
    }
}
