//! Pack files: what is in them, who signed them, and that nothing about them can be changed.

use model::document::PackKey;
use model::id::TenantId;
use pack_host::{
    MAX_FILE_BYTES, MAX_MODULE_BYTES, PackError, PackageError, PublicKey, SigningKey, key_covers,
};
use sha2::{Digest as _, Sha256};

use super::*;

fn small() -> Package {
    let schema = json!({ "type": "object" });
    let vectors = [
        ("allows", json!({ "expect": { "decision": "continue" } })),
        ("allows-too", json!({ "expect": { "decision": "continue" } })),
    ];
    package(&plain("", "", ""), Some(schema), &vectors)
}

fn key() -> SigningKey {
    SigningKey::generate().expect("a key")
}

fn pack_key(id: &str, key: &SigningKey) -> PackKey {
    PackKey {
        id: id.into(),
        public_key: key.public().to_string(),
        tenants: vec!["acme".to_owned()],
    }
}

/// A signed file, and the keys of a document.
fn signed() -> (Vec<u8>, Vec<PackKey>) {
    let (key, other) = (key(), key());
    let mut package = small();
    package.sign(&"platform".into(), &key);
    (package.write(), vec![pack_key("other", &other), pack_key("platform", &key)])
}

fn accepted(file: &[u8], keys: &[PackKey]) -> Result<(), PackageError> {
    Package::read(file)?.signer(keys).map(drop)
}

#[test]
fn a_changed_byte_anywhere_is_refused() {
    let (mut file, keys) = signed();
    assert_eq!(accepted(&file, &keys), Ok(()));
    for at in 0..file.len() {
        let bit = 1 << (at % 8);
        file[at] ^= bit;
        assert!(accepted(&file, &keys).is_err(), "byte {at} of {}", file.len());
        file[at] ^= bit;
    }
    assert_eq!(accepted(&file, &keys), Ok(()));
}

#[test]
fn a_file_that_was_cut_off_or_grew_is_refused() {
    let (file, keys) = signed();
    for length in 0..file.len() {
        assert!(accepted(&file[..length], &keys).is_err(), "{length} of {} bytes", file.len());
    }
    for more in [&b"\0"[..], b"x", &[0; 512], &[0; 1024]] {
        let grown = [&file, more].concat();
        assert_eq!(accepted(&grown, &keys), Err(PackageError::NotCanonical), "{}", more.len());
    }
}

#[test]
fn what_was_written_is_read_again() {
    let (file, keys) = signed();
    let read = Package::read(&file).unwrap();
    assert_eq!(read.write(), file);
    assert_eq!(read.manifest(), small().manifest());
    assert_eq!(read.module(), small().module());
    assert_eq!(read.settings_schema(), Some(&json!({ "type": "object" })));
    assert_eq!(
        read.vectors().iter().map(|v| &*v.name).collect::<Vec<_>>(),
        ["allows", "allows-too"]
    );
    assert_eq!(
        (read.label(), read.file_name()),
        ("pack@1.0.0".to_owned(), "pack-1.0.0.tgpack".to_owned())
    );
    assert_eq!(read.signed_by(), Some(&"platform".into()));
    assert_eq!(read.signer(&keys).unwrap().id, "platform".into());
    assert_eq!(small().write(), small().write(), "the same pack is the same file");
}

