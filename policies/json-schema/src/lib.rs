//! Denies a request whose body does not fit its JSON Schema, and says where it doesn't. Schemas are compiled when the settings
//! are applied; they can't refer to what is elsewhere.

#[cfg(test)]
mod tests;

use jsonschema::error::ValidationErrorKind;
use jsonschema::{ValidationError, Validator};
use tollgate_pack::serde::Serialize;
use tollgate_pack::serde_json::{self, Value};
use tollgate_pack::{Decision, Denial, Policy, Request, json_values};

/// Which bodies must fit which schema.
#[tollgate_pack::settings]
struct Settings {
    /// The first that a request matches judges it; a request that matches none passes.
    #[schemars(length(min = 1))]
    bodies: Vec<Body>,
    /// The status of a refusal for a body that does not fit, 400 to 499.
    #[serde(default = "unprocessable")]
    #[schemars(range(min = 400, max = 499))]
    status: u16,
    /// The most values and names that a body may have, 1 to 20,000: what is read takes fuel and memory.
    #[serde(default = "values")]
    #[schemars(range(min = 1, max = 20_000))]
    max_values: usize,
}

/// Which requests have what body.
#[tollgate_pack::settings]
struct Body {
    /// On these routes; on all that the attachment covers when absent.
    routes: Option<Vec<String>>,
    /// In these versions of the API; in all when absent.
    versions: Option<Vec<String>>,
    /// With these methods.
    #[serde(default = "bodily")]
    methods: Vec<String>,
    /// Media types that are read; `*/*+json` is every one that ends so.
    #[serde(default = "json")]
    content_types: Vec<String>,
    /// The JSON Schema (2020-12 unless its `$schema` says otherwise); `format` is checked.
    schema: Value,
}

struct JsonSchema {
    bodies: Vec<Compiled>,
    status: u16,
    max_values: usize,
}

struct Compiled {
    body: Body,
    schema: Validator,
}

/// Where a body does not fit, and why.
#[derive(Serialize)]
#[serde(crate = "::tollgate_pack::serde")]
struct Misfit {
    /// RFC 6901.
    pointer: String,
    message: String,
}

/// What the fuel and the memory of `pack.yaml` are for.
const MAX_VALUES: usize = 20_000;
/// Of bodies with so many values at most, all errors are looked for; of larger ones, the first.
const SEARCHED: usize = 2_000;
/// So many places are told at most.
const TOLD: usize = 16;

fn unprocessable() -> u16 {
    422
}

fn values() -> usize {
    10_000
}

fn bodily() -> Vec<String> {
    ["POST", "PUT", "PATCH"].map(str::to_owned).into()
}

fn json() -> Vec<String> {
    ["application/json", "*/*+json"].map(str::to_owned).into()
}

#[tollgate_pack::pack]
impl Policy for JsonSchema {
    type Settings = Settings;

    fn new(settings: Settings) -> Result<Self, String> {
        let Settings { bodies, status, max_values } = settings;
        if bodies.is_empty() {
            return Err("`bodies` names none".to_owned());
        }
        if !(400..500).contains(&status) {
            return Err(format!("`status` is {status}, and a refusal's is 400 to 499"));
        }
        if !(1..=MAX_VALUES).contains(&max_values) {
            return Err(format!("`max_values` is {max_values}, and is 1 to {MAX_VALUES}"));
        }
        let bodies = bodies.into_iter().enumerate().map(|(at, body)| Compiled::new(at, body));
        Ok(Self { bodies: bodies.collect::<Result<_, _>>()?, status, max_values })
    }

    fn on_request(&self, request: &Request) -> Decision {
        let (route, version, method) = (request.route(), request.version(), request.method());
        match self.bodies.iter().find(|body| body.covers(&route, &version, &method)) {
            Some(body) => self.judge(body, request).into(),
            None => Decision::Continue,
        }
    }
}

impl JsonSchema {
    fn judge(&self, expected: &Compiled, request: &Request) -> Result<(), Denial> {
        let sent = request.header_text("content-type").unwrap_or_default();
        let kind = sent.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        if !expected.reads(&kind) {
            let message = "The body is of a media type that is not read here.";
            return Err(Denial::new("content_type_unsupported", message)
                .status(415)
                .detail("content_type", kind)
                .detail("supported", &expected.body.content_types));
        }
        let body = request.body().unwrap_or_default();
        let values = json_values(&body);
        if values > self.max_values {
            return Err(Denial::new(
                "body_too_complex",
                "The body has more values than are read here.",
            )
            .status(413)
            .detail("max_values", self.max_values));
        }
        let body: Value = serde_json::from_slice(&body).map_err(|error| {
            Denial::new("body_malformed", "The body is not JSON.")
                .status(400)
                .detail("line", error.line())
                .detail("column", error.column())
        })?;
        if expected.schema.is_valid(&body) {
            return Ok(());
        }
        let errors: Vec<_> = if values > SEARCHED {
            expected.schema.validate(&body).err().into_iter().collect()
        } else {
            expected.schema.iter_errors(&body).collect()
        };
        let mut errors = errors.iter().flat_map(misfits);
        let mut told: Vec<Misfit> = errors.by_ref().take(TOLD).collect();
        told.sort_by(|one, other| one.pointer.cmp(&other.pointer));
        Err(Denial::new("body_invalid", "The body does not fit its schema; see `errors`.")
            .status(self.status)
            .detail("errors", told)
            .detail("more", values > SEARCHED || errors.next().is_some()))
    }
}

impl Compiled {
    fn new(at: usize, body: Body) -> Result<Self, String> {
        let options = jsonschema::options().should_validate_formats(true);
        let schema = options.build(&body.schema).map_err(|error| {
            format!("the schema of `bodies[{at}]`, at `{}`: {error}", error.instance_path())
        })?;
        Ok(Self { body, schema })
    }

    fn covers(&self, route: &str, version: &str, method: &str) -> bool {
        let holds = |list: &[String], one: &str| list.iter().any(|held| held == one);
        let Body { routes, versions, methods, .. } = &self.body;
        routes.as_ref().is_none_or(|routes| holds(routes, route))
            && versions.as_ref().is_none_or(|versions| holds(versions, version))
            && holds(methods, method)
    }

    fn reads(&self, kind: &str) -> bool {
        let reads = |read: &String| match read.strip_prefix("*/*") {
            Some(suffix) => kind.ends_with(suffix),
            None => kind == read,
        };
        self.body.content_types.iter().any(reads)
    }
}

/// Where an error is: at a property itself, where one is missing or too many. What was sent is not repeated.
fn misfits(error: &ValidationError<'_>) -> Vec<Misfit> {
    let at = error.instance_path().to_string();
    let within = |name: &str| format!("{at}/{}", name.replace('~', "~0").replace('/', "~1"));
    match error.kind() {
        ValidationErrorKind::AdditionalProperties { unexpected }
        | ValidationErrorKind::UnevaluatedProperties { unexpected } => {
            let message = || "this property is not known".to_owned();
            unexpected
                .iter()
                .map(|name| Misfit { pointer: within(name), message: message() })
                .collect()
        }
        ValidationErrorKind::Required { property } => {
            let pointer = within(property.as_str().unwrap_or_default());
            vec![Misfit { pointer, message: "this property is required".to_owned() }]
        }
        _ => vec![Misfit { message: error.masked_with("it").to_string(), pointer: at }],
    }
}
