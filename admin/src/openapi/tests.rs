use super::openapi;
use crate::kind::KINDS;
use crate::tests::described::{self, Described};
use http::StatusCode;
use model::{Problem, Reject, config};
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// Every operation: method, path, and what is said of it.
fn operations(described: &Value) -> Vec<(String, String, Value)> {
    let paths = described["paths"].as_object().unwrap();
    let of_path = |(path, methods): (&String, &Value)| {
        let path = path.clone();
        let methods = methods.as_object().unwrap().clone();
        methods.into_iter().map(move |(method, said)| (method.to_uppercase(), path.clone(), said))
    };
    paths.iter().flat_map(of_path).collect()
}

/// Does something with every object within a value.
fn each(value: &Value, work: &mut impl FnMut(&serde_json::Map<String, Value>)) {
    match value {
        Value::Array(list) => list.iter().for_each(|entry| each(entry, work)),
        Value::Object(fields) => {
            work(fields);
            fields.values().for_each(|value| each(value, work));
        }
        _ => {}
    }
}

#[test]
fn every_operation_says_what_it_is() {
    let described = openapi();
    let mut ids = BTreeSet::new();
    let tags: Vec<&Value> =
        described["tags"].as_array().unwrap().iter().map(|tag| &tag["name"]).collect();
    let operations = operations(&described);
    for (method, path, said) in &operations {
        let id = said["operationId"].as_str().unwrap();
        assert!(ids.insert(id.to_owned()), "{id} stands twice");
        for field in ["summary", "description"] {
            let text = said[field].as_str().unwrap_or_default();
            assert!(text.ends_with('.'), "{method} {path}: {field}: `{text}`");
        }
        assert!(tags.contains(&&said["tags"][0]), "{method} {path}: {}", said["tags"]);
        let told = said["responses"].as_object().unwrap().iter();
        let mut told = told.filter(|(status, _)| status.starts_with('2'));
        let all = told.all(|(_, answer)| {
            answer["content"].as_object().unwrap().values().any(|body| !body["example"].is_null())
        });
        assert!(all, "{method} {path} has no example of an answer");
        let sent = &said["requestBody"]["content"];
        let told = |body: &Value| !body["example"].is_null() || is_binary(&described, body);
        let sent = sent.as_object().is_none_or(|kinds| kinds.values().any(told));
        assert!(sent, "{method} {path} has no example of a body");
    }
}

/// Whether a body is a file, of which text can't give an example.
fn is_binary(described: &Value, body: &Value) -> bool {
    let at = body["schema"]["$ref"].as_str().and_then(|at| at.strip_prefix('#'));
    at.and_then(|at| described.pointer(at)).is_some_and(|schema| schema["format"] == "binary")
}

#[test]
fn references_lead_somewhere_and_no_component_is_unused() {
    let described = openapi();
    let mut named = BTreeSet::new();
    each(&described, &mut |fields| {
        if let Some(at) = fields.get("$ref").and_then(Value::as_str) {
            let found = described.pointer(at.strip_prefix('#').unwrap());
            assert!(found.is_some(), "{at} leads nowhere");
            named.insert(at.to_owned());
        }
        if let Some(id) = fields.get("operationId").filter(|_| fields.contains_key("parameters")) {
            let known =
                operations(&described).iter().any(|(_, _, said)| said["operationId"] == *id);
            assert!(known, "a link to {id}");
        }
    });
    for kind in ["schemas", "responses", "headers"] {
        for name in described["components"][kind].as_object().unwrap().keys() {
            let at = format!("#/components/{kind}/{name}");
            assert!(named.contains(&at), "{at} is unused");
        }
    }
}