#[test]
fn it_is_an_oci_image_layout() {
    let (file, _) = signed();
    let mut archive = tar::Archive::new(&*file);
    let mut files = std::collections::BTreeMap::new();
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let path = entry.path().unwrap().to_string_lossy().into_owned();
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut entry, &mut bytes).unwrap();
        if let Some(hash) = path.strip_prefix("blobs/sha256/") {
            assert_eq!(hash, format!("{:x}", Sha256::digest(&bytes)));
        }
        files.insert(path, bytes);
    }
    let json = |path: &str| serde_json::from_slice::<Value>(&files[path]).unwrap();
    assert_eq!(json("oci-layout"), json!({ "imageLayoutVersion": "1.0.0" }));
    let index = json("index.json");
    let listed = &index["manifests"][0];
    assert_eq!(listed["mediaType"], "application/vnd.oci.image.manifest.v1+json");
    assert_eq!(listed["digest"], Package::read(&file).unwrap().digest());
    assert_eq!(listed["annotations"]["vnd.tollgate.pack.key"], "platform");
    let blob = |descriptor: &Value| {
        let digest = descriptor["digest"].as_str().unwrap();
        format!("blobs/sha256/{}", digest.strip_prefix("sha256:").unwrap())
    };
    let manifest = json(&blob(listed));
    assert_eq!(manifest["config"]["mediaType"], "application/vnd.wasm.config.v0+json");
    let layers: Vec<_> = manifest["layers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|layer| {
            assert!(files.contains_key(&blob(layer)));
            let title = layer["annotations"]["org.opencontainers.image.title"].as_str().unwrap();
            (layer["mediaType"].as_str().unwrap().to_owned(), title.to_owned())
        })
        .collect();
    let expected = [
        ("application/wasm", "module.wasm"),
        ("application/vnd.tollgate.pack.manifest.v1+json", "manifest.json"),
        ("application/vnd.tollgate.pack.settings-schema.v1+json", "settings.schema.json"),
        ("application/vnd.tollgate.pack.vector.v1+json", "vectors/allows.json"),
        ("application/vnd.tollgate.pack.vector.v1+json", "vectors/allows-too.json"),
    ];
    assert_eq!(layers, expected.map(|(kind, title)| (kind.to_owned(), title.to_owned())));
}

#[test]
fn a_signature_is_judged_by_its_key() {
    let (key, other) = (key(), key());
    let keys = [pack_key("platform", &key)];
    let mut package = small();
    let signer = |package: &Package| package.signer(&keys).map(|key| key.id.clone());
    assert_eq!(signer(&package), Err(PackageError::Unsigned));
    package.sign(&"platform".into(), &other);
    assert_eq!(signer(&package), Err(PackageError::SignatureInvalid));
    package.sign(&"nobody".into(), &key);
    assert_eq!(signer(&package), Err(PackageError::UnknownKey { key: "nobody".into() }));
    package.sign(&"platform".into(), &key);
    assert_eq!(signer(&package), Ok("platform".into()));
    assert_eq!(package.verify(&other.public()), Err(PackageError::SignatureInvalid));
    // Signed for other content.
    let mut changed = self::package(&plain("", "nop", ""), None, &[]);
    changed.sign(&"platform".into(), &other);
    assert_ne!(changed.digest(), package.digest());
}

#[test]
fn the_signature_is_one_of_the_digests_text_that_any_tool_verifies() {
    let key = key();
    let mut package = small();
    package.sign(&"platform".into(), &key);
    let file = package.write();
    let at = file.windows(27).position(|at| at == b"vnd.tollgate.pack.signature").unwrap();
    let encoded = std::str::from_utf8(&file[at + 30..at + 30 + 88]).unwrap();
    let encoded = base64::Engine::decode(&base64::engine::general_purpose::STANDARD, encoded);
    let public = key.public().to_string();
    let public = public.strip_prefix("ed25519:").unwrap();
    let public =
        base64::Engine::decode(&base64::engine::general_purpose::STANDARD, public).unwrap();
    let verifier =
        aws_lc_rs::signature::UnparsedPublicKey::new(&aws_lc_rs::signature::ED25519, public);
    verifier.verify(package.digest().as_bytes(), &encoded.unwrap()).unwrap();
}

