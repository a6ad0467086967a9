//! Rollouts: opened once for all nodes, ended once, with what all processes saw of them.

use crate::Store;
use crate::rollouts::{OpenRollout, RolloutQuery, SampleReport};
use crate::tests::samples::{at, id};
use model::rollout::{RolloutInfo, RolloutState, Samples};
use std::collections::BTreeSet;
use std::time::Duration;

/// What a revision names: an attachment of pack `p`, its running version and its candidate.
fn named(number: u64, attachment: &str, running: &str, candidate: &str) -> OpenRollout {
    OpenRollout {
        id: id(number),
        attachment: attachment.into(),
        pack: "p".into(),
        running: running.to_owned(),
        candidate: candidate.to_owned(),
        started_at: at(i64::try_from(number).unwrap()),
    }
}

async fn sync(
    store: &Store,
    revision: u64,
    named: &[OpenRollout],
    seconds: i64,
) -> Vec<OpenRollout> {
    store.sync_rollouts(revision, named.to_vec(), at(seconds)).await.unwrap()
}

async fn all(store: &Store) -> Vec<RolloutInfo> {
    let query = RolloutQuery { limit: 100, ..RolloutQuery::default() };
    store.rollouts(&query).await.unwrap()
}

async fn states(store: &Store) -> Vec<(String, RolloutState)> {
    all(store).await.into_iter().map(|rollout| (rollout.id, rollout.state)).collect()
}

pub(in crate::tests) async fn rollouts_follow_the_newest_revision(store: &Store) {
    use RolloutState::{Open, Withdrawn};
    assert_eq!(sync(store, 1, &[], 0).await, []);
    let (a, b) = (named(1, "a", "1.0.0", "1.1.0"), named(2, "b", "1.0.0", "1.1.0"));
    assert_eq!(sync(store, 2, &[a.clone(), b.clone()], 2).await, [a.clone(), b.clone()]);
    // Another node brings ids of its own: those that are there stay.
    let again = [named(3, "a", "1.0.0", "1.1.0"), named(4, "b", "1.0.0", "1.1.0")];
    assert_eq!(sync(store, 2, &again, 3).await, [a.clone(), b.clone()]);
    // Another candidate is another rollout.
    let other = named(5, "b", "1.0.0", "1.2.0");
    assert_eq!(sync(store, 3, &[a.clone(), other.clone()], 5).await, [a.clone(), other.clone()]);
    // A node that is behind changes nothing, whatever its revision names.
    for behind in [vec![], vec![b.clone()]] {
        assert_eq!(sync(store, 2, &behind, 6).await, [a.clone(), other.clone()]);
    }
    assert_eq!(states(store).await, [(id(5), Open), (id(2), Withdrawn), (id(1), Open)]);
    let withdrawn = store.rollout(&id(2)).await.unwrap().unwrap();
    assert_eq!((withdrawn.ended_at, withdrawn.reason), (Some(at(5)), None));
    // What comes back is a rollout of its own.
    let back = named(6, "b", "1.0.0", "1.1.0");
    let named = [back];
    assert_eq!(sync(store, 4, &named, 7).await, named);
    assert_eq!(store.rollout(&id(9)).await.unwrap(), None);
}

pub(in crate::tests) async fn a_rollout_ends_once_and_says_why(store: &Store) {
    use RolloutState::{Open, Promoted, RolledBack, Withdrawn};
    let (a, b) = (named(1, "a", "1.0.0", "1.1.0"), named(2, "b", "1.0.0", "1.1.0"));
    sync(store, 1, &[a.clone(), b.clone()], 0).await;
    let end = async |number, state, reason: &str, seconds| {
        store.end_rollout(&id(number), state, reason, at(seconds)).await.unwrap()
    };
    assert!(end(1, Promoted, "nothing speaks against it", 5).await);
    assert!(!end(1, RolledBack, "too late", 6).await);
    assert!(!end(9, RolledBack, "no such rollout", 6).await);
    let ended = store.rollout(&id(1)).await.unwrap().unwrap();
    assert_eq!((ended.state, ended.ended_at), (Promoted, Some(at(5))));
    assert_eq!(ended.reason.as_deref(), Some("nothing speaks against it"));
    // A node that is behind does not open it again.
    assert_eq!(sync(store, 1, &[a, b.clone()], 6).await, std::slice::from_ref(&b));
    // A node sees the revision that rolls back before the node that made it says so.
    assert_eq!(sync(store, 2, &[], 7).await, []);
    assert_eq!(states(store).await, [(id(2), Withdrawn), (id(1), Promoted)]);
    assert!(end(2, RolledBack, "6 of 100 calls failed", 8).await);
    assert!(!end(2, Withdrawn, "again", 9).await);
    let ended = store.rollout(&id(2)).await.unwrap().unwrap();
    assert_eq!((ended.state, ended.reason.as_deref()), (RolledBack, Some("6 of 100 calls failed")));
    // As long as the document names it, the next revision opens it anew.
    sync(store, 3, &[OpenRollout { id: id(3), ..b }], 10).await;
    assert_eq!(states(store).await[0], (id(3), Open));
}

