//! What operations are sent and answer: bodies, headers, and what can be done next.

use serde_json::Value;
use utoipa::openapi::link::LinkBuilder;
use utoipa::openapi::schema::{ObjectBuilder, Type};
use utoipa::openapi::{
    Content, ContentBuilder, Header, HeaderBuilder, Ref, Response, ResponseBuilder,
};

/// What JSON is sent and answered as.
pub(super) const JSON: &str = "application/json";

/// Headers of answers: name, meaning, type.
pub(super) const HEADERS: &[(&str, &str, Type)] = &[
    ("X-Request-ID", "The request's id: the client's own when it was well formed.", Type::String),
    ("ETag", "The resource's tag, for `If-Match` and `If-None-Match`.", Type::String),
    ("Tollgate-Revision", "The revision that the answer speaks of.", Type::Integer),
    ("Location", "Where what was made is.", Type::String),
    (
        "Idempotency-Replayed",
        "`true` when it is the answer to an earlier request with this `Idempotency-Key`.",
        Type::String,
    ),
    ("WWW-Authenticate", "What is asked for (RFC 6750 §3).", Type::String),
    ("Retry-After", "After how many whole seconds it is worth asking again.", Type::Integer),
];

/// A header, as the components have it.
pub(super) fn header(about: &str, kind: &Type) -> Header {
    let schema = ObjectBuilder::new().schema_type(kind.clone()).build();
    HeaderBuilder::new().schema(Some(schema)).description(Some(about)).build()
}

/// Every answer names its request; and it has these headers.
pub(super) fn with_headers(response: ResponseBuilder, further: &[&'static str]) -> ResponseBuilder {
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
    pub(super) fn also(schema: impl Into<String>, kind: &'static str) -> Self {
        Self { kind, schema: schema.into(), example: None }
    }

    /// Of another media type than JSON.
    pub(super) fn of_kind(self, kind: &'static str) -> Self {
        Self { kind, ..self }
    }

    /// The body, as OpenAPI has it.
    pub(super) fn content(self) -> (&'static str, Content) {
        let schema = Ref::from_schema_name(self.schema);
        let content = ContentBuilder::new().schema(Some(schema)).example(self.example).build();
        (self.kind, content)
    }
}

/// An answer that is not a refusal.
pub(super) struct Answers {
    pub(super) status: u16,
    response: ResponseBuilder,
}

impl Answers {
    /// An answer of this status.
    pub(super) fn new(status: u16, about: &str, bodies: Vec<Body>) -> Self {
        let bodies = bodies.into_iter().map(Body::content);
        let response = bodies
            .fold(ResponseBuilder::new().description(about), |response, (kind, content)| {
                response.content(kind, content)
            });
        Self { status, response: with_headers(response, &[]) }
    }

    /// 200 with JSON.
    pub(super) fn ok(about: &str, schema: impl Into<String>, example: Value) -> Self {
        Self::new(200, about, vec![Body::json(schema, example)])
    }

    /// 201 with JSON.
    pub(super) fn made(about: &str, schema: impl Into<String>, example: Value) -> Self {
        Self::new(201, about, vec![Body::json(schema, example)])
    }

    /// 200 with a page of such items.
    pub(super) fn page(of: &str, item: Value) -> Self {
        Self::ok("A page.", format!("{of}List"), super::example::page(item))
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

    /// The answer, as OpenAPI has it.
    pub(super) fn build(self) -> Response {
        self.response.build()
    }
}
