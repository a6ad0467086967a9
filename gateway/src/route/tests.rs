use super::*;
use http::{HeaderMap, Uri};
use model::document::{CredentialKind, Select};
use std::net::Ipv4Addr;

fn route(id: &str, select: &[Select]) -> Arc<Route> {
    let service =
        Service { id: id.into(), select: select.to_vec(), versions: Vec::new(), default: None };
    Arc::new(Route {
        id: id.into(),
        service: Arc::new(service),
        requirement: Requirement { any_of: vec![CredentialKind::ApiKey], scopes: Vec::new() },
        idempotency: None,
        body_limit: 1024,
        cost: 1,
        cost_header: None,
        terms: Terms::default(),
        forward_credentials: false,
        record: RecordMode::Off,
        attached: Arc::default(),
    })
}

const EITHER: &[Select] = &[Select::Path, Select::Header];

fn table(routes: &[(&str, &str, &[Method], &[Select])]) -> RouteTable {
    let mut table = RouteTable::default();
    for (id, template, methods, select) in routes {
        table.insert(template, methods, &route(id, select)).unwrap();
    }
    table
}

fn head(method: &Method, target: &str) -> Arc<Head> {
    let uri: Uri = target.parse().unwrap();
    Arc::new(Head {
        method: method.clone(),
        path: uri.path().to_owned(),
        query: uri.query().map(str::to_owned),
        authority: "api.example".to_owned(),
        headers: HeaderMap::new(),
        client: Ipv4Addr::LOCALHOST.into(),
    })
}

/// `route segment path`, or the code.
fn found(table: &RouteTable, method: &Method, target: &str) -> String {
    match table.find(&head(method, target)) {
        Ok(matched) => {
            format!(
                "{} {} {}",
                matched.route().id,
                matched.segment().unwrap_or("-"),
                matched.path()
            )
        }
        Err(reject) => reject.code.as_str().to_owned(),
    }
}

fn contacts() -> RouteTable {
    table(&[
        ("list", "/contacts", &[Method::GET], EITHER),
        ("create", "/contacts", &[Method::POST], EITHER),
        ("read", "/contacts/{id}", &[Method::GET], EITHER),
        ("change", "/contacts/{key}", &[Method::PUT, Method::PATCH], EITHER),
        ("notes", "/contacts/{id}/notes", &[Method::GET], EITHER),
        ("files", "/files/{*rest}", &[Method::GET], &[Select::Path]),
        ("ping", "/ping", &[Method::GET], &[Select::Default]),
    ])
}

#[test]
fn a_path_is_found_under_any_first_segment_or_none() {
    let table = contacts();
    for (method, target, expected) in [
        (Method::GET, "/v1/contacts", "list v1 /contacts"),
        (Method::GET, "/contacts?limit=2", "list - /contacts"),
        (Method::POST, "/whatever/contacts", "create whatever /contacts"),
        (Method::HEAD, "/v1/contacts", "list v1 /contacts"),
        (Method::GET, "/v1/contacts/7", "read v1 /contacts/7"),
        (Method::GET, "/contacts/7", "read - /contacts/7"),
        (Method::PATCH, "/contacts/7", "change - /contacts/7"),
        (Method::GET, "/contacts/contacts", "read - /contacts/contacts"),
        (Method::GET, "/v1/contacts/7/notes", "notes v1 /contacts/7/notes"),
        (Method::GET, "/v1/files/a/b/c.txt", "files v1 /files/a/b/c.txt"),
        (Method::GET, "/ping", "ping - /ping"),
        (Method::GET, "/", "ROUTE_NOT_FOUND"),
        (Method::GET, "/v1", "ROUTE_NOT_FOUND"),
        (Method::GET, "/v1/", "ROUTE_NOT_FOUND"),
        (Method::GET, "/v1/contacts/", "ROUTE_NOT_FOUND"),
        (Method::GET, "/v1/Contacts", "ROUTE_NOT_FOUND"),
        (Method::GET, "/v1/v1/contacts", "ROUTE_NOT_FOUND"),
        (Method::GET, "/files/a", "ROUTE_NOT_FOUND"),
        (Method::GET, "/v1/files/", "ROUTE_NOT_FOUND"),
        (Method::GET, "/v1/ping", "ROUTE_NOT_FOUND"),
        (Method::DELETE, "/v1/contacts", "METHOD_NOT_ALLOWED"),
        (Method::HEAD, "/v1/nothing", "ROUTE_NOT_FOUND"),
        (Method::OPTIONS, "/contacts/7", "METHOD_NOT_ALLOWED"),
    ] {
        assert_eq!(found(&table, &method, target), expected, "{method} {target}");
    }
}

#[test]
fn unreserved_characters_may_be_encoded_and_are_handed_on_as_they_came() {
    let table = contacts();
    for (target, expected) in [
        ("/v1/%63ontacts", "list v1 /%63ontacts"),
        ("/v1/%63ontact%73/7", "read v1 /%63ontact%73/7"),
        ("/%76%31/contacts", "list %76%31 /contacts"),
        ("/v1/contacts/a%20b", "read v1 /contacts/a%20b"),
        ("/v1/contacts/%c3%a4", "read v1 /contacts/%c3%a4"),
        // Reserved ones stay encoded: they mean something else.
        ("/v1/contacts%3f", "ROUTE_NOT_FOUND"),
    ] {
        assert_eq!(found(&table, &Method::GET, target), expected, "{target}");
    }
}

#[test]
fn a_405_tells_what_the_path_takes() {
    for (target, expected) in [
        ("/v1/contacts", "GET, POST, HEAD"),
        ("/contacts/7", "GET, PUT, PATCH, HEAD"),
        ("/ping", "GET, HEAD"),
    ] {
        let reject = contacts().find(&head(&Method::DELETE, target)).err().unwrap();
        assert_eq!(
            reject.headers,
            [(header::ALLOW, HeaderValue::from_static(expected))],
            "{target}"
        );
    }
    let explicit = table(&[("a", "/a", &[Method::HEAD, Method::GET], &[Select::Default])]);
    let reject = explicit.find(&head(&Method::POST, "/a")).err().unwrap();
    assert_eq!(reject.headers[0].1, "HEAD, GET");
}

#[test]
fn parameters_may_be_named_differently_on_the_same_path() {
    let table = table(&[
        ("read", "/contacts/{id}", &[Method::GET], EITHER),
        ("notes", "/contacts/{contact}/notes", &[Method::GET], EITHER),
        ("change", "/contacts/{key}", &[Method::PUT], EITHER),
    ]);
    assert_eq!(found(&table, &Method::PUT, "/v1/contacts/7"), "change v1 /contacts/7");
    assert_eq!(found(&table, &Method::GET, "/v1/contacts/7/notes"), "notes v1 /contacts/7/notes");
}

#[test]
fn paths_that_would_be_read_in_two_ways_are_refused() {
    let cases: &[(&str, &[Select], &str, &[Select])] = &[
        ("/files/{*rest}", &[Select::Path], "/files/{*all}/x", &[Select::Path]),
        // A parameter where another service has its version.
        ("/contacts", &[Select::Path], "/{tenant}/contacts", &[Select::Default]),
    ];
    for (first, of_first, second, of_second) in cases {
        let mut table = RouteTable::default();
        table.insert(first, &[Method::GET], &route("first", of_first)).unwrap();
        let conflict = table.insert(second, &[Method::GET], &route("second", of_second));
        assert!(conflict.is_err(), "{first} and {second}");
    }
}