#[test]
fn every_example_fits_its_schema() {
    let described = Described::new();
    let whole = openapi();
    let fits = |at: String, holder: &Value| {
        let Some(example) = holder.get("example") else { return };
        described.fits(&holder["schema"], example).unwrap_or_else(|error| panic!("{at}: {error}"));
    };
    for (method, path, said) in operations(&whole) {
        for parameter in said["parameters"].as_array().into_iter().flatten() {
            fits(format!("{method} {path}: {}", parameter["name"]), parameter);
        }
        let answers = said["responses"].as_object().unwrap().values();
        let bodies = answers.chain([&said["requestBody"]]);
        for (kind, body) in bodies.filter_map(|body| body["content"].as_object()).flatten() {
            fits(format!("{method} {path}: {kind}"), body);
        }
    }
    for (name, answer) in whole["components"]["responses"].as_object().unwrap() {
        fits(name.clone(), &answer["content"][Problem::MEDIA_TYPE]);
    }
    config::check(super::example::document()).expect("the example document is valid");
}

#[test]
fn the_documents_schema_is_the_models() {
    let described = openapi();
    let model = config::schema();
    let spoken = |value: &Value| value.to_string().replace("#/$defs/", "#/components/schemas/");
    let without_patterns = |value: &Value| {
        let mut value = value.clone();
        strip(&mut value);
        value.to_string()
    };
    for (name, part) in model["$defs"].as_object().unwrap() {
        let said = &described["components"]["schemas"][name];
        assert_eq!(without_patterns(said), spoken(part), "{name}");
    }
}

fn strip(value: &mut Value) {
    match value {
        Value::Array(list) => list.iter_mut().for_each(strip),
        Value::Object(fields) => {
            if fields.contains_key("format") {
                fields.shift_remove("pattern");
            }
            fields.values_mut().for_each(strip);
        }
        _ => {}
    }
}

#[test]
fn patterns_take_what_formats_take() {
    let document = super::example::document();
    let takes = |pointer: &str, text: &str| {
        let mut document = document.clone();
        *document.pointer_mut(pointer).unwrap() = text.into();
        let errors = config::check(&document).err().unwrap_or_default();
        !errors.iter().any(|error| error.pointer == pointer && error.message.contains("is not"))
    };
    let long = "a".repeat(64);
    let ids = ["a", "0", "a.b_c-D", "-a", ".a", "", "a b", "ä", "a\n", &long, &format!("{long}a")];
    let hash = format!("sha256:{}", "0a".repeat(32));
    let hashes =
        [&hash, "sha256:", "", &hash.to_uppercase(), &format!("{hash}0"), &format!("x{hash}")];
    let prefixes = ["tg_live1", "tg_live", "tg-live1", &"a".repeat(32), &"a".repeat(33), ""];
    let versions = ["1.0.0", "1.0", "1.0.0.0", "v1.0.0", "1.0.1234567890", "1.0.-1", "1..0", ""];
    let references = ["a@1.0.0", "a@1.0", "@1.0.0", "a", "a@b@1.0.0"];
    let key = "/tenants/0/consumers/0/credentials/0/api_key";
    let cases: &[(&str, String, &[&str])] = &[
        ("id", "/tenants/0/consumers/0/id".to_owned(), &ids),
        ("sha256", format!("{key}/hash"), &hashes),
        ("key-prefix", format!("{key}/prefix"), &prefixes),
        ("pack-version", "/packs/0/version".to_owned(), &versions),
        ("pack-reference", "/attachments/0/pack".to_owned(), &references),
    ];
    for (format, pointer, texts) in cases {
        let (_, pattern) = super::schema::PATTERNS.iter().find(|(name, _)| name == format).unwrap();
        let pattern = jsonschema::validator_for(&json!({ "pattern": pattern })).unwrap();
        for text in *texts {
            assert_eq!(pattern.is_valid(&json!(text)), takes(pointer, text), "{format}: {text:?}");
        }
    }
}

