//! One operation, described in few words: what all have in common is said here, once.

use crate::page::{CURSOR_BYTES_MAX, LIMIT_MAX};
use http::StatusCode;
use model::ErrorCode;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use utoipa::openapi::link::LinkBuilder;
use utoipa::openapi::path::{
    HttpMethod, OperationBuilder, Parameter, ParameterBuilder, ParameterIn,
};
use utoipa::openapi::request_body::RequestBodyBuilder;
use utoipa::openapi::schema::{KnownFormat, Object, ObjectBuilder, SchemaFormat, Type};
use utoipa::openapi::security::SecurityRequirement;
use utoipa::openapi::{
    Content, ContentBuilder, Header, HeaderBuilder, Ref, Required, Response, ResponseBuilder,
};

/// The name of the way in which one proves who one is.
pub(super) const SECURITY: &str = "bearer";

/// What JSON is sent and answered as.
pub(super) const JSON: &str = "application/json";

/// Every status that refuses, with a body of its own in the components.
pub(super) const REFUSALS: &[u16] = &[400, 401, 403, 404, 408, 409, 412, 413, 422, 428, 500, 503];

/// What is read as an idempotency key ([`model::idempotency::Key`]).
const KEY: &str = r#"^([A-Za-z0-9._~:+/=-]{1,255}|"([ !#-\[\]-~]|\\["\\]){1,255}")$"#;

/// The codes that this API refuses with.
pub(super) const CODES: &[ErrorCode] = &[
    ErrorCode::ValidationFailed,
    ErrorCode::IdempotencyKeyInvalid,
    ErrorCode::CredentialMissing,
    ErrorCode::CredentialInvalid,
    ErrorCode::CredentialExpired,
    ErrorCode::Forbidden,
    ErrorCode::NotFound,
    ErrorCode::RequestTimeout,
    ErrorCode::Conflict,
    ErrorCode::IdempotencyInProgress,
    ErrorCode::PreconditionFailed,
    ErrorCode::BodyTooLarge,
    ErrorCode::ConfigInvalid,
    ErrorCode::IdempotencyKeyReused,
    ErrorCode::PreconditionRequired,
    ErrorCode::Internal,
    ErrorCode::DependencyUnavailable,
    ErrorCode::Overloaded,
];

/// A header of answers.
pub(super) struct DescribedHeader {
    pub(super) name: &'static str,
    about: &'static str,
    kind: Type,
}

/// Headers of answers, by name.
pub(super) const HEADERS: &[DescribedHeader] = &[
    DescribedHeader {
        name: "X-Request-ID",
        about: "The request's id: the client's own when it was well formed.",
        kind: Type::String,
    },
    DescribedHeader {
        name: "ETag",
        about: "The resource's tag, for `If-Match` and `If-None-Match`.",
        kind: Type::String,
    },
    DescribedHeader {
        name: "Tollgate-Revision",
        about: "The revision that the answer speaks of.",
        kind: Type::Integer,
    },
    DescribedHeader { name: "Location", about: "Where what was made is.", kind: Type::String },
    DescribedHeader {
        name: "Idempotency-Replayed",
        about: "`true` when it is the answer to an earlier request with this `Idempotency-Key`.",
        kind: Type::String,
    },
    DescribedHeader {
        name: "WWW-Authenticate",
        about: "What is asked for (RFC 6750 §3).",
        kind: Type::String,
    },
    DescribedHeader {
        name: "Retry-After",
        about: "After how many whole seconds it is worth asking again.",
        kind: Type::Integer,
    },
];

/// The header, as the components have it.
pub(super) fn header_of(described: &DescribedHeader) -> Header {
    let schema = ObjectBuilder::new().schema_type(described.kind.clone()).build();
    HeaderBuilder::new().schema(Some(schema)).description(Some(described.about)).build()
}

/// The name of a refusal in the components.
pub(super) fn refusal_name(status: u16) -> String {
    let reason = StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason());
    reason.unwrap_or_default().replace(' ', "")
}

