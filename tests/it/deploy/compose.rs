//! The compose file: what its services are told, publish, mount and may do.

use super::image::{image, image_environment, values};
use super::{DATA, check, grace, read, seconds, secrets, settings};
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;

/// Where a container finds its secrets.
const SECRETS: &str = "/run/secrets";

fn compose() -> Value {
    serde_saphyr::from_str(&read("deploy/compose.yaml")).unwrap()
}

/// The services that run our image.
fn services() -> Vec<(String, Value)> {
    let services = compose()["services"].as_object().unwrap().clone();
    services.into_iter().filter(|(_, service)| service["build"].is_object()).collect()
}

/// A list of the service, as text.
fn list(service: &Value, key: &str) -> Vec<String> {
    let items = service[key].as_array().cloned().unwrap_or_default();
    items.iter().map(|item| item.as_str().unwrap().to_owned()).collect()
}

/// The environment of the process in this service's container.
fn environment(service: &Value) -> Map<String, Value> {
    let mut environment = image_environment();
    environment.extend(service["environment"].as_object().unwrap().clone());
    environment
}

#[test]
fn every_service_starts_with_settings_that_the_binary_understands() {
    let folder = secrets();
    let path = folder.path().to_str().unwrap();
    let mut roles = BTreeSet::new();
    let found = services();
    assert_eq!(found.len(), 5);
    for (name, service) in found {
        let text = serde_json::to_string(&environment(&service)).unwrap();
        let here = serde_json::from_str(&text.replace(SECRETS, path)).unwrap();
        let read = settings(&[], &here);
        assert_eq!(read["node"], json!(name));
        assert_eq!(read["data"], json!(DATA));
        assert_eq!(read["database"], json!("postgres://tollgate@postgres:5432/tollgate"));
        let url = "redis://redis:6379";
        assert_eq!(read["redis"], json!({ "quota": url, "idempotency": url }));
        assert_eq!(read["master_keys"], json!([{ "file": format!("{path}/master_key") }]));
        roles.insert(format!("{}: {}", name, read["roles"]));
    }
    let expected = [
        r#"admin: ["admin"]"#,
        r#"dispatcher-1: ["dispatcher"]"#,
        r#"dispatcher-2: ["dispatcher"]"#,
        r#"gateway-1: ["gateway"]"#,
        r#"gateway-2: ["gateway"]"#,
    ];
    assert_eq!(roles.into_iter().collect::<Vec<_>>(), expected);
}

#[test]
fn a_setting_that_the_binary_does_not_know_would_be_noticed() {
    let mut environment = image_environment();
    settings(&[], &environment);
    for (name, value) in [
        ("TOLLGATE_LISTEN_EVERYWHERE", "0.0.0.0:8080"),
        ("TOLLGATE_LISTEN_STATUS", "everywhere"),
        ("TOLLGATE_ROLES", "gateways"),
        ("TOLLGATE_MASTER_KEYS", "/no/such/file"),
    ] {
        let before = environment.insert(name.to_owned(), value.into());
        let output = check(&[], &environment);
        assert_eq!(output.status.code(), Some(1), "{name}={value}");
        environment.remove(name);
        environment.extend(before.map(|before| (name.to_owned(), before)));
    }
}