#[test]
fn a_resource_may_be_put_without_the_keys_of_its_path() {
    let described = Described::new();
    for kind in KINDS {
        let name = super::schema::entry(kind);
        let (mut resource, _) = super::example::resource(kind);
        let put = json!({ "$ref": format!("#/components/schemas/{name}Put") });
        described.fits(&put, &resource).unwrap();
        for key in kind.steps.last().unwrap().1 {
            resource.as_object_mut().unwrap().shift_remove(*key);
        }
        described.fits(&put, &resource).unwrap();
        let whole = json!({ "$ref": format!("#/components/schemas/{name}") });
        described.fits(&whole, &resource).unwrap_err();
    }
    let issuer = json!({ "issuer": "https://idp.example", "audiences": ["a"], "algorithms": ["HS256"],
        "tenant": "acme", "secret": { "value": "plain" } });
    described.fits(&json!({ "$ref": "#/components/schemas/IssuerPut" }), &issuer).unwrap();
    described.fits(&json!({ "$ref": "#/components/schemas/Issuer" }), &issuer).unwrap_err();
}

#[test]
fn every_refusal_has_its_body() {
    let described = Described::new();
    for code in super::refusal::CODES {
        let body = json!(Reject::new(*code).problem(&"0".repeat(32), "r-1"));
        let schema = format!("#/components/schemas/Problem{}", code.status().as_u16());
        described.fits(&json!({ "$ref": schema }), &body).unwrap();
    }
    let other = json!(Reject::new(model::ErrorCode::PolicyDenied).problem(&"0".repeat(32), "r-1"));
    described.fits(&json!({ "$ref": "#/components/schemas/Problem403" }), &other).unwrap_err();
}

/// The templates of the router, as it shows itself.
fn routed(router: &axum::Router) -> BTreeSet<String> {
    let shown = format!("{router:?}");
    let texts = shown.split('"').filter(|text| text.starts_with('/'));
    // The first two are what axum keeps a fallback under.
    let ours = texts.filter(|text| *text != "/" && !text.contains("__private"));
    ours.map(str::to_owned).collect()
}

#[tokio::test]
async fn the_paths_are_those_of_the_router() {
    let api = crate::tests::api::Api::new().await;
    let process = ["/healthz", "/readyz", "/metrics"];
    let described = openapi();
    let mut expected: BTreeSet<String> = BTreeSet::new();
    for path in described["paths"].as_object().unwrap().keys() {
        if process.contains(&path.as_str()) {
            continue;
        }
        // The router has no verbs within a segment.
        let route = match path.rsplit_once("}:") {
            Some((route, _)) => format!("{route}}}"),
            None => path.clone(),
        };
        expected.insert(route);
    }
    assert_eq!(routed(&api.router), expected);
}

#[tokio::test]
async fn each_path_takes_the_methods_that_are_described_and_no_others() {
    let api = crate::tests::api::Api::new().await;
    let described = openapi();
    for (path, said) in described["paths"].as_object().unwrap() {
        let Some(_) = path.strip_prefix("/v1/") else { continue };
        let target = described::sample(path);
        for method in ["GET", "PUT", "POST", "PATCH", "DELETE", "OPTIONS", "TRACE"] {
            let told = api.ask(method, &target).send().await;
            let taken = said.get(method.to_lowercase()).is_some();
            let refused = told.status == StatusCode::METHOD_NOT_ALLOWED.as_u16();
            assert_eq!(!refused, taken, "{method} {path}: {} {}", told.status, told.text);
            let allowed: BTreeSet<String> = told
                .header("allow")
                .split(',')
                .map(|method| method.trim().to_lowercase())
                .collect();
            if refused {
                let mut methods: BTreeSet<String> =
                    said.as_object().unwrap().keys().cloned().collect();
                if methods.contains("get") {
                    methods.insert("head".to_owned());
                }
                assert_eq!(allowed, methods, "{method} {path}");
            }
        }
    }
}

#[tokio::test]
async fn it_is_told_without_a_token() {
    let api = crate::tests::api::Api::new().await;
    let told = api.stranger("GET", "/openapi.json").send().await.is(200);
    assert_eq!(told.header("content-type"), "application/json");
    assert_eq!(told.json(), openapi());
    assert_eq!(told.json()["openapi"], "3.1.0");
}
