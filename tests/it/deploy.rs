//! The files of `deploy/` fit the product and each other, as far as that can be known without running a container.

use crate::harness::process::tollgate;
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

/// Where a container and the unit keep what must last.
const DATA: &str = "/var/lib/tollgate";
/// Where a container finds its secrets.
const SECRETS: &str = "/run/secrets";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// An instruction of the Dockerfile: its name and the rest, on one line.
type Instruction = (String, String);

fn dockerfile() -> Vec<Instruction> {
    let text = read("deploy/Dockerfile");
    let code: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
    let joined = code.join("\n").replace("\\\n", " ");
    let lines = joined.lines().map(str::trim).filter(|line| !line.is_empty());
    let instruction = |line: &str| {
        let (name, rest) = line.split_once(' ').unwrap_or((line, ""));
        (name.to_owned(), rest.split_whitespace().collect::<Vec<_>>().join(" "))
    };
    lines.map(instruction).collect()
}

/// What is done from the last FROM on: the image itself.
fn image() -> Vec<Instruction> {
    let all = dockerfile();
    let last = all.iter().rposition(|(name, _)| name == "FROM").unwrap();
    all[last..].to_vec()
}

/// The values of an instruction, of which there may be several.
fn values(instructions: &[Instruction], name: &str) -> Vec<String> {
    let same = instructions.iter().filter(|(known, _)| known == name);
    same.map(|(_, rest)| rest.clone()).collect()
}

/// What the build takes from the repository.
fn copied() -> Vec<String> {
    let copies = values(&dockerfile(), "COPY").into_iter().filter(|rest| !rest.contains("--from="));
    let sources = copies.flat_map(|rest| {
        let mut words: Vec<String> = rest.split(' ').map(str::to_owned).collect();
        words.pop();
        words
    });
    sources.collect()
}

/// What the image sets in the environment.
fn image_environment() -> Map<String, Value> {
    let set = values(&image(), "ENV").join(" ");
    let pairs = set.split(' ').map(|pair| pair.split_once('=').unwrap());
    pairs.map(|(name, value)| (name.to_owned(), value.into())).collect()
}

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

/// The sections and keys of the unit; keys that stand twice are a mistake here.
fn unit() -> Map<String, Value> {
    let mut section = String::new();
    let mut unit = Map::new();
    for line in read("deploy/tollgate.service").lines() {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(name) = line.strip_prefix('[') {
            section = name.trim_end_matches(']').to_owned();
            continue;
        }
        let (key, value) = line.split_once('=').unwrap_or_else(|| panic!("{line}"));
        let before = unit.insert(format!("{section}.{key}"), value.into());
        assert_eq!(before, None, "{key} stands twice");
    }
    unit
}

/// `45s`.
fn seconds(value: &Value) -> Duration {
    Duration::from_secs(value.as_str().unwrap().strip_suffix('s').unwrap().parse().unwrap())
}

/// A number that the product's source gives a name.
fn constant(file: &str, declaration: &str) -> u64 {
    let text = read(file);
    let (_, rest) =
        text.split_once(declaration).unwrap_or_else(|| panic!("{file} has no `{declaration}`"));
    let digits: String = rest
        .chars()
        .take_while(|c| c.is_ascii_digit() || *c == '_')
        .filter(|c| *c != '_')
        .collect();
    digits.parse().unwrap()
}

/// How long requests in progress get when a process is told to end.
fn grace() -> Duration {
    Duration::from_secs(constant("gateway/src/server.rs", "GRACE: Duration = Duration::from_secs("))
}

/// A folder with a key where secrets lie.
fn secrets() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let key = folder.path().join("master_key");
    std::fs::write(&key, "5e".repeat(32)).unwrap();
    std::fs::set_permissions(&key, Permissions::from_mode(0o600)).unwrap();
    folder
}