fn seen(calls: u64, micros: u64) -> Samples {
    let mut samples = Samples { calls, compared: calls, ..Samples::default() };
    for _ in 0..calls {
        samples.durations.add(Duration::from_micros(micros));
    }
    samples
}

fn report(number: u64, process: &str, window: u64, samples: &Samples) -> SampleReport {
    let (rollout, process) = (id(number), process.to_owned());
    SampleReport { rollout, process, window, samples: samples.clone() }
}

pub(in crate::tests) async fn what_all_processes_saw_of_a_window_is_added_up(store: &Store) {
    sync(store, 1, &[named(1, "a", "1.0.0", "1.1.0"), named(2, "b", "1.0.0", "1.1.0")], 0).await;
    let of = async |number, window| {
        store.samples(vec![(id(number), window)]).await.unwrap().pop().unwrap()
    };
    assert_eq!(of(1, 0).await, Samples::default());
    let reports = vec![report(1, "n1", 0, &seen(2, 8)), report(1, "n2", 0, &seen(3, 1_024))];
    store.report_samples(reports.clone()).await.unwrap();
    // A report that is repeated counts once; a later one of the same process takes its place.
    store.report_samples(reports).await.unwrap();
    store
        .report_samples(vec![report(1, "n1", 0, &seen(4, 8)), report(2, "n1", 0, &seen(9, 8))])
        .await
        .unwrap();
    let mut both = seen(4, 8);
    both.merge(&seen(3, 1_024));
    assert_eq!(of(1, 0).await, both);
    assert_eq!(
        store.samples(vec![(id(2), 0), (id(1), 0)]).await.unwrap(),
        [seen(9, 8), both.clone()]
    );
    let told = store.rollout(&id(1)).await.unwrap().unwrap();
    assert_eq!(told.samples, both);
    // The window before a process' newest is still there, for whoever judges its end; its older ones are gone, another
    // one's, whose clock may be behind, are not.
    store.report_samples(vec![report(1, "n1", 1, &seen(1, 8))]).await.unwrap();
    assert_eq!((of(1, 0).await, of(1, 1).await), (both, seen(1, 8)));
    assert_eq!(all(store).await[1].samples, seen(1, 8));
    store.report_samples(vec![report(1, "n1", 2, &seen(5, 8))]).await.unwrap();
    assert_eq!((of(1, 0).await, of(1, 1).await), (seen(3, 1_024), seen(1, 8)));
    // Once it ended, its last window stays, and what comes late is dropped.
    store.end_rollout(&id(1), RolloutState::Promoted, "", at(9)).await.unwrap();
    store
        .report_samples(vec![report(1, "n2", 2, &seen(7, 8)), report(9, "n2", 0, &seen(7, 8))])
        .await
        .unwrap();
    assert_eq!(store.rollout(&id(1)).await.unwrap().unwrap().samples, seen(5, 8));
    assert_eq!((of(1, 2).await, of(9, 0).await), (Samples::default(), Samples::default()));
    store.report_samples(Vec::new()).await.unwrap();
}

pub(in crate::tests) async fn rollouts_are_found_by_pack_and_attachment(store: &Store) {
    let q = OpenRollout { pack: "q".into(), ..named(3, "c", "1.0.0", "2.0.0") };
    let names = [named(1, "a", "1.0.0", "1.1.0"), named(2, "b", "1.0.0", "1.1.0"), q];
    sync(store, 1, &names, 0).await;
    let any = RolloutQuery { limit: 10, ..RolloutQuery::default() };
    let on = |attachments: &[&str]| Some(attachments.iter().map(|id| (*id).into()).collect());
    for (query, numbers) in [
        (any.clone(), &[3, 2, 1][..]),
        (RolloutQuery { limit: 2, ..any.clone() }, &[3, 2]),
        (RolloutQuery { before: Some(id(2)), ..any.clone() }, &[1]),
        (RolloutQuery { pack: Some("p".into()), ..any.clone() }, &[2, 1]),
        (RolloutQuery { attachments: on(&["a", "c", "z"]), ..any.clone() }, &[3, 1]),
        (
            RolloutQuery { attachments: on(&["a", "c"]), pack: Some("p".into()), ..any.clone() },
            &[1],
        ),
        (RolloutQuery { attachments: on(&[]), ..any.clone() }, &[]),
    ] {
        let found = store.rollouts(&query).await.unwrap();
        let found: Vec<_> = found.into_iter().map(|rollout| rollout.id).collect();
        assert_eq!(
            found,
            numbers.iter().map(|number| id(*number)).collect::<Vec<_>>(),
            "{query:?}"
        );
    }
}

