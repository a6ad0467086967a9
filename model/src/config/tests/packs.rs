//! What a document may say of packs: keys, limits, rollouts, quarantine.

use super::{ConfigError, SOUND, read};

const KEY: &str = "ed25519:11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=";

const PACKS: &str = r#"
pack_keys:
  - { id: platform, public_key: "ed25519:11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=", tenants: ["*"] }
  - { id: acme, public_key: "ed25519:11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=", tenants: [acme] }
packs:
  - { id: p, version: "1.0.0" }
  - { id: p, version: "1.1.0" }
  - { id: p, version: "1.2.0", quarantined: { at: 2026-11-21T09:00:00Z, reason: 5 faults in 30s } }
  - { id: q, version: "1.1.0" }
attachments:
  - id: a
    pack: p@1.0.0
    phases: [cost, request, response]
    mode: enforce
    on_failure: closed
    limits: { fuel: 1000, deadline: 10s, memory: 64MiB, output: 16MiB, host_calls: 1, log_lines: 0, instances: 1024 }
    reuse: 2
    quarantine: { faults: 1, window: 24h }
    rollout:
      candidate: p@1.1.0
      mode: canary
      percent: 0.1
      by: tenant
      window: 10s
      min_samples: 1
      rollback_on: { fault_rate: 0, p99: 10us, difference_rate: 1 }
      on_pass: promote
"#;

/// A sound document with all that may be said of packs, with `from` replaced by `to`.
fn document(from: &str, to: &str) -> String {
    let others = SOUND.split_once("packs:").unwrap().0;
    let others = others.replace("limits: [{ id: burst", "packs: { cpu_per_second: 1ms, fuel: 1000, deadline: 101ms, memory: 64KiB, output: 1025B, host_calls: 1, instances: 1 }, limits: [{ id: burst");
    let text = format!("{others}{}", PACKS.trim_start());
    assert!(text.contains(from), "{from}");
    text.replace(from, to)
}

fn check(from: &str, to: &str) -> Vec<String> {
    let errors = read(&document(from, to)).err().unwrap_or_default();
    errors.iter().map(ConfigError::to_string).collect()
}

#[test]
fn all_of_it_at_the_ends_of_its_ranges_is_accepted_and_comes_back_as_it_was() {
    let config = read(&document("", "")).unwrap();
    let written = serde_json::to_value(config.document()).unwrap();
    let again = super::super::check(&written).unwrap();
    assert_eq!(serde_json::to_value(again.document()).unwrap(), written);
    let others = [
        ("percent: 0.1", "percent: 100"),
        ("by: tenant", "by: request"),
        ("mode: canary", "mode: observe"),
        ("window: 10s", "window: 24h"),
        ("window: 24h", "window: 1s"),
        ("deadline: 10s", "deadline: 100ms"),
        ("memory: 64MiB", "memory: 64KiB"),
        ("output: 16MiB", "output: 1KiB"),
        ("cpu_per_second: 1ms", "cpu_per_second: 60s"),
        ("deadline: 101ms", "deadline: 10s"),
        ("output: 1025B", "output: 16MiB"),
        ("memory: 64KiB", "memory: 64MiB"),
        ("p99: 10us", "p99: 10s"),
        ("tenants: [acme]", "tenants: [acme, \"*\"]"),
    ];
    for (from, to) in others {
        assert_eq!(check(from, to), [] as [&str; 0], "{to}");
    }
}

