//! What is refused before it can harm, and what preparing leaves.

use std::time::Duration;

use sha2::{Digest, Sha256};

use super::*;

#[track_caller]
fn refused<T>(outcome: Result<T, PackError>) -> String {
    outcome.err().expect("a refusal").to_string()
}

#[test]
fn settings_that_the_pack_refuses_fail_with_its_own_message() {
    for (settings, expected) in [
        (json!({}), "missing field `header` at line 1 column 2"),
        (json!({ "header": "x-id", "hedder": 1 }), "unknown field `hedder`"),
        (json!({ "header": "x id" }), "`x id` is not a header's name"),
        (json!("text"), "invalid type: string \"text\""),
    ] {
        let error = REQUIRE_HEADER.prepare(&settings, Limits::default());
        assert!(matches!(error, Err(PackError::Settings { .. })), "{settings}");
        assert!(refused(error).contains(expected), "{settings}");
    }
    let reject = json!({ "how": "reject", "message": "not these" });
    for pack in [&MISBEHAVE, &CONFIGURED_EACH_TIME] {
        assert_eq!(refused(pack.prepare(&reject, Limits::default())), "not these");
    }
}

#[test]
fn a_pack_that_fails_while_it_is_configured_is_refused_with_the_reason() {
    for pack in [&MISBEHAVE, &CONFIGURED_EACH_TIME] {
        let spin = pack.prepare(&json!({ "how": "spin-in-configure" }), Limits::default());
        assert!(refused(spin).starts_with("the pack failed while it was configured (fuel)"));
        // Less than it needs to run, and less than it needs to start.
        for memory in [64 << 10, 0] {
            let small = Limits { memory, ..Limits::default() };
            let error = refused(pack.prepare(&json!({ "how": "count" }), small));
            assert!(error.contains("(memory)"), "{error}");
        }
    }
}

#[test]
fn limits_that_can_not_be_kept_are_refused() {
    let usual = Limits::default();
    for (limits, expected) in [
        (Limits { memory: (64 << 20) + 1, ..usual }, "`memory` is at most 67108864 bytes"),
        (Limits { deadline: Duration::from_millis(99), ..usual }, "`deadline` is 100ms to 10s"),
        (Limits { deadline: Duration::from_secs(11), ..usual }, "`deadline` is 100ms to 10s"),
    ] {
        let error = refused(MISBEHAVE.prepare(&json!({ "how": "count" }), limits));
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn both_ways_of_starting_give_the_same_decisions() {
    let asked = request(&[("accept", b"*/*")]);
    for settings in [
        json!({ "how": "echo", "names": ["accept", "org"] }),
        json!({ "how": "count" }),
        json!({ "how": "set", "name": "x", "value": "y", "times": 3 }),
    ] {
        let image = misbehave(settings.clone());
        let configured = CONFIGURED_EACH_TIME.prepare(&settings, Limits::default()).expect("good");
        assert!(image.has_image() && !configured.has_image());
        assert_eq!(image.on_request(&asked), configured.on_request(&asked), "{settings}");
        let [image, configured] =
            [image, configured].map(|pack| pack.on_request_measured(&asked).fuel);
        assert!(image < configured, "{settings}: {image} {configured}");
    }
}

#[test]
fn a_component_is_taken_as_the_module_it_was_made_of() {
    let component = componentize(demo::MISBEHAVE).expect("a component");
    let pack = HOST.compile("component", &component).expect("a pack");
    let prepared = pack.prepare(&json!({ "how": "count" }), Limits::default()).expect("good");
    assert!(prepared.on_request(&request(&[])).is_ok());
    assert!(refused(componentize(&component)).contains("it is a component already"));
}

#[test]
fn the_digest_is_that_of_the_bytes_that_were_given() {
    let hash = Sha256::digest(demo::MISBEHAVE);
    assert_eq!(MISBEHAVE.digest(), format!("sha256:{hash:x}"));
}

#[test]
fn what_is_no_pack_is_refused_with_what_to_do() {
    let truncated = &demo::MISBEHAVE[..demo::MISBEHAVE.len() / 2];
    let large = vec![0; (8 << 20) + 1];
    for (bytes, expected) in [
        (&b""[..], "this is not WebAssembly"),
        (b"#!/bin/sh", "this is not WebAssembly"),
        (b"\0asm\x01\0\0\0", "depend on `tollgate-pack`"),
        (b"\0asm\x0d\0\x01\0", "`configure`"),
        (truncated, "can't be compiled: unexpected end-of-file"),
        (&large, "8388609 bytes; at most 8388608"),
    ] {
        let error = refused(HOST.compile("no pack", bytes));
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn an_import_that_the_host_does_not_have_is_refused_by_its_name() {
    // The interface of the log, renamed wherever the module and its description of the world say it.
    let (own, other) = (&b"log@1.0.0"[..], &b"lag@1.0.0"[..]);
    let mut foreign = demo::MISBEHAVE.to_vec();
    let at: Vec<_> =
        (0..foreign.len() - own.len()).filter(|at| foreign[*at..].starts_with(own)).collect();
    for at in at {
        foreign[at..at + own.len()].copy_from_slice(other);
    }
    let error = refused(HOST.compile("foreign", &foreign));
    assert!(error.contains("tollgate:policy/lag@1.0.0"), "{error}");
    assert!(error.contains("without WASI"), "{error}");
}