#[test]
fn what_a_key_may_ship_for_is_what_its_tenants_say() {
    let mut key = pack_key("platform", &key());
    let (acme, globex) = (TenantId::from("acme"), TenantId::from("globex"));
    for (tenants, expected) in [
        (&["acme"][..], [true, false, false]),
        (&["*"], [true, true, true]),
        (&["globex", "acme"], [true, true, false]),
    ] {
        key.tenants = tenants.iter().map(|tenant| (*tenant).to_owned()).collect();
        let covers = [Some(&acme), Some(&globex), None].map(|tenant| key_covers(&key, tenant));
        assert_eq!(covers, expected, "{tenants:?}");
    }
}

/// TEST ONLY: the first test vector of RFC 8032 §7.1, as `openssl` writes it.
const OPENSSL_KEY: &str = "-----BEGIN PRIVATE KEY-----
MC4CAQAwBQYDK2VwBCIEIJ1hsZ3v/VpguoRK9JLsLMREScVpezJpGXA7rAMcrn9g
-----END PRIVATE KEY-----
";
const OPENSSL_PUBLIC: &str = "ed25519:11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=";

#[test]
fn keys_are_read_as_they_were_written() {
    let key = key();
    let again = SigningKey::from_pem(&key.to_pem().unwrap()).unwrap();
    assert_eq!(again.public(), key.public());
    assert_eq!(key.public().to_string().parse::<PublicKey>(), Ok(key.public()));
    let openssl = SigningKey::from_pem(OPENSSL_KEY).unwrap();
    assert_eq!(openssl.public().to_string(), OPENSSL_PUBLIC);
    assert_eq!(openssl.to_pem().unwrap(), OPENSSL_KEY);
    assert_eq!(format!("{openssl:?}"), format!("SigningKey({OPENSSL_PUBLIC})"));
    for text in
        ["", "ed25519:", "ed25519:AAAA", &OPENSSL_PUBLIC[8..], &format!("{OPENSSL_PUBLIC}AA")]
    {
        assert_eq!(text.parse::<PublicKey>(), Err(PackageError::PublicKey), "{text}");
    }
    let public = OPENSSL_KEY.replace("PRIVATE", "PUBLIC");
    for text in ["", "key", &public, &OPENSSL_KEY.replace("MC4C", "MC4D")] {
        assert!(matches!(SigningKey::from_pem(text), Err(PackageError::SigningKey)), "{text}");
    }
}

#[track_caller]
fn refused<T>(outcome: Result<T, PackageError>, expected: &str) {
    let error = outcome.err().expect("a refusal").to_string();
    assert!(error.contains(expected), "{error}");
}

#[test]
fn what_is_no_pack_file_is_refused_with_what_to_do() {
    let large = vec![0; MAX_FILE_BYTES + 1];
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(2);
    tar.append_data(&mut header, "a.txt", &b"hi"[..]).unwrap();
    let tar = tar.into_inner().unwrap();
    for (bytes, expected) in [
        (&b""[..], "not a pack file: it has no `oci-layout`"),
        (b"#!/bin/sh", "not a pack file"),
        (&tar, "not a pack file: it has no `oci-layout`"),
        (demo::MISBEHAVE, "it is a bare WebAssembly module; make one with `tollgate pack build`"),
        (&large, "the pack file has 16777217 bytes; at most 16777216"),
    ] {
        refused(Package::read(bytes), expected);
    }
    let module = vec![0; MAX_MODULE_BYTES + 1];
    refused(
        Package::build(manifest(json!({})), module, None, Vec::new()),
        "the module has 8388609 bytes; at most 8388608",
    );
}

