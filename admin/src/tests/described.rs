//! Holds what the API answers against what its description says.

use crate::openapi;
use jsonschema::Validator;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex};

/// The description, as answers are held against it.
pub(crate) struct Described {
    whole: Value,
    schemas: Mutex<HashMap<String, Arc<Validator>>>,
}

static DESCRIBED: LazyLock<Described> = LazyLock::new(Described::new);

impl Described {
    pub(crate) fn new() -> Self {
        Self { whole: openapi(), schemas: Mutex::default() }
    }

    /// Whether a value fits a schema of the description; else the first error.
    pub(crate) fn fits(&self, schema: &Value, value: &Value) -> Result<(), String> {
        let text = schema.to_string();
        let known = self.schemas.lock().unwrap().get(&text).cloned();
        let validator = known.unwrap_or_else(|| {
            let root = json!({ "allOf": [schema], "components": self.whole["components"] });
            let options = jsonschema::options().should_validate_formats(true);
            let made = Arc::new(options.build(&root).unwrap());
            self.schemas.lock().unwrap().insert(text, made.clone());
            made
        });
        let mut errors = validator.iter_errors(value);
        errors.next().map_or(Ok(()), |error| Err(format!("{}: {error}", error.instance_path())))
    }

    /// The operation that takes a request.
    fn operation(&self, method: &str, path: &str) -> Option<(&str, &Value)> {
        let paths = self.whole["paths"].as_object()?;
        let matching = paths.iter().filter(|(template, _)| matches(template, path));
        // `{id}:verb` before `{id}`, what is named before what is not.
        let (template, methods) = matching.max_by_key(|(template, _)| {
            (template.contains("}:"), usize::MAX - template.matches('{').count())
        })?;
        Some((template, methods.get(method.to_lowercase())?))
    }
}

/// Whether a path is of a template.
fn matches(template: &str, path: &str) -> bool {
    let (mut wanted, mut given) = (template.split('/'), path.split('/'));
    loop {
        match (wanted.next(), given.next()) {
            (None, None) => return true,
            (Some(wanted), Some(given)) if fills(wanted, given) => {}
            _ => return false,
        }
    }
}

fn fills(wanted: &str, given: &str) -> bool {
    let Some(parameter) = wanted.strip_prefix('{') else { return wanted == given };
    match parameter.split_once('}') {
        Some((_, "")) => !given.is_empty(),
        Some((_, end)) => given.strip_suffix(end).is_some_and(|id| !id.is_empty()),
        None => false,
    }
}

/// A path of a template, with ids that the standard document has.
pub(crate) fn sample(template: &str) -> String {
    template
        .replace("{revision}", "1")
        .replace("{credential}", "k1")
        .replace("{consumer}", "mobile")
        .replace("{version}", "1.0.0")
        .replace("{name}", "v1")
        .replace("{key}", "blocked")
        .replace("{tenant}", "acme")
        .replace("{exchange}", "request-1")
        .replace("{id}", "acme")
}

/// What an answer must be, to fit the description.
pub(crate) struct Answered<'a> {
    pub(crate) method: &'a str,
    pub(crate) path: &'a str,
    pub(crate) status: u16,
    pub(crate) headers: &'a http::HeaderMap,
    pub(crate) text: &'a str,
}

impl Answered<'_> {
    /// Fails when the description doesn't tell of it. Paths and methods that it does not have are refused anyhow.
    #[track_caller]
    pub(crate) fn fits(&self) {
        let Self { method, path, status, .. } = self;
        let method = if *method == "HEAD" { "GET" } else { method };
        let Some((template, operation)) = DESCRIBED.operation(method, path) else {
            assert!(matches!(status, 401 | 403 | 404 | 405 | 503), "{method} {path}: {status}");
            return;
        };
        let answer = &operation["responses"][status.to_string()];
        let answer = match answer["$ref"].as_str() {
            Some(at) => DESCRIBED.whole.pointer(at.strip_prefix('#').unwrap()).unwrap(),
            None => answer,
        };
        let at = format!("{method} {template}: {status}");
        assert!(answer.is_object(), "{at} is not described: {}", self.text);
        for name in [
            "etag",
            "tollgate-revision",
            "location",
            "www-authenticate",
            "retry-after",
            "idempotency-replayed",
        ] {
            if self.headers.contains_key(name) {
                let told = answer["headers"]
                    .as_object()
                    .unwrap()
                    .keys()
                    .any(|told| told.eq_ignore_ascii_case(name));
                assert!(told, "{at}: the header {name} is not described");
            }
        }
        if self.method == "HEAD" || *status == 304 {
            assert_eq!(self.text, "", "{at}");
            return;
        }
        let kind = self.headers.get("content-type").and_then(|kind| kind.to_str().ok());
        let kind = kind.and_then(|kind| kind.split(';').next()).unwrap_or_default();
        let body = &answer["content"][kind];
        assert!(body.is_object(), "{at}: `{kind}` is not described");
        let value = if kind.ends_with("json") && !kind.contains("ndjson") {
            serde_json::from_str(self.text).unwrap_or_else(|_| panic!("{at}: {}", self.text))
        } else {
            Value::from(self.text)
        };
        DESCRIBED
            .fits(&body["schema"], &value)
            .unwrap_or_else(|error| panic!("{at}: {error}: {}", self.text));
    }
}