/// Has the binary judge its settings, and nothing else.
fn check(arguments: &[&str], environment: &Map<String, Value>) -> Output {
    let mut command = tollgate();
    command.args(["serve", "--check"]).args(arguments);
    for (name, value) in environment {
        command.env(name, value.as_str().unwrap());
    }
    command.output().unwrap()
}

/// The settings that the binary reads from these.
fn settings(arguments: &[&str], environment: &Map<String, Value>) -> Value {
    let output = check(arguments, environment);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{environment:#?}: {error}");
    serde_saphyr::from_str(std::str::from_utf8(&output.stdout).unwrap()).unwrap()
}

#[test]
fn every_service_starts_with_settings_that_the_binary_understands() {
    let folder = secrets();
    let path = folder.path().to_str().unwrap();
    let mut roles = BTreeSet::new();
    let found = services();
    assert_eq!(found.len(), 3);
    for (name, service) in found {
        let text = serde_json::to_string(&environment(&service)).unwrap();
        let here = serde_json::from_str(&text.replace(SECRETS, path)).unwrap();
        let read = settings(&[], &here);
        assert_eq!(read["node"], json!(name));
        assert_eq!(read["data"], json!(DATA));
        assert_eq!(read["database"], json!("postgres://tollgate@postgres:5432/tollgate"));
        assert_eq!(read["master_keys"], json!([{ "file": format!("{path}/master_key") }]));
        roles.insert(format!("{}: {}", name, read["roles"]));
    }
    let expected =
        [r#"admin: ["admin"]"#, r#"gateway-1: ["gateway"]"#, r#"gateway-2: ["gateway"]"#];
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
fn the_sample_settings_are_read_and_fit_the_unit() {
    let folder = secrets();
    let file = folder.path().join("tollgate.yaml");
    let sample = read("deploy/tollgate.yaml");
    let here = sample.replace("/etc/tollgate", folder.path().to_str().unwrap());
    assert_ne!(here, sample, "the sample names no key");
    std::fs::write(&file, here).unwrap();
    let read = settings(&["--config", file.to_str().unwrap()], &Map::new());
    assert_eq!(read["roles"], json!(["gateway", "admin"]));
    let unit = unit();
    let state = unit["Service.StateDirectory"].as_str().unwrap();
    assert_eq!(read["data"], json!(format!("/var/lib/{state}")));
    assert_eq!(read["data"], unit["Service.WorkingDirectory"]);
    let start = unit["Service.ExecStart"].as_str().unwrap();
    assert_eq!(start, "/usr/bin/tollgate serve --config /etc/tollgate/tollgate.yaml");
    // Tokens cross admin's port in plain.
    for listener in ["admin", "status"] {
        assert!(read["listen"][listener].as_str().unwrap().starts_with("127.0.0.1:"), "{listener}");
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
    let expected = ["GATEWAY", "ADMIN", "STATUS"].map(port);
    assert_eq!(exposed.split(' ').collect::<Vec<_>>(), expected);
    let mut outside = BTreeSet::new();
    for (name, service) in services() {
        let role = service["environment"]["TOLLGATE_ROLES"].as_str().unwrap();
        let ports = list(&service, "ports");
        let [published] = ports.as_slice() else { panic!("{name}: {ports:?}") };
        let (address, inside) = published.rsplit_once(':').unwrap();
        assert_eq!(inside, port(&role.to_uppercase()), "{name}");
        assert!(outside.insert(address.to_owned()), "{address} is published twice");
        let by_default = address.replace("${GATEWAY_ADDRESS:-127.0.0.1}", "127.0.0.1");
        assert!(by_default.starts_with("127.0.0.1:"), "{name}: {address}");
        assert!(role == "gateway" || !address.contains('$'), "{name}: {address}");
    }
    let postgres = &compose()["services"]["postgres"];
    assert_eq!(postgres["ports"], Value::Null);
    let networks = compose()["networks"].clone();
    assert!(list(postgres, "networks").iter().all(|name| networks[name]["internal"] == true));
}

#[test]
fn each_node_has_a_volume_of_its_own_and_all_share_the_packs_read_only() {
    let compose = compose();
    let mut volumes = BTreeSet::new();
    for (name, service) in services() {
        let mounts = list(&service, "volumes");
        let [data, packs] = mounts.as_slice() else { panic!("{name}: {mounts:?}") };
        let (volume, target) = data.split_once(':').unwrap();
        assert_eq!(target, image_environment()["TOLLGATE_DATA"], "{name}");
        assert!(compose["volumes"].get(volume).is_some(), "{volume} is not declared");
        assert!(volumes.insert(volume.to_owned()), "{volume} is mounted twice");
        assert_eq!(*packs, format!("./packs:{DATA}/packs:ro"), "{name}");
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
        for (variable, value) in settings["environment"].as_object().unwrap() {
            let Some(name) = value.as_str().unwrap().strip_prefix(&format!("{SECRETS}/")) else {
                assert!(!variable.ends_with("PASSWORD"), "{service}: {variable} is a secret");
                continue;
            };
            assert!(mounted.contains(&name.to_owned()), "{service}: {variable} is not mounted");
        }
    }
    let ignored = read(".gitignore");
    for folder in ["/deploy/secrets", "/deploy/packs"] {
        assert!(ignored.lines().any(|line| line == folder), "{folder} could be committed");
    }
}

#[test]
fn a_container_can_do_no_more_than_it_must() {
    let image = image();
    let user = values(&image, "USER").pop().unwrap();
    let (uid, gid) = user.split_once(':').unwrap();
    assert!(uid.parse::<u32>().unwrap() > 999 && gid.parse::<u32>().unwrap() > 999, "{user}");
    let data = format!("COPY --from=builder --chown={user} --chmod=0700 /data {DATA}");
    assert!(image.iter().any(|(name, rest)| format!("{name} {rest}") == data), "{image:#?}");
    assert_eq!(values(&image, "ENTRYPOINT"), [r#"["/usr/bin/tollgate"]"#]);
    assert_eq!(values(&image, "CMD"), [r#"["serve"]"#]);
    // Nothing is run there, so that an image without a shell will do.
    assert_eq!(values(&image, "RUN"), Vec::<String>::new());
    for (name, service) in services() {
        assert_eq!(service["read_only"], json!(true), "{name}");
        assert_eq!(service["cap_drop"], json!(["ALL"]), "{name}");
        assert_eq!(service["security_opt"], json!(["no-new-privileges:true"]), "{name}");
        assert_eq!(service["user"], Value::Null, "{name}: the image says who");
        assert!(seconds(&service["stop_grace_period"]) > grace(), "{name}");
    }
}

#[test]
fn an_image_is_called_healthy_when_it_is_ready() {
    let [health] = &values(&image(), "HEALTHCHECK")[..] else { panic!("there is not one") };
    let (_, command) = health.split_once("CMD ").unwrap();
    let words: Vec<String> = serde_json::from_str(command).unwrap();
    assert_eq!(words, ["/usr/bin/tollgate", "ready"]);
    let output = tollgate().arg("ready").arg("--help").output().unwrap();
    assert!(output.status.success());
}

#[test]
fn the_image_is_built_from_what_a_build_needs() {
    let copied = copied();
    for path in &copied {
        assert!(root().join(path).exists(), "{path} is not there");
    }
    let allowed = read(".dockerignore");
    for path in &copied {
        let line = format!("!{path}");
        assert!(allowed.lines().any(|known| known == line), "{path} is not sent to the builder");
    }
    // Cargo reads the whole workspace from it, with the lock file as it is.
    let folder = tempfile::tempdir().unwrap();
    for path in &copied {
        copy(&root().join(path), &folder.path().join(path));
    }
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    for manifest in ["Cargo.toml", "policies/Cargo.toml"] {
        let mut metadata = Command::new(&cargo);
        metadata.args(["metadata", "--format-version=1", "--locked", "--offline"]);
        metadata.args(["--manifest-path", manifest]).current_dir(folder.path());
        let output = metadata.output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{manifest}: {error}");
    }
}

/// Copies a file or a folder, without what builds leave there.
fn copy(from: &Path, to: &Path) {
    if from.is_dir() {
        std::fs::create_dir_all(to).unwrap();
        for entry in std::fs::read_dir(from).unwrap() {
            let entry = entry.unwrap();
            if entry.file_name() != "target" {
                copy(&entry.path(), &to.join(entry.file_name()));
            }
        }
    } else {
        std::fs::copy(from, to).unwrap();
    }
}

#[test]
fn the_image_is_built_by_our_toolchain_for_the_system_that_it_runs_on() {
    let arguments = values(&dockerfile(), "ARG");
    let value = |name: &str| {
        let found = arguments.iter().find_map(|argument| argument.strip_prefix(name));
        found.unwrap_or_else(|| panic!("{name} is not among {arguments:?}")).to_owned()
    };
    let (builder, runtime) = (value("BUILDER="), value("RUNTIME="));
    let toolchain = read("rust-toolchain.toml");
    let version = builder.strip_prefix("rust:").unwrap().split('-').next().unwrap().to_owned();
    assert!(toolchain.contains(&format!("channel = \"{version}\"")), "{builder}");
    let release = builder.rsplit('-').next().unwrap();
    assert_eq!(runtime, format!("debian:{release}-slim"));
    assert_eq!(values(&dockerfile(), "FROM"), ["${BUILDER} AS builder", "${RUNTIME}"]);
}

#[test]
fn the_unit_gives_requests_time_to_end_and_the_process_little_else() {
    let unit = unit();
    assert!(seconds(&unit["Service.TimeoutStopSec"]) > grace());
    let exchanges = constant("gateway/src/proxy.rs", "EXCHANGES_MAX: i64 = ");
    let files: u64 = unit["Service.LimitNOFILE"].as_str().unwrap().parse().unwrap();
    // One to the client and one to the upstream.
    assert!(files > 2 * exchanges, "{files}");
    assert_eq!(unit["Service.Restart"], "on-failure");
    let user = unit["Service.User"].as_str().unwrap();
    assert!(read("deploy/tollgate.sysusers.conf").contains(&format!("\nu {user} - ")));
    for (key, value) in [
        ("NoNewPrivileges", "yes"),
        ("ProtectSystem", "strict"),
        ("ProtectHome", "yes"),
        ("PrivateTmp", "yes"),
        ("PrivateDevices", "yes"),
        ("CapabilityBoundingSet", ""),
        ("StateDirectoryMode", "0700"),
        ("UMask", "0077"),
    ] {
        assert_eq!(unit[&format!("Service.{key}")], value, "{key}");
    }
    // Packs are compiled to machine code in memory.
    assert!(!unit.contains_key("Service.MemoryDenyWriteExecute"));
}

/// Where systemd is installed, it has a word, too; elsewhere the keys are judged by the test above alone.
#[test]
fn systemd_understands_the_unit() {
    let folder = tempfile::tempdir().unwrap();
    let file: PathBuf = folder.path().join("tollgate.service");
    let binary = tollgate().get_program().to_str().unwrap().to_owned();
    std::fs::write(&file, read("deploy/tollgate.service").replace("/usr/bin/tollgate", &binary))
        .unwrap();
    let verify = Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(&file).output();
    match verify {
        // Unknown keys are told on standard error, and are no failure.
        Ok(output) => assert_eq!(
            (output.status.success(), String::from_utf8_lossy(&output.stderr).trim()),
            (true, "")
        ),
        Err(error) => println!("systemd-analyze is not there: {error}"),
    }
}
