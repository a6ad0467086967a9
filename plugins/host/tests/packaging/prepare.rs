//! From a pack and settings to something that decides; and what is refused on the way.

use std::num::NonZeroU32;

use model::{Decision, FailureReason};
use pack_host::{Asked, Limits, MAX_MEMORY, Pack, PackError, SettingsError};

use super::*;

/// The misbehaving pack, with an addition (a nested component that nothing uses) for which no memory image can be taken.
fn without_image() -> Package {
    let mut component = pack_host::componentize(demo::MISBEHAVE).expect("a component");
    component.extend_from_slice(b"\x04\x12\0asm\x0d\0\x01\0\x01\x08\0asm\x01\0\0\0");
    package(&component, None, &[])
}

fn prepare(pack: &Pack, settings: &Value) -> Result<Arc<Prepared>, PackError> {
    pack.prepare(settings, Limits::default(), None)
}

fn count() -> Value {
    json!({ "how": "count" })
}

#[test]
fn both_ways_of_starting_decide_the_same() {
    let (image, configured) = (HOST.load(misbehave(&[])), HOST.load(without_image()));
    let asked = request(&[("accept", "*/*")]);
    for settings in [
        json!({ "how": "echo", "names": ["accept"] }),
        count(),
        json!({ "how": "set", "name": "x", "value": "y", "times": 3 }),
    ] {
        let image = prepare(&image, &settings).unwrap();
        let configured = prepare(&configured, &settings).unwrap();
        assert!(image.has_image() && !configured.has_image());
        assert_eq!(decide(&image, &asked), decide(&configured, &asked), "{settings}");
    }
}

#[test]
fn settings_that_the_schema_does_not_take_are_refused_with_pointers() {
    let schema = json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "required": ["header"],
        "additionalProperties": false,
        "properties": {
            "header": { "type": "string", "pattern": "^[a-z-]+$" },
            "at": { "type": "array", "items": { "type": "integer" } },
        },
    });
    let pack = HOST.load(package(&plain("", "", ""), Some(schema), &[]));
    assert!(prepare(&pack, &json!({ "header": "x-id", "at": [1] })).is_ok());
    let refused = |settings: Value| match prepare(&pack, &settings) {
        Err(PackError::Settings { errors }) => errors,
        other => panic!("{:?}", other.err()),
    };
    let found = refused(json!({ "header": "X", "at": [1, "2"], "other": 1 }));
    let mut pointers: Vec<_> = found.iter().map(|error| &*error.pointer).collect();
    pointers.sort_unstable();
    assert_eq!(pointers, ["", "/at/1", "/header"], "{found:?}");
    let found = refused(json!({}));
    assert!(found[0].message.contains("\"header\" is a required property"), "{found:?}");
}

#[test]
fn settings_that_the_pack_itself_refuses_fail_with_its_own_words() {
    let reject = json!({ "how": "reject", "message": "not these" });
    let own = |message: &str| {
        let errors = vec![SettingsError { pointer: String::new(), message: message.to_owned() }];
        PackError::Settings { errors }
    };
    for package in [misbehave(&[]), without_image()] {
        let pack = HOST.load(package);
        assert_eq!(prepare(&pack, &reject).err(), Some(own("not these")));
        let error = prepare(&pack, &json!({ "how": "nothing" })).err().unwrap().to_string();
        assert!(error.contains("unknown variant `nothing`"), "{error}");
    }
}

#[test]
fn a_pack_that_fails_while_it_is_configured_is_refused_with_the_reason() {
    let spin = json!({ "how": "spin-in-configure" });
    for package in [misbehave(&[]), without_image()] {
        let pack = HOST.load(package);
        let error = prepare(&pack, &spin).err().unwrap();
        assert!(
            matches!(error, PackError::Configure { reason: FailureReason::Fuel, .. }),
            "{error}"
        );
        // Less than it needs to run, and less than it needs to start.
        for memory in [64 << 10, 0] {
            let small = Limits { memory, ..Limits::default() };
            let error = pack.prepare(&count(), small, None).err().unwrap();
            let memory =
                matches!(error, PackError::Configure { reason: FailureReason::Memory, .. });
            assert!(memory, "{error}");
        }
    }
    let trap = HOST.load(package(&plain("", "unreachable", ""), None, &[]));
    let error = prepare(&trap, &json!({})).err().unwrap();
    assert!(matches!(error, PackError::Configure { reason: FailureReason::Trap, .. }), "{error}");
}

#[test]
fn limits_that_can_not_be_kept_are_refused_before_anything_is_made() {
    let pack = HOST.load(misbehave(&[]));
    let limits = Limits { memory: MAX_MEMORY + 1, ..Limits::default() };
    let error = pack.prepare(&count(), limits, None).err().unwrap();
    assert!(matches!(error, PackError::Limits { .. }), "{error}");
}

#[test]
fn many_settings_of_a_pack_come_out_in_their_order() {
    let pack = HOST.load(misbehave(&[]));
    let settings: Vec<_> = (0..12)
        .map(|at| match at % 4 {
            3 => json!({ "how": "reject", "message": at.to_string() }),
            _ => json!({ "how": "set", "name": "x-at", "value": at.to_string(), "times": 1 }),
        })
        .collect();
    let asked: Vec<_> = (0_usize..)
        .zip(&settings)
        .map(|(at, settings)| {
            // Two kinds of limits, which have their own artefacts.
            let limits = Limits { memory: (4 + at % 2) << 20, ..Limits::default() };
            Asked { settings, limits, reuse: NonZeroU32::new(u32::from(at == 0) * 5) }
        })
        .collect();
    let prepared = pack.prepare_all(&asked);
    assert_eq!(prepared.len(), settings.len());
    for (at, prepared) in prepared.iter().enumerate() {
        match prepared {
            Err(error) => assert_eq!((at % 4, error.to_string()), (3, at.to_string())),
            Ok(prepared) => {
                let Ok(Decision::Edit(edits)) = decide(prepared, &request(&[])) else {
                    panic!("{at}: no edit");
                };
                let mut headers = http::HeaderMap::new();
                edits.apply(&mut headers);
                assert_eq!(headers["x-at"], at.to_string());
                assert_eq!(prepared.limits(), &asked[at].limits);
            }
        }
    }
}

#[test]
fn a_schema_that_is_none_is_refused() {
    for (schema, expected) in [
        (json!({ "type": "objekt" }), "`settings.schema.json` is no JSON Schema (2020-12)"),
        (json!({ "$ref": "https://example.com/else" }), "`settings.schema.json` is no JSON Schema"),
        (json!({ "properties": { "a": { "pattern": "(" } } }), "is no JSON Schema"),
    ] {
        let module = plain("", "", "");
        let build = Package::build(manifest(json!({})), module, Some(schema), Vec::new());
        let error = build.err().expect(expected).to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn a_schema_without_end_harms_nothing() {
    let schema = json!({ "$ref": "#/$defs/a", "$defs": { "a": { "$ref": "#/$defs/b" }, "b": { "$ref": "#/$defs/a" } } });
    let pack = HOST.load(package(&plain("", "", ""), Some(schema), &[]));
    // Whatever the validator makes of it, this process goes on.
    let _outcome = prepare(&pack, &json!({}));
    assert!(prepare(&HOST.load(misbehave(&[])), &count()).is_ok());
}