pub(in crate::tests) async fn rollouts_that_ended_are_forgotten_after_ninety_days(store: &Store) {
    const DAYS: i64 = 90 * 24 * 3_600;
    sync(store, 1, &[named(1, "a", "1.0.0", "1.1.0"), named(2, "b", "1.0.0", "1.1.0")], 0).await;
    store.end_rollout(&id(1), RolloutState::Promoted, "", at(5)).await.unwrap();
    for (seconds, left) in [(DAYS + 4, 2), (DAYS + 5, 1), (10 * DAYS, 1)] {
        store.purge(at(seconds).as_microsecond()).await.unwrap();
        assert_eq!(all(store).await.len(), left, "{seconds}");
    }
    assert_eq!(states(store).await, [(id(2), RolloutState::Open)], "what is open stays");
}

/// Many processes report of a rollout while it ends: what was counted before its end is in what is kept, and nothing is left
/// behind.
pub(in crate::tests) async fn many_report(store: Store) {
    const PROCESSES: u64 = 8;
    sync(&store, 1, &[named(1, "a", "1.0.0", "1.1.0")], 0).await;
    let mut tasks = tokio::task::JoinSet::new();
    for process in 0..PROCESSES {
        let store = store.clone();
        tasks.spawn(async move {
            for calls in 1..=20 {
                let report = report(1, &format!("n{process}"), 0, &seen(calls, 8));
                store.report_samples(vec![report]).await.unwrap();
            }
        });
    }
    // Somewhere in the middle: each has said something.
    loop {
        let told = store.samples(vec![(id(1), 0)]).await.unwrap();
        if told[0].calls >= PROCESSES * 5 {
            break;
        }
        tokio::task::yield_now().await;
    }
    store.end_rollout(&id(1), RolloutState::Promoted, "", at(9)).await.unwrap();
    let kept = store.rollout(&id(1)).await.unwrap().unwrap().samples;
    tasks.join_all().await;
    assert!(kept.calls >= PROCESSES * 5, "{}", kept.calls);
    assert_eq!(store.rollout(&id(1)).await.unwrap().unwrap().samples, kept);
    assert_eq!(store.samples(vec![(id(1), 0)]).await.unwrap(), [Samples::default()]);
}

/// Many nodes see the same revisions at about the same time.
pub(in crate::tests) async fn many_sync(store: Store) {
    const NODES: u64 = 8;
    const REVISIONS: u64 = 6;
    let mut tasks = tokio::task::JoinSet::new();
    for node in 0..NODES {
        let store = store.clone();
        tasks.spawn(async move {
            for revision in 1..=REVISIONS {
                // Each revision has a candidate of its own on `a`; `b` is as it was.
                let number = revision * 1_000 + node;
                let candidate = format!("1.{revision}.0");
                let names = [
                    named(number, "a", "1.0.0", &candidate),
                    named(number + 100, "b", "1.0.0", "1.1.0"),
                ];
                let open = sync(&store, revision, &names, 0).await;
                assert_eq!(open.len(), 2, "{open:?}");
                store.report_samples(vec![report(number, "n", 0, &seen(1, 8))]).await.unwrap();
            }
        });
    }
    tasks.join_all().await;
    let rollouts = all(&store).await;
    let of_b: Vec<_> =
        rollouts.iter().filter(|rollout| rollout.attachment.as_str() == "b").collect();
    assert_eq!(of_b.len(), 1, "{of_b:?}");
    let candidates: BTreeSet<_> = rollouts
        .iter()
        .map(|rollout| (rollout.attachment.as_str(), rollout.candidate.as_str()))
        .collect();
    assert_eq!(candidates.len(), rollouts.len(), "each was opened once");
    let open = rollouts.iter().filter(|rollout| rollout.state == RolloutState::Open);
    assert_eq!(open.count(), 2);
}
