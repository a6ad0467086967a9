//! What a module imports and exports, compared with what its manifest says.

use pack_host::{BodyOf, Capability, MAX_MODULE_BYTES, PackError, componentize};

use super::*;

const LOG: &str = r#"(import "tollgate:policy/log@1.0.0" "write" (func (param i32 i32 i32)))"#;
const BODY: &str =
    r#"(import "tollgate:policy/exchange@1.0.0" "[method]request.body" (func (param i32 i32)))"#;
const WASI: &str =
    r#"(import "wasi_snapshot_preview1" "fd_write" (func (param i32 i32 i32 i32) (result i32)))"#;
const OTHER_TYPE: &str = r#"(import "tollgate:policy/log@1.0.0" "write" (func (param i64)))"#;
const OTHER_NAME: &str = r#"(import "tollgate:policy/log@1.0.0" "writes" (func))"#;
const OTHER_INTERFACE: &str = r#"(import "tollgate:policy/socket@1.0.0" "open" (func))"#;

fn build(module: &[u8], about: Value) -> Result<(), PackError> {
    match Package::build(manifest(about), module.to_vec(), None, Vec::new()) {
        Ok(_) => Ok(()),
        Err(pack_host::PackageError::Module(error)) => Err(error),
        Err(other) => Err(PackError::Invalid { message: format!("unexpected: {other}") }),
    }
}

#[test]
fn what_a_module_uses_must_stand_in_its_manifest() {
    let with = |imports: &str| plain(imports, "", "");
    let capability = PackError::MissingCapability { capability: Capability::Log };
    let body = PackError::UndeclaredBody { body: BodyOf::Request };
    let export = |export: &str| PackError::MissingExport { export: export.to_owned() };
    for (module, about, expected) in [
        (with(""), json!({}), Ok(())),
        (with(LOG), json!({ "capabilities": ["log"] }), Ok(())),
        (with(LOG), json!({ "capabilities": ["clock"] }), Err(capability)),
        (with(BODY), json!({ "body": ["request"] }), Ok(())),
        (with(BODY), json!({}), Err(body)),
        (with(""), json!({ "phases": ["request", "cost"] }), Err(export("cost"))),
        // What isn't used may be named.
        (with(""), json!({ "capabilities": ["log"], "body": ["request"] }), Ok(())),
    ] {
        assert_eq!(build(&module, about.clone()), expected, "{about}");
        // The same as a component.
        let component = componentize(&module).unwrap();
        assert_eq!(build(&component, about.clone()), expected, "{about}, as component");
    }
}

#[test]
fn the_words_say_how_to_mend_it() {
    let no_configure = wat::parse_str(r#"(module (memory (export "memory") 1))"#).unwrap();
    let large = vec![0; MAX_MODULE_BYTES + 1];
    let module = plain("", "", "");
    let invalid = &module[..module.len() - 3];
    for (module, expected) in [
        (
            plain(WASI, "", ""),
            "the module imports `wasi_snapshot_preview1`, which the host does not give: build it for wasm32-unknown-unknown, without WASI",
        ),
        (plain(OTHER_INTERFACE, "", ""), "imports `tollgate:policy/socket@1.0.0`"),
        (plain(LOG, "", ""), "add \"log\" to `capabilities`, or don't use it"),
        (
            plain(BODY, "", ""),
            "the module reads the request's body, which its manifest does not name: add \"request\" to `body`",
        ),
        (plain(OTHER_TYPE, "", ""), "write"),
        (plain(OTHER_NAME, "", ""), "writes"),
        (no_configure, "the module does not export `configure`: implement it"),
        (large, "the module has 8388609 bytes; at most 8388608 are taken"),
        (invalid.to_vec(), "can't be compiled: unexpected end"),
        (b"#!/bin/sh".to_vec(), "this is not WebAssembly"),
        (Vec::new(), "this is not WebAssembly"),
    ] {
        let error = build(&module, json!({})).expect_err(expected).to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn a_component_implements_what_its_module_exports() {
    let component = componentize(&plain(LOG, "", "")).unwrap();
    let interface = Interface::of(&component).unwrap();
    assert_eq!(interface.exports, ["configure", "on-request"]);
    let imported = |name: &str| interface.imports.iter().any(|import| import == name);
    assert!(imported("tollgate:policy/log@1.0.0"), "{interface:?}");
    assert!(!imported("tollgate:policy/clock@1.0.0"), "{interface:?}");
    assert!(
        componentize(&component).unwrap_err().to_string().contains("it is a component already")
    );
}

#[test]
fn what_a_module_says_of_its_own_world_is_left_aside() {
    let mut module = plain("", "", "");
    let mut resolve = wit_parser::Resolve::default();
    let text = "package other:thing; world w { import a: func(); export b: func(); }";
    let id = resolve.push_source("other.wit", text).unwrap();
    let world = resolve.select_world(&[id], Some("w")).unwrap();
    let utf8 = wit_component::StringEncoding::UTF8;
    wit_component::embed_component_metadata(&mut module, &resolve, world, utf8).unwrap();
    assert_eq!(Interface::of(&module), Interface::of(&plain("", "", "")));
}
