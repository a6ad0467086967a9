use super::*;
use http::{HeaderMap, Method};
use model::document::TenantState;
use std::net::Ipv4Addr;

const SUNSET_AT: &str = "2026-11-21T00:00:00Z";

fn time(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn version(name: &str) -> Version {
    Version {
        name: name.into(),
        header: HeaderValue::from_str(name).unwrap(),
        upstream: "crm".into(),
        upstream_prefix: format!("/{name}"),
        state: VersionState::Active,
        deprecated_at: None,
        sunset_at: None,
        successor: None,
        successor_by_path: true,
        docs: None,
        extensions: HashMap::new(),
    }
}

fn service(select: &[Select], versions: Vec<Version>, default: Option<usize>) -> Service {
    let versions: Vec<Arc<Version>> = versions.into_iter().map(Arc::new).collect();
    let default = default.map(|index| versions[index].clone());
    Service { id: "contacts".into(), select: select.to_vec(), versions, default }
}

fn tenant(pin: Option<&str>) -> Tenant {
    Tenant {
        id: "acme".into(),
        state: TenantState::Active,
        plan: "gold".into(),
        limits: Arc::default(),
        calendar: model::quota::Calendar::UTC,
        adaptive: None,
        pins: pin.map(|pin| ("contacts".to_owned(), pin.to_owned())).into_iter().collect(),
        consumers: HashMap::new(),
    }
}

fn head(lines: &[(&'static str, &str)]) -> Head {
    let mut headers = HeaderMap::new();
    for (name, value) in lines {
        headers.append(*name, HeaderValue::from_str(value).unwrap());
    }
    Head {
        method: Method::GET,
        path: "/contacts".to_owned(),
        query: None,
        authority: "api.example".to_owned(),
        headers,
        client: Ipv4Addr::LOCALHOST.into(),
    }
}

/// The version's name, or the code.
fn resolved(
    service: &Service,
    head: &Head,
    segment: Option<&str>,
    tenant: &Tenant,
    at: &str,
) -> String {
    match service.resolve(head, segment, "/contacts", tenant, time(at)) {
        Ok(resolved) => resolved.version().name.as_str().to_owned(),
        Err(reject) => reject.code.as_str().to_owned(),
    }
}

#[test]
fn the_first_way_that_names_a_version_counts() {
    use Select::{Default as ByDefault, Header, MediaType, Path, TenantPin};
    let all = [Path, Header, MediaType, TenantPin, ByDefault];
    let accept =
        |version: &str| format!("text/html;q=0.1, application/vnd.crm.{version}+json; q=1");
    let v2 = accept("v2");
    let v9 = accept("v9");
    let api = |value: &'static str| ("api-version", value);
    for (select, segment, lines, pin, expected) in [
        (&all[..], Some("v1"), &[api("v2")][..], Some("v2"), "v1"),
        (&all, None, &[api("v1"), ("accept", &v2)], Some("v2"), "v1"),
        (&all, None, &[("accept", &v2)], Some("v1"), "v2"),
        (&all, None, &[("accept", "application/json")], Some("v1"), "v1"),
        (&all, None, &[], None, "v3"),
        (&all, Some("v9"), &[api("v1")], Some("v1"), "VERSION_UNKNOWN"),
        (&all, Some("V1"), &[], None, "VERSION_UNKNOWN"),
        (&all, None, &[("accept", &v9)], None, "VERSION_UNKNOWN"),
        (&all, None, &[api("v1"), api("v1")], None, "VALIDATION_FAILED"),
        (&[Header, Path], Some("v1"), &[api("v2")], None, "v2"),
        (&[Path], None, &[api("v2")], Some("v1"), "VERSION_UNKNOWN"),
        (&[TenantPin, Header], None, &[api("v2")], Some("v1"), "v1"),
    ] {
        let versions = vec![version("v1"), version("v2"), version("v3")];
        let service = service(select, versions, Some(2));
        let found = resolved(&service, &head(lines), segment, &tenant(pin), SUNSET_AT);
        assert_eq!(found, expected, "{select:?} {segment:?} {lines:?} {pin:?}");
    }
}

#[test]
fn a_version_is_withdrawn_at_its_sunset_but_for_those_it_was_extended_for() {
    let dated = |state| Version { sunset_at: Some(time(SUNSET_AT)), state, ..version("v1") };
    let extended = |until: &str| Version {
        extensions: [("acme".into(), time(until))].into(),
        ..dated(VersionState::Deprecated)
    };
    for (version, at, expected) in [
        (dated(VersionState::Active), "2026-11-20T23:59:59.999999Z", "v1"),
        (dated(VersionState::Active), SUNSET_AT, "VERSION_SUNSET"),
        (dated(VersionState::Sunset), "2020-01-01T00:00:00Z", "VERSION_SUNSET"),
        (Version { state: VersionState::Sunset, ..version("v1") }, SUNSET_AT, "VERSION_SUNSET"),
        (extended("2027-01-01T00:00:00Z"), "2026-12-31T23:59:59Z", "v1"),
        (extended("2027-01-01T00:00:00Z"), "2027-01-01T00:00:00Z", "VERSION_SUNSET"),
    ] {
        let case = format!("{version:?} at {at}");
        let service = service(&[Select::Default], vec![version], Some(0));
        assert_eq!(resolved(&service, &head(&[]), None, &tenant(None), at), expected, "{case}");
    }
}

#[test]
fn a_refusal_tells_where_to_go() {
    let gone =
        Version { sunset_at: Some(time(SUNSET_AT)), successor: Some("v2".into()), ..version("v1") };
    let service = service(&[Select::Path], vec![gone, version("v2")], None);
    let refuse = |segment| {
        service
            .resolve(&head(&[]), Some(segment), "/contacts/7", &tenant(None), time(SUNSET_AT))
            .unwrap_err()
    };
    let sunset = refuse("v1");
    assert_eq!(sunset.details["successor"], "v2");
    assert!(sunset.headers.contains(&(
        header::LINK,
        HeaderValue::from_static(r#"</v2/contacts/7>; rel="successor-version""#)
    )));
    let unknown = refuse(&"v".repeat(100));
    assert_eq!(unknown.details["supported"], serde_json::json!(["v1", "v2"]));
    assert_eq!(
        unknown.details["version"],
        "v".repeat(64),
        "what a client sends is not echoed at length"
    );
}

#[test]
fn a_life_is_told_in_the_formats_of_its_standards() {
    let shown = |version: &Version| -> Vec<String> {
        let headers = version.lifecycle("/contacts").into_iter();
        headers.map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect()
    };
    assert_eq!(shown(&version("v1")), Vec::<String>::new());
    let whole = Version {
        deprecated_at: Some(time("2026-06-01T00:00:00Z")),
        sunset_at: Some(time("2027-06-01T08:05:09Z")),
        successor: Some("v2".into()),
        docs: Some("https://developers.example/v1".to_owned()),
        ..version("v1")
    };
    assert_eq!(
        shown(&whole),
        [
            "deprecation: @1780272000",
            "sunset: Tue, 01 Jun 2027 08:05:09 GMT",
            r#"link: <https://developers.example/v1>; rel="deprecation"; type="text/html""#,
            r#"link: <https://developers.example/v1>; rel="sunset"; type="text/html""#,
            r#"link: </v2/contacts>; rel="successor-version""#,
        ]
    );
    let undated = Version { deprecated_at: None, sunset_at: None, ..whole };
    assert_eq!(shown(&undated), [r#"link: </v2/contacts>; rel="successor-version""#]);
}

#[test]
fn vary_names_the_headers_that_decide() {
    use Select::{Header, MediaType, Path, TenantPin};
    for (select, expected) in [
        (&[Path, TenantPin][..], None),
        (&[Path, Header], Some("API-Version")),
        (&[MediaType], Some("Accept")),
        (&[MediaType, Header], Some("API-Version, Accept")),
    ] {
        let service = service(select, vec![version("v1")], None);
        let vary = service.vary();
        assert_eq!(vary.as_ref().map(|value| value.to_str().unwrap()), expected, "{select:?}");
    }
}
