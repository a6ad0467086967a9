use super::*;
use tollgate_pack::{RequestBuilder, configure};

const SETTINGS: &str = r#"{
    "home": { "tenants": { "acme": "eu", "globex": "us" }, "data": "region/", "claim": "region" },
    "processing": { "default": "eu", "routes": { "contacts.export": "us" } },
    "origin": {
        "networks": { "eu": ["10.0.0.0/8"], "us": ["10.9.0.0/16", "2001:db8::/32"] },
        "header": { "name": "x-country", "countries": { "eu": ["EEA"], "ch": ["CH"], "us": ["US"] } }
    },
    "rules": [
        { "home": "eu", "processing": ["eu"], "origin": ["eu", "ch"] },
        { "home": "us", "processing": ["us", "eu"] }
    ],
    "transfers": [
        { "home": "eu", "to": "us", "routes": ["contacts.export"], "basis": "SCC 2021/914, contract 7", "until": "2026-11-21" }
    ],
    "tell": { "home": "x-data-home", "basis": "x-transfer-basis" }
}"#;

fn decide(settings: &str, request: RequestBuilder) -> Decision {
    let policy: DataResidency = configure(settings).expect("good settings");
    policy.on_request(&request.build())
}

fn reason(settings: &str, request: RequestBuilder) -> Option<String> {
    match decide(settings, request) {
        Decision::Deny(denial) => Some(denial.reason),
        _ => None,
    }
}

fn from(tenant: &str, address: &str) -> RequestBuilder {
    Request::builder().caller(tenant, "app").client_address(address).now("2026-11-21T23:59:59Z")
}

#[test]
fn data_stays_in_the_regions_of_its_homes_rule() {
    let country = |code: &str| from("acme", "192.0.2.1").header("x-country", code);
    for (request, expected) in [
        (from("acme", "10.1.1.1"), None),
        (from("acme", "::ffff:10.1.1.1"), None),
        // The narrower block says it.
        (from("acme", "10.9.1.1"), Some("origin_outside")),
        (from("acme", "2001:db8::1"), Some("origin_outside")),
        (from("acme", "192.0.2.1"), Some("origin_unknown")),
        (country("DE"), None),
        (country("no"), None),
        (country("CH"), None),
        (country("US"), Some("origin_outside")),
        (country("XX"), Some("origin_unknown")),
        (country("DE").header("x-country", "US"), Some("origin_unknown")),
        // Nobody asks where its callers sit.
        (from("globex", "192.0.2.1"), None),
        (from("globex", "192.0.2.1").route("contacts.export"), None),
    ] {
        let shown = format!("{request:?}");
        assert_eq!(reason(SETTINGS, request).as_deref(), expected, "{shown}");
    }
}

#[test]
fn a_tenants_home_is_what_is_said_first() {
    let other = || from("initech", "10.1.1.1");
    for (request, expected) in [
        (other(), Some("home_unknown")),
        (other().data("region/initech", "us\n"), None),
        (other().claim("region", "us"), None),
        (other().claim("region", 7), Some("home_unknown")),
        (other().claim("region", "mars"), Some("home_without_rule")),
        (other().data("region/initech", "eu").claim("region", "mars"), None),
        (from("acme", "10.1.1.1").data("region/acme", "mars").claim("region", "mars"), None),
    ] {
        let shown = format!("{request:?}");
        assert_eq!(reason(SETTINGS, request).as_deref(), expected, "{shown}");
    }
}

#[test]
fn a_transfer_needs_a_basis_that_has_not_ended() {
    let export = || from("acme", "10.1.1.1").route("contacts.export");
    let told = Edits::new()
        .set("x-data-home", "eu")
        .remove("x-transfer-basis")
        .append("x-transfer-basis", "SCC 2021/914, contract 7");
    assert_eq!(decide(SETTINGS, export()), told.into());
    let without = SETTINGS.replace("contacts.export\"], \"basis", "contacts.list\"], \"basis");
    assert_eq!(reason(&without, export()).as_deref(), Some("processing_outside"));
    let Decision::Deny(denial) = decide(SETTINGS, export().now("2026-11-22T00:00:00Z")) else {
        panic!("the transfer has ended");
    };
    assert_eq!(denial.reason, "processing_outside");
    for detail in [
        ("processing", r#""us""#),
        ("home", r#""eu""#),
        ("route", r#""contacts.export""#),
        ("basis_ended", r#""SCC 2021/914, contract 7""#),
    ] {
        let detail = (detail.0.to_owned(), detail.1.to_owned());
        assert!(denial.details.contains(&detail), "{:?} lack {detail:?}", denial.details);
    }
}

#[test]
fn what_a_client_says_of_itself_is_removed() {
    let request = from("acme", "10.1.1.1").header("x-transfer-basis", "because");
    let told = Edits::new().set("x-data-home", "eu").remove("x-transfer-basis");
    assert_eq!(decide(SETTINGS, request), told.into());
}

#[test]
fn settings_that_make_no_sense_are_refused() {
    for (of, by, expected) in [
        (r#""home": "us", "processing""#, r#""home": "eu", "processing""#, "two rules for `eu`"),
        (r#""globex": "us""#, r#""globex": "uk""#, "no rule for `uk`, in which"),
        (r#""home": "eu", "to""#, r#""home": "uk", "to""#, "no rule for `uk`, from which"),
        (r#""10.0.0.0/8""#, r#""10.0.0.0/33""#, "`10.0.0.0/33` of `eu` is no CIDR block"),
        (r#"["CH"]"#, r#"["Schweiz"]"#, "`Schweiz` is no country"),
        (r#"["CH"]"#, r#"["NO"]"#, "`NO` is in `ch` and in `eu`"),
        ("2026-11-21", "21.11.2026", r#""21.11.2026" is no day"#),
        ("x-data-home", "x data", "`x data` is not a header's name"),
        ("SCC 2021/914, contract 7", "a\\nb", "can't be a basis"),
        (r#""tell""#, r#""told""#, "unknown field `told`"),
    ] {
        assert!(SETTINGS.contains(of), "{of}");
        let error = configure::<DataResidency>(&SETTINGS.replace(of, by)).err();
        let error = error.unwrap_or_else(|| panic!("{by} is taken"));
        assert!(error.contains(expected), "{by}: {error}");
    }
    let asking = r#"{"home":{"claim":"r"},"processing":{"default":"eu"},"rules":[{"home":"eu","processing":["eu"],"origin":["eu"]}]}"#;
    for (settings, expected) in [
        (asking.to_owned(), "asks where callers sit"),
        (asking.replace(r#""claim":"r""#, ""), "says of no tenant"),
    ] {
        let error = configure::<DataResidency>(&settings).err().expect("bad settings");
        assert!(error.contains(expected), "{settings}: {error}");
    }
}
