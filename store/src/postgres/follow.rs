//! The one task beside: it brings the schema up to date once the server is there, then listens for what other processes
//! publish.
//!
//! Nothing depends on it but speed: without it, followers look again after their pause.

use super::upgrade::{self, Standing};
use super::{ACQUIRE_TIMEOUT, Target};
use crate::db::FEED_CHANNEL;
use crate::feed::Hints;
use crate::webhooks::CHANNEL;
use rand::RngExt as _;
use sqlx::postgres::{PgListener, PgPoolOptions};
use std::convert::Infallible;
use std::time::Duration;
use tokio::sync::watch;

/// The first pause after a failure; the next ones are twice as long each.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// The longest pause: a server that is back is noticed within this time.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// The longest pause where waiting does not help: somebody has to do something first.
const LONGEST_LASTING_PAUSE: Duration = Duration::from_secs(30);
/// How long one connection listens. It sends nothing, so that nothing tells when the other end is gone.
const LISTEN_FOR: Duration = Duration::from_secs(60);

/// Ends never; abort it to stop.
pub(super) async fn run(
    target: Target,
    standing: watch::Sender<Standing>,
    hints: Hints,
    webhooks: Hints,
) {
    catch_up(&target, &standing).await;
    let mut pause = FIRST_PAUSE;
    let told = [(FEED_CHANNEL, hints), (CHANNEL, webhooks)];
    loop {
        match tokio::time::timeout(LISTEN_FOR, listen(&target, &told, &mut pause)).await {
            Err(_) => {}
            Ok(error) => {
                tracing::debug!(%error, "no longer told of revisions; looking for them instead");
                sleep(&mut pause, LONGEST_PAUSE).await;
            }
        }
    }
}

/// Tries until the schema is up to date.
async fn catch_up(target: &Target, standing: &watch::Sender<Standing>) {
    let mut pause = FIRST_PAUSE;
    while !standing.borrow().is_up_to_date() {
        sleep(&mut pause, LONGEST_PAUSE).await;
        match upgrade::run(target, standing).await {
            Ok(()) => tracing::info!(database = target.label(), "the store is there"),
            Err(error) if error.is_lasting() => {
                tracing::error!(%error, database = target.label(), "the store can't be used");
                pause = LONGEST_LASTING_PAUSE;
                sleep(&mut pause, LONGEST_LASTING_PAUSE).await;
            }
            Err(error) => tracing::debug!(%error, "the store is still away"),
        }
    }
}

/// Listens until something is wrong with it. What was missed before it listens, or when it broke, is hinted at as well.
async fn listen(target: &Target, told: &[(&str, Hints)], pause: &mut Duration) -> sqlx::Error {
    let Err(error) = listen_on(target, told, pause).await;
    told.iter().for_each(|(_, hints)| hints.give());
    error
}

async fn listen_on(
    target: &Target,
    told: &[(&str, Hints)],
    pause: &mut Duration,
) -> Result<Infallible, sqlx::Error> {
    // A pool of its own each time: a connection that fell silent is not waited for.
    let pool = PgPoolOptions::new().max_connections(1).acquire_timeout(ACQUIRE_TIMEOUT);
    let mut listener =
        PgListener::connect_with(&pool.connect_lazy_with(target.own.clone())).await?;
    listener.eager_reconnect(false);
    listener.listen_all(told.iter().map(|(channel, _)| *channel)).await?;
    *pause = FIRST_PAUSE;
    told.iter().for_each(|(_, hints)| hints.give());
    loop {
        let Some(heard) = listener.try_recv().await? else {
            return Err(sqlx::Error::Protocol("the connection was lost".to_owned()));
        };
        let of_it = told.iter().filter(|(channel, _)| *channel == heard.channel());
        of_it.for_each(|(_, hints)| hints.give());
    }
}

/// Sleeps for about so long, and twice as long the next time: many nodes don't come back at the same moment.
async fn sleep(pause: &mut Duration, longest: Duration) {
    let share = rand::rng().random_range(0.5..1.0);
    tokio::time::sleep(pause.mul_f64(share)).await;
    *pause = (*pause * 2).min(longest);
}