/// A refusal, as the components have it.
pub(super) fn refusal(status: u16) -> Response {
    let codes: Vec<ErrorCode> =
        CODES.iter().copied().filter(|code| code.status().as_u16() == status).collect();
    let about: Vec<String> =
        codes.iter().map(|code| format!("`{code}`: {}", code.message())).collect();
    let example =
        codes.first().map(|code| {
            let reject = model::Reject::new(*code);
            json!(reject.problem(
                "0af7651916cd43dd8448eb211c80319c",
                "01931d6c-9a6b-7c2e-8f3a-5b1c2d3e4f50"
            ))
        });
    let schema = Ref::from_schema_name(refusal_schema(status));
    let content = ContentBuilder::new().schema(Some(schema)).example(example).build();
    let response = ResponseBuilder::new()
        .description(about.join(" "))
        .content(model::Problem::MEDIA_TYPE, content);
    let further: &[&str] = match status {
        401 => &["WWW-Authenticate"],
        409 | 503 => &["Retry-After"],
        _ => &[],
    };
    with_headers(response, further).build()
}

/// The name of a refusal's schema.
pub(super) fn refusal_schema(status: u16) -> String {
    format!("Problem{status}")
}

/// The codes of a status.
pub(super) fn codes(status: u16) -> Vec<&'static str> {
    let codes = CODES.iter().filter(|code| code.status().as_u16() == status);
    codes.map(|code| code.as_str()).collect()
}