#[test]
fn no_port_but_those_that_listen_is_published_and_admin_on_loopback_alone() {
    let listens = image_environment();
    let port = |listener: &str| {
        let address = listens[&format!("TOLLGATE_LISTEN_{listener}")].as_str().unwrap();
        address.strip_prefix("0.0.0.0:").unwrap().to_owned()
    };
    let exposed = values(&image(), "EXPOSE").join(" ");
    let expected = ["GATEWAY", "ADMIN", "DISPATCHER", "STATUS"].map(port);
    assert_eq!(exposed.split(' ').collect::<Vec<_>>(), expected);
    let mut outside = BTreeSet::new();
    for (name, service) in services() {
        let role = service["environment"]["TOLLGATE_ROLES"].as_str().unwrap();
        let ports = list(&service, "ports");
        let [published] = ports.as_slice() else { panic!("{name}: {ports:?}") };
        let (address, inside) = published.rsplit_once(':').unwrap();
        assert_eq!(inside, port(&role.to_uppercase()), "{name}");
        assert!(outside.insert(address.to_owned()), "{address} is published twice");
        let chosen = format!("${{{}_ADDRESS:-127.0.0.1}}", role.to_uppercase());
        let by_default = address.replace(&chosen, "127.0.0.1");
        assert!(by_default.starts_with("127.0.0.1:"), "{name}: {address}");
        assert!(role != "admin" || !address.contains('$'), "{name}: {address}");
    }
    let compose = compose();
    for name in ["postgres", "redis"] {
        let service = &compose["services"][name];
        assert_eq!(service["ports"], Value::Null);
        let networks = list(service, "networks");
        assert!(networks.iter().all(|network| compose["networks"][network]["internal"] == true));
    }
}

/// What counts limits outlives a restart, and never forgets a counter to make room.
#[test]
fn redis_keeps_what_was_counted() {
    let compose = compose();
    let redis = &compose["services"]["redis"];
    let command = list(redis, "command").join(" ");
    for option in ["--appendonly yes", "--maxmemory-policy noeviction", "--maxmemory "] {
        assert!(command.contains(option), "{command}");
    }
    let [volume] = &list(redis, "volumes")[..] else { panic!("{redis}") };
    let (volume, folder) = volume.split_once(':').unwrap();
    assert_eq!(folder, "/data", "where the image's server keeps its files");
    assert!(compose["volumes"].get(volume).is_some(), "{volume} is not declared");
}

#[test]
fn each_node_has_a_volume_of_its_own() {
    let compose = compose();
    let mut volumes = BTreeSet::new();
    for (name, service) in services() {
        let mounts = list(&service, "volumes");
        let [data] = mounts.as_slice() else { panic!("{name}: {mounts:?}") };
        let (volume, target) = data.split_once(':').unwrap();
        assert_eq!(target, image_environment()["TOLLGATE_DATA"], "{name}");
        assert!(compose["volumes"].get(volume).is_some(), "{volume} is not declared");
        assert!(volumes.insert(volume.to_owned()), "{volume} is mounted twice");
    }
}

#[test]
fn secrets_are_files_that_are_declared_mounted_and_never_committed() {
    let compose = compose();
    let declared = compose["secrets"].as_object().unwrap();
    for (name, secret) in declared {
        assert_eq!(secret["file"], json!(format!("./secrets/{name}")));
    }
    for (service, settings) in compose["services"].as_object().unwrap() {
        let mounted = list(settings, "secrets");
        assert!(mounted.iter().all(|name| declared.contains_key(name)), "{service}: {mounted:?}");
        for (variable, value) in settings["environment"].as_object().into_iter().flatten() {
            let Some(name) = value.as_str().unwrap().strip_prefix(&format!("{SECRETS}/")) else {
                assert!(!variable.ends_with("PASSWORD"), "{service}: {variable} is a secret");
                continue;
            };
            assert!(mounted.contains(&name.to_owned()), "{service}: {variable} is not mounted");
        }
    }
    let ignored = read(".gitignore");
    assert!(ignored.lines().any(|line| line == "/deploy/secrets"), "secrets could be committed");
}

#[test]
fn no_service_can_do_more_than_it_must() {
    for (name, service) in services() {
        assert_eq!(service["read_only"], json!(true), "{name}");
        assert_eq!(service["cap_drop"], json!(["ALL"]), "{name}");
        assert_eq!(service["security_opt"], json!(["no-new-privileges:true"]), "{name}");
        assert_eq!(service["user"], Value::Null, "{name}: the image says who");
        assert!(seconds(&service["stop_grace_period"]) > grace(), "{name}");
    }
}