/// What is replaced, by what, and what is said of it.
const FAULTS: &[(&str, &str, &str)] = &[
    (
        "tenants: [acme]",
        "tenants: [initech]",
        "/pack_keys/1/tenants/0: there is no tenant `initech`; `*` stands for all of them",
    ),
    ("tenants: [acme]", "tenants: []", "/pack_keys/1/tenants: must not be empty"),
    (
        "id: acme, public_key",
        "id: platform, public_key",
        "/pack_keys/1/id: there is another pack key `platform`",
    ),
    (
        "fuel: 1000, deadline",
        "fuel: 999, deadline",
        "/attachments/0/limits/fuel: 999 is less than 1000",
    ),
    (
        "fuel: 1000, deadline",
        "fuel: 100000001, deadline",
        "/attachments/0/limits/fuel: 100000001 is more than 100000000",
    ),
    (
        "deadline: 10s",
        "deadline: 99ms",
        "/attachments/0/limits/deadline: must be at least 100ms and at most 10s",
    ),
    (
        "deadline: 10s",
        "deadline: 10001ms",
        "/attachments/0/limits/deadline: must be at least 100ms and at most 10s",
    ),
    (
        "memory: 64MiB",
        "memory: 65MiB",
        "/attachments/0/limits/memory: must be at least 64KiB and at most 64MiB",
    ),
    (
        "memory: 64MiB",
        "memory: 0B",
        "/attachments/0/limits/memory: must be at least 64KiB and at most 64MiB",
    ),
    (
        "output: 16MiB",
        "output: 17MiB",
        "/attachments/0/limits/output: must be at least 1KiB and at most 16MiB",
    ),
    ("host_calls: 1", "host_calls: 0", "/attachments/0/limits/host_calls: 0 is less than 1"),
    (
        "instances: 1024",
        "instances: 1025",
        "/attachments/0/limits/instances: 1025 is more than 1024",
    ),
    ("log_lines: 0", "log_lines: 1001", "/attachments/0/limits/log_lines: 1001 is more than 1000"),
    ("reuse: 2", "reuse: 1", "/attachments/0/reuse: 1 is less than 2"),
    ("faults: 1", "faults: 0", "/attachments/0/quarantine/faults: 0 is less than 1"),
    (
        "window: 24h",
        "window: 25h",
        "/attachments/0/quarantine/window: must be at least 1s and at most 24h",
    ),
    (
        "window: 24h",
        "window: 999ms",
        "/attachments/0/quarantine/window: must be at least 1s and at most 24h",
    ),
    ("[cost, request", "[cost, response, request", "/attachments/0/phases/3: stands twice"),
    (
        "[cost, request",
        "[log, request",
        "/attachments/0/phases/0: `log` is not one of `cost`, `request`, `response`",
    ),
    (
        "candidate: p@1.1.0",
        "candidate: p@9.9.9",
        "/attachments/0/rollout/candidate: there is no pack `p@9.9.9`",
    ),
    (
        "candidate: p@1.1.0",
        "candidate: p@1.0.0",
        "/attachments/0/rollout/candidate: is the running version itself: name another one",
    ),
    (
        "candidate: p@1.1.0",
        "candidate: q@1.1.0",
        "/attachments/0/rollout/candidate: must be a version of `p`, as `pack` is",
    ),
    (
        "candidate: p@1.1.0",
        "candidate: p",
        "/attachments/0/rollout/candidate: `p` is not a pack and its version",
    ),
    ("percent: 0.1", "percent: 0", "/attachments/0/rollout/percent: 0 is not more than 0"),
    ("percent: 0.1", "percent: 100.5", "/attachments/0/rollout/percent: 100.5 is more than 100"),
    (
        "window: 10s",
        "window: 9s",
        "/attachments/0/rollout/window: must be at least 10s and at most 24h",
    ),
    ("min_samples: 1", "min_samples: 0", "/attachments/0/rollout/min_samples: 0 is less than 1"),
    (
        "fault_rate: 0",
        "fault_rate: 1.5",
        "/attachments/0/rollout/rollback_on/fault_rate: 1.5 is more than 1",
    ),
    (
        "difference_rate: 1",
        "difference_rate: -1",
        "/attachments/0/rollout/rollback_on/difference_rate: -1 is less than 0",
    ),
    (
        "p99: 10us",
        "p99: 11s",
        "/attachments/0/rollout/rollback_on/p99: must be at least 10µs and at most 10s",
    ),
    ("p99: 10us", "p95: 10us", "/attachments/0/rollout/rollback_on/p95: unknown field `p95`"),
    ("mode: canary\n", "\n", "/attachments/0/rollout: lacks the field `mode`"),
    (
        "cpu_per_second: 1ms",
        "cpu_per_second: 0s",
        "/plans/0/packs/cpu_per_second: must be at least 1ms and at most 1m",
    ),
    (
        "deadline: 101ms",
        "deadline: 99ms",
        "/plans/0/packs/deadline: must be at least 100ms and at most 10s",
    ),
    (
        "output: 1025B",
        "output: 1023B",
        "/plans/0/packs/output: must be at least 1KiB and at most 16MiB",
    ),
    (
        "memory: 64KiB",
        "memory: 1GiB",
        "/plans/0/packs/memory: must be at least 64KiB and at most 64MiB",
    ),
    ("reason: 5 faults in 30s", "reason: ''", "/packs/2/quarantined/reason: must not be empty"),
    (
        "version: \"1.0.0\" }",
        "version: \"1.0.0\", digest: 'sha256:0' }",
        "/packs/0/digest: is not `sha256:` and 64 lower-case hex digits",
    ),
];

#[test]
fn each_fault_of_a_pack_is_reported_where_it_stands() {
    for (from, to, expected) in FAULTS {
        let found = check(from, to);
        assert!(found.iter().any(|error| error.starts_with(expected)), "{to}: {found:?}");
    }
}

#[test]
fn what_is_quarantined_stands_only_where_nothing_is_decided() {
    let pack = "/attachments/0/pack: `p@1.2.0` is quarantined: name another version, or halt it";
    let candidate = "/attachments/0/rollout/candidate: `p@1.2.0` is quarantined: \
        name another version, or take the rollout out";
    for (from, to, expected) in [
        ("pack: p@1.0.0", "pack: p@1.2.0", Some(pack)),
        ("pack: p@1.0.0", "halted: true\n    pack: p@1.2.0", None),
        ("candidate: p@1.1.0", "candidate: p@1.2.0", Some(candidate)),
        (
            "rollout:\n      candidate: p@1.1.0",
            "halted: true\n    rollout:\n      candidate: p@1.2.0",
            None,
        ),
    ] {
        assert_eq!(check(from, to), Vec::from_iter(expected), "{to}");
    }
}

#[test]
fn a_public_key_is_thirty_two_bytes_and_what_stands_there_is_not_repeated() {
    for text in [
        "",
        "ed25519:",
        "11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=",
        "rsa:11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=",
        "ed25519:11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHUQ==",
        "ed25519:11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo",
        "ed25519:11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo=",
        "ed25519:11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo= ",
        "-----BEGIN PRIVATE KEY----- hunter2",
    ] {
        let found = check(
            &format!("acme, public_key: \"{KEY}\""),
            &format!("acme, public_key: \"{text}\""),
        );
        let [only] = found.as_slice() else { panic!("{text}: {found:?}") };
        assert_eq!(
            only,
            "/pack_keys/1/public_key: is not a public key: `ed25519:` and the base64 of its 32 bytes, \
             as `tollgate pack keygen` prints it",
            "{text}"
        );
    }
}