fn with_headers(response: ResponseBuilder, further: &[&'static str]) -> ResponseBuilder {
    [&["X-Request-ID"], further].concat().into_iter().fold(response, |response, name| {
        response.header_ref(name, Ref::new(format!("#/components/headers/{name}")))
    })
}

/// What a request or an answer holds: the name of its schema, and an example.
pub(super) struct Body {
    kind: &'static str,
    schema: String,
    example: Option<Value>,
}

impl Body {
    /// JSON.
    pub(super) fn json(schema: impl Into<String>, example: Value) -> Self {
        Self { kind: JSON, schema: schema.into(), example: Some(example) }
    }

    /// The same as another one, in another media type.
    pub(super) fn of(schema: impl Into<String>, kind: &'static str) -> Self {
        Self { kind, schema: schema.into(), example: None }
    }

    /// Of another media type.
    pub(super) fn of_kind(self, kind: &'static str) -> Self {
        Self { kind, ..self }
    }

    fn content(self) -> (&'static str, Content) {
        let schema = Ref::from_schema_name(self.schema);
        let content = ContentBuilder::new().schema(Some(schema)).example(self.example).build();
        (self.kind, content)
    }
}

/// An answer that is not a refusal.
pub(super) struct Answers {
    status: u16,
    response: ResponseBuilder,
}

impl Answers {
    /// An answer of this status.
    pub(super) fn new(status: u16, about: &str, bodies: Vec<Body>) -> Self {
        let response = ResponseBuilder::new().description(about);
        let response = bodies
            .into_iter()
            .map(Body::content)
            .fold(response, |response, (kind, content)| response.content(kind, content));
        Self { status, response: with_headers(response, &[]) }
    }

    /// With further headers.
    pub(super) fn with(mut self, headers: &[&'static str]) -> Self {
        self.response = with_headers(self.response, headers);
        self
    }

    /// And then: an operation on what it tells. Parameters are runtime expressions (OpenAPI 3.1 §4.8.20.4).
    pub(super) fn then(
        mut self,
        operation: &str,
        about: &str,
        parameters: &[(&str, &str)],
    ) -> Self {
        let link = LinkBuilder::new().operation_id(operation).description(about);
        let link =
            parameters.iter().fold(link, |link, (name, value)| link.parameter(*name, *value));
        self.response = self.response.link(operation, link.build());
        self
    }
}

/// One operation.
pub(super) struct Operation {
    pub(super) method: HttpMethod,
    pub(super) path: String,
    inner: OperationBuilder,
    refusals: BTreeSet<u16>,
}

impl Operation {
    /// An operation that needs a token. `about`: a short sentence, and all of it.
    pub(super) fn new(
        method: HttpMethod,
        path: &str,
        (id, tag): (&str, &str),
        (summary, description): (&str, &str),
    ) -> Self {
        let inner = OperationBuilder::new()
            .operation_id(Some(id))
            .tag(tag)
            .summary(Some(summary))
            .description(Some(description))
            .security(SecurityRequirement::new(SECURITY, [""; 0]));
        Self { method, path: path.to_owned(), inner, refusals: [400, 401, 403, 500, 503].into() }
    }

    /// An operation that needs no token, and refuses nobody.
    pub(super) fn open(
        path: &str,
        (id, tag): (&str, &str),
        (summary, description): (&str, &str),
    ) -> Self {
        let inner = OperationBuilder::new()
            .operation_id(Some(id))
            .tag(tag)
            .summary(Some(summary))
            .description(Some(description))
            .securities(Some(Vec::<SecurityRequirement>::new()));
        Self { method: HttpMethod::Get, path: path.to_owned(), inner, refusals: BTreeSet::new() }
    }

    /// Takes a parameter.
    pub(super) fn takes(mut self, parameter: Parameter) -> Self {
        if matches!(parameter.parameter_in, ParameterIn::Path) {
            self.refusals.insert(404);
        }
        self.inner = self.inner.parameter(parameter);
        self
    }

    /// Takes the parameters of a list.
    pub(super) fn paged(self) -> Self {
        self.takes(page_size(LIMIT_MAX)).takes(cursor())
    }

    /// Takes a body.
    pub(super) fn reads(mut self, required: Required, bodies: Vec<Body>) -> Self {
        let body = RequestBodyBuilder::new().required(Some(required));
        let body = bodies
            .into_iter()
            .map(Body::content)
            .fold(body, |body, (kind, content)| body.content(kind, content));
        self.inner = self.inner.request_body(Some(body.build()));
        self.refuses(&[408, 413, 422])
    }

    /// Is a POST, whose answer is kept for repeats.
    pub(super) fn posts(self, required: Required, body: Body) -> Self {
        let key = text(
            "Idempotency-Key",
            ParameterIn::Header,
            "Names the request: a repeat with the same key gets the same answer, for a day.",
        )
        .schema(Some(ObjectBuilder::new().schema_type(Type::String).pattern(Some(KEY))));
        self.reads(required, vec![body]).takes(key.build()).refuses(&[409])
    }

    /// Answers so.
    pub(super) fn answers(mut self, answers: Answers) -> Self {
        self.inner = self.inner.response(answers.status.to_string(), answers.response);
        self
    }

    /// Refuses with these, beside what each operation refuses with.
    pub(super) fn refuses(mut self, statuses: &[u16]) -> Self {
        self.refusals.extend(statuses);
        self
    }

    /// The operation, as OpenAPI has it.
    pub(super) fn build(self) -> OperationBuilder {
        self.refusals.into_iter().fold(self.inner, |operation, status| {
            let refusal = Ref::from_response_name(refusal_name(status));
            operation.response(status.to_string(), refusal)
        })
    }
}

/// A parameter that is absent unless it says otherwise.
pub(super) fn text(name: &str, place: ParameterIn, about: &str) -> ParameterBuilder {
    let required = match place {
        ParameterIn::Path => Required::True,
        _ => Required::False,
    };
    ParameterBuilder::new()
        .name(name)
        .parameter_in(place)
        .description(Some(about))
        .required(required)
}

/// Text of a length.
pub(super) fn string(min: usize, max: usize) -> Object {
    ObjectBuilder::new()
        .schema_type(Type::String)
        .min_length(Some(min))
        .max_length(Some(max))
        .build()
}

/// An id in the path or the query.
pub(super) fn id(name: &str, place: ParameterIn, about: &str, example: &str) -> Parameter {
    let schema = ObjectBuilder::new()
        .schema_type(Type::String)
        .format(Some(SchemaFormat::Custom("id".to_owned())))
        .pattern(Some(super::schema::ID));
    text(name, place, about).schema(Some(schema)).example(Some(json!(example))).build()
}

/// A time in the query.
pub(super) fn time(name: &str, about: &str, example: &str) -> Parameter {
    let schema = ObjectBuilder::new()
        .schema_type(Type::String)
        .format(Some(SchemaFormat::KnownFormat(KnownFormat::DateTime)));
    let parameter = text(name, ParameterIn::Query, about).schema(Some(schema));
    parameter.example(Some(json!(example))).build()
}

/// How many items a page has.
pub(super) fn page_size(max: u32) -> Parameter {
    let schema = ObjectBuilder::new()
        .schema_type(Type::Integer)
        .minimum(Some(1))
        .maximum(Some(i64::from(max)))
        .build();
    text("limit", ParameterIn::Query, "At most so many items; 100 when absent.")
        .schema(Some(schema))
        .example(Some(json!(20)))
        .build()
}

/// Where a page begins. Without an example, which could only be one of another list.
pub(super) fn cursor() -> Parameter {
    text("cursor", ParameterIn::Query, "The `next_cursor` of the page before.")
        .schema(Some(string(1, CURSOR_BYTES_MAX)))
        .build()
}
