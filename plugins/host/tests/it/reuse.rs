//! Instances that decide more than once.

use super::*;

/// What the pack counts to in its memory: how many decisions this instance has made.
#[track_caller]
fn count(pack: &Prepared) -> u32 {
    header_set(on_request(pack, &request(&[])), "x-count").parse().expect("a number")
}

#[test]
fn an_instance_makes_as_many_decisions_as_it_may_and_no_more() {
    for decisions in [2, 3, 5] {
        let pack = reusing(json!({ "how": "count" }), decisions);
        let counted: Vec<_> = (0..2 * decisions).map(|_| count(&pack)).collect();
        let expected: Vec<_> = (1..=decisions).chain(1..=decisions).collect();
        assert_eq!(counted, expected, "reuse is how one decision can see another's writes");
    }
    assert_eq!(count(&misbehave(json!({ "how": "count" }))), 1);
}

#[test]
fn the_phases_share_their_instances() {
    let pack = reusing(json!({ "how": "count" }), 10);
    let given = Given::default();
    let asked = request(&[]);
    assert_eq!(count(&pack), 1);
    assert_eq!(header_set(on_response(&pack, &asked, &response(&[])), "x-count"), "2");
    assert_eq!(pack.cost(&asked, &given.grants()), Ok(3));
    assert_eq!(count(&pack), 4);
}

#[test]
fn what_fails_or_says_what_it_may_not_is_dropped() {
    let host = host(8);
    let pack = host.load(package("misbehave", demo::MISBEHAVE));
    let pack = pack.prepare(&json!({ "how": "told" }), Limits::default(), NonZeroU32::new(100));
    let pack = pack.expect("good settings");
    let count = telling(&json!({ "how": "count" }));
    for how in [
        json!({ "how": "panic", "message": "boo" }),
        json!({ "how": "storm" }),
        json!({ "how": "set", "name": "host", "value": "v", "times": 1 }),
    ] {
        for expected in ["1", "2"] {
            assert_eq!(header_set(on_request(&pack, &count), "x-count"), expected);
            assert_eq!(host.idle(), 1);
        }
        assert!(on_request(&pack, &telling(&how)).is_err(), "{how}");
        assert_eq!(host.idle(), 0, "{how}");
    }
    assert_eq!(header_set(on_request(&pack, &count), "x-count"), "1");
    drop(pack);
    assert_eq!(host.idle(), 0, "dropped with its attachment");
}

#[test]
fn what_grew_is_dropped() {
    let host = host(8);
    let pack = host.load(package("misbehave", demo::MISBEHAVE));
    let pack = pack.prepare(&json!({ "how": "told" }), Limits::default(), NonZeroU32::new(100));
    let pack = pack.expect("good settings");
    for (how, kept) in [
        (json!({ "how": "work", "rounds": 1 }), 1),
        (json!({ "how": "hoard", "bytes": 1 << 20 }), 0),
    ] {
        for _ in 0..3 {
            assert_eq!(on_request(&pack, &telling(&how)), Ok(Decision::Continue));
            assert_eq!(host.idle(), kept, "{how}");
        }
    }
}

#[test]
fn a_reused_instance_decides_as_a_fresh_one_where_the_pack_keeps_nothing() {
    let settings = json!({ "how": "echo", "names": ["accept", "sub", "q"] });
    let (fresh, reused) = (misbehave(settings.clone()), reusing(settings, 1000));
    let asked = request(&[("accept", b"*/*")]);
    let expected = on_request(&fresh, &asked);
    for _ in 0..20 {
        assert_eq!(on_request(&reused, &asked), expected);
    }
}

#[test]
fn a_full_pool_gives_up_instances_that_wait_and_refuses_nobody() {
    // Of the four, two may wait.
    let host = host(4);
    let pack = host.load(package("misbehave", demo::MISBEHAVE));
    let prepare = |settings: Value, reuse| {
        pack.prepare(&settings, Limits::default(), NonZeroU32::new(reuse)).expect("good settings")
    };
    let reused: Vec<_> =
        (0..5).map(|n| prepare(json!({ "how": "cost", "units": n }), 100)).collect();
    let asked = request(&[]);
    let given = Given::default();
    for _ in 0..3 {
        for (n, pack) in (0..).zip(&reused) {
            assert_eq!(pack.cost(&asked, &given.grants()), Ok(n));
            assert!(host.idle() <= 2, "{}", host.idle());
        }
    }
    assert_eq!(host.idle(), 2);
    // Three threads more than there is room for beside what waits.
    let fresh = prepare(json!({ "how": "work", "rounds": 20_000 }), 1);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..20 {
                    assert_eq!(on_request(&fresh, &asked), Ok(Decision::Continue));
                }
            });
        }
    });
    drop(reused);
    assert_eq!(host.idle(), 0);
}

#[test]
fn a_host_with_one_instance_reuses_nothing_and_decides() {
    let host = host(1);
    let pack = host.load(package("misbehave", demo::MISBEHAVE));
    let [first, second] = [1, 2].map(|units| {
        let settings = json!({ "how": "cost", "units": units });
        pack.prepare(&settings, Limits::default(), NonZeroU32::new(100)).expect("good settings")
    });
    let given = Given::default();
    for _ in 0..3 {
        assert_eq!(first.cost(&request(&[]), &given.grants()), Ok(1));
        assert_eq!(second.cost(&request(&[]), &given.grants()), Ok(2));
    }
}

#[test]
fn many_threads_reuse_without_sharing() {
    let pack = reusing(json!({ "how": "echo", "names": ["x-id"] }), 7);
    let asked: Vec<_> = [&b"1"[..], b"2", b"3"].map(|id| request(&[("x-id", id)])).into();
    std::thread::scope(|scope| {
        for thread in 0..6_usize {
            let (pack, asked) = (&pack, &asked);
            scope.spawn(move || {
                for turn in 0..1_000 {
                    let which = (thread + turn) % 3;
                    let told = denied(on_request(pack, &asked[which])).details;
                    assert_eq!(told["header"]["x-id"], json!([49 + which]));
                }
            });
        }
    });
    drop(pack);
}
