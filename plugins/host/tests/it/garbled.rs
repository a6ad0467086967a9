//! Modules that break the canonical ABI, and packs that fail while they are configured.

use super::*;

/// A module whose `on-request` is this. Its memory is zero where nothing was stored; the decision lies at 128.
fn module(on_request: &str) -> Vec<u8> {
    let text = format!(
        r#"(module
            (import "tollgate:policy/exchange@1.0.0" "[resource-drop]request" (func $drop (param i32)))
            (import "tollgate:policy/exchange@1.0.0" "[method]request.method"
                (func $method (param i32 i32)))
            (memory (export "memory") 1)
            (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (i32.const 1024))
            (func (export "configure") (param i32 i32) (result i32) (i32.const 64))
            (func (export "on-request") (param $handle i32) (result i32) {on_request}))"#
    );
    wat::parse_str(text).expect("a module")
}

fn prepare(on_request: &str) -> Arc<Prepared> {
    let manifest: Manifest = serde_json::from_value(json!({
        "name": "garbled", "version": "1.0.0", "abi": pack_host::ABI, "phases": ["request"],
    }))
    .expect("a manifest");
    let package = Package::build(manifest, module(on_request), None, Vec::new());
    let pack = HOST.load(package.expect("a package"));
    pack.prepare(&json!({}), Limits::default(), NonZeroU32::new(100)).expect("good settings")
}

#[test]
fn what_is_no_decision_is_refused_as_output_and_harms_nobody() {
    const DROPPED: &str = "(call $drop (local.get $handle))";
    let good = format!("{DROPPED} (i32.const 128)");
    assert_eq!(on_request(&prepare(&good), &request(&[])), Ok(Decision::Continue));
    for (what, garbled) in [
        ("no such decision", "(i32.store8 (i32.const 128) (i32.const 9)) (i32.const 128)"),
        ("beyond the memory", "(i32.const 0x7fff0000)"),
        ("across the memory's end", "(i32.const 65532)"),
        ("unaligned", "(i32.const 129)"),
        (
            "a reason that is not UTF-8",
            "(i32.store8 (i32.const 128) (i32.const 2)) (i32.store (i32.const 136) (i32.const 200))
             (i32.store (i32.const 140) (i32.const 2)) (i32.store16 (i32.const 200) (i32.const 0xffff))
             (i32.const 128)",
        ),
        (
            "a list beyond the memory",
            "(i32.store8 (i32.const 128) (i32.const 1)) (i32.store (i32.const 132) (i32.const 65000))
             (i32.store (i32.const 136) (i32.const 1000)) (i32.const 128)",
        ),
        (
            "a list as long as can be said",
            "(i32.store8 (i32.const 128) (i32.const 1)) (i32.store (i32.const 132) (i32.const 1024))
             (i32.store (i32.const 136) (i32.const -1)) (i32.const 128)",
        ),
        (
            "an edit that there is not",
            "(i32.store8 (i32.const 128) (i32.const 1)) (i32.store (i32.const 132) (i32.const 256))
             (i32.store (i32.const 136) (i32.const 1)) (i32.store8 (i32.const 256) (i32.const 7))
             (i32.const 128)",
        ),
    ] {
        let pack = prepare(&format!("{DROPPED} {garbled}"));
        for _ in 0..2 {
            let failure = on_request(&pack, &request(&[])).expect_err(what);
            assert_eq!(failure.reason, FailureReason::Output, "{what}: {failure}");
        }
    }
}

#[test]
fn handles_that_are_kept_or_made_up_are_no_way_out() {
    for (what, garbled, reason) in [
        ("kept", "(i32.const 128)", FailureReason::Output),
        (
            "given back twice",
            "(call $drop (local.get $handle)) (call $drop (local.get $handle)) (i32.const 128)",
            FailureReason::Trap,
        ),
        (
            "made up",
            "(call $method (i32.const 77) (i32.const 128)) (i32.const 128)",
            FailureReason::Trap,
        ),
        (
            "a result beyond the memory",
            "(call $method (local.get $handle) (i32.const -8)) (i32.const 128)",
            FailureReason::Trap,
        ),
    ] {
        let failure = on_request(&prepare(garbled), &request(&[])).expect_err(what);
        assert_eq!(failure.reason, reason, "{what}: {failure}");
    }
}

#[test]
fn a_pack_that_fails_while_it_is_configured_is_refused_with_the_reason() {
    for pack in [&MISBEHAVE, &CONFIGURED_EACH_TIME] {
        for (how, expected) in [
            ("spin-in-configure", FailureReason::Fuel),
            ("panic-in-configure", FailureReason::Trap),
            ("hoard-in-configure", FailureReason::Memory),
        ] {
            let prepared = pack.prepare(&json!({ "how": how }), Limits::default(), None);
            match prepared.err() {
                Some(PackError::Configure { reason, .. }) => assert_eq!(reason, expected, "{how}"),
                other => panic!("{how}: {other:?}"),
            }
        }
    }
}