/// A pack file in which these layers, by media type, title and blob, stand for the pack's.
fn with_layers(layers: &[(&str, String, &[u8])]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    let mut blobs = std::collections::HashSet::new();
    let mut append = |path: &str, bytes: &[u8]| {
        let mut header = tar::Header::new_ustar();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        header.set_entry_type(tar::EntryType::Regular);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        if blobs.insert(path.to_owned()) {
            tar.append_data(&mut header, path, bytes).expect("memory");
        }
    };
    // Each content is hashed once, however often it is named.
    let hashes = std::cell::RefCell::new(std::collections::HashMap::new());
    let digest = |bytes: &[u8]| -> String {
        let hash = || format!("{:x}", Sha256::digest(bytes));
        hashes.borrow_mut().entry((bytes.as_ptr(), bytes.len())).or_insert_with(hash).clone()
    };
    let descriptor = |kind: &str, bytes: &[u8], annotations: Value| {
        let digest = format!("sha256:{}", digest(bytes));
        json!({ "mediaType": kind, "digest": digest, "size": bytes.len(), "annotations": annotations })
    };
    let titled = |(kind, title, bytes): &(&str, String, &[u8])| {
        descriptor(kind, bytes, json!({ "org.opencontainers.image.title": title }))
    };
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {
            "mediaType": "application/vnd.wasm.config.v0+json",
            "digest": format!("sha256:{}", digest(b"{}")),
            "size": 2,
        },
        "layers": layers.iter().map(titled).collect::<Vec<_>>(),
    })
    .to_string();
    let kind = "application/vnd.oci.image.manifest.v1+json";
    let tag = json!({ "org.opencontainers.image.ref.name": "1.0.0" });
    let index = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [descriptor(kind, manifest.as_bytes(), tag)],
    });
    append("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#);
    append("index.json", index.to_string().as_bytes());
    let contents = [manifest.as_bytes(), b"{}"];
    for bytes in contents.into_iter().chain(layers.iter().map(|(_, _, bytes)| *bytes)) {
        append(&format!("blobs/sha256/{}", digest(bytes)), bytes);
    }
    tar.into_inner().expect("memory")
}

#[test]
fn a_part_that_is_named_many_times_takes_memory_once() {
    let large = vec![b' '; MAX_MODULE_BYTES];
    let vector = "application/vnd.tollgate.pack.vector.v1+json";
    let many = |count: usize| -> Vec<(&str, String, &[u8])> {
        (0..count).map(|at| (vector, format!("vectors/{at:05}.json"), &*large)).collect()
    };
    refused(Package::read(&with_layers(&many(20_000))), "make it smaller");
    refused(Package::read(&with_layers(&many(1_000))), "the pack has 1000 layers; at most 259");
    // As many as there may be: shared, not copied.
    refused(Package::read(&with_layers(&many(259))), "it has no module");
    let json = br#"{"expect":{"decision":"continue"}}"#;
    let padded = [&json[..], &vec![b' '; 900 << 10]].concat();
    let module = plain("", "", "");
    let about = serde_json::to_vec(&manifest(json!({}))).unwrap();
    let mut layers = vec![
        ("application/wasm", "module.wasm".to_owned(), &*module),
        ("application/vnd.tollgate.pack.manifest.v1+json", "manifest.json".to_owned(), &*about),
    ];
    layers.extend((0..9).map(|at| (vector, format!("vectors/{at}.json"), &*padded)));
    refused(Package::read(&with_layers(&layers)), "the list of vectors has");
}

#[test]
fn a_part_whose_content_was_changed_is_named() {
    let (mut file, _) = signed();
    let at = file.windows(4).position(|at| at == b"\0asm").unwrap();
    file[at + 20] ^= 1;
    let path = Package::read(&file).err().unwrap();
    assert!(
        matches!(path, PackageError::Digest { ref path } if path.starts_with("blobs/sha256/")),
        "{path}"
    );
}

#[test]
fn a_manifest_that_can_not_be_served_is_refused_with_what_to_change() {
    for (about, expected) in [
        (
            json!({ "abi": "proxy-wasm@0.2" }),
            "`abi` is \"proxy-wasm@0.2\": proxy-wasm filters are not served; write the policy against `tollgate:policy@1`",
        ),
        (json!({ "abi": "tollgate:policy@2" }), "build the pack against `tollgate:policy@1`"),
        (json!({ "name": "a b" }), "`name` is \"a b\""),
        (json!({ "version": "1.0" }), "`version` is \"1.0\": take three numbers"),
        (json!({ "version": "1.0.0-rc" }), "take three numbers"),
        (json!({ "phases": [] }), "`phases` is empty"),
        (json!({ "phases": ["request", "request"] }), "`phases` names `request` twice"),
        (
            json!({ "body": ["response"] }),
            "`body` names `response`, but `phases` has no `response`",
        ),
        (json!({ "capabilities": ["log", "log"] }), "`capabilities` names `log` twice"),
        (json!({ "limits": { "memory": "65MiB" } }), "`memory` is at most"),
    ] {
        let build = Package::build(manifest(about), plain("", "", ""), None, Vec::new());
        refused(build, expected);
    }
    let unknown =
        json!({ "name": "a", "version": "1.0.0", "abi": ABI, "phases": ["request"], "phase": 1 });
    let error = serde_json::from_value::<Manifest>(unknown).unwrap_err().to_string();
    assert!(error.contains("unknown field `phase`"), "{error}");
}

#[test]
fn a_vector_that_can_not_be_asked_is_refused_with_what_to_change() {
    let go = json!({ "decision": "continue" });
    for (written, expected) in [
        (json!({}), "missing field `expect`"),
        (json!({ "expect": {} }), "`expect` has `decision`, `cost` or `refused`"),
        (
            json!({ "expect": { "decision": "allow" } }),
            "unknown variant `allow`, expected one of `continue`, `edit`, `deny`, `answer`",
        ),
        (json!({ "expect": { "decision": "continue", "status": 1 } }), "unknown field `status`"),
        (json!({ "expect": { "cost": 1 } }), "only the phase `cost` gives a cost"),
        (json!({ "phase": "cost", "expect": go }), "the phase `cost` gives a cost, not a decision"),
        (json!({ "expect": go, "requests": {} }), "unknown field `requests`"),
        (json!({ "expect": go, "request": { "header": [] } }), "unknown field `header`"),
        (
            json!({ "expect": go, "request": { "headers": [["a b", "c"]] } }),
            "the header \"a b\" is none",
        ),
        (json!({ "expect": go, "request": { "path": "contacts" } }), "start it with `/`"),
        (json!({ "expect": go, "request": { "timezone": "Mars/Olympus" } }), "no IANA name"),
        (
            json!({ "expect": go, "request": { "body": 7 } }),
            "7 stands for no bytes: write a text or {\"base64\"",
        ),
        (json!({ "expect": go, "response": {} }), "its `phase` is not `response`"),
        (json!({ "expect": go, "settings": [] }), "`settings` is an object"),
    ] {
        refused(NamedVector::parse("v", written.to_string().as_bytes()), expected);
    }
    let response = vector("v", &json!({ "phase": "response", "expect": go }));
    let build = Package::build(manifest(json!({})), plain("", "", ""), None, vec![response]);
    refused(build, "the vector `v`: its phase `response` is not in the manifest's `phases`");
    let twice = vec![vector("v", &json!({ "expect": go })), vector("v", &json!({ "expect": go }))];
    refused(
        Package::build(manifest(json!({})), plain("", "", ""), None, twice),
        "two of this name",
    );
    let odd = vec![vector("a b", &json!({ "expect": go }))];
    refused(Package::build(manifest(json!({})), plain("", "", ""), None, odd), "call its file by");
}

#[test]
fn a_module_that_does_not_fit_its_manifest_is_no_pack_file() {
    let build = Package::build(
        manifest(json!({ "phases": ["response"] })),
        plain("", "", ""),
        None,
        Vec::new(),
    );
    let missing = PackError::MissingExport { export: "on-response".to_owned() };
    assert_eq!(build.err(), Some(PackageError::Module(missing)));
}
