//! One operation, described in few words: what all have in common is said here, once.

use super::answer::{Answers, Body};
use super::parameter::{cursor, dry_run, idempotency_key, if_match, if_none_match, limit, nodes};
use super::refusal;
use crate::page::LIMIT_MAX;
use std::collections::BTreeSet;
use utoipa::openapi::path::{HttpMethod, OperationBuilder, Parameter, ParameterIn};
use utoipa::openapi::request_body::RequestBodyBuilder;
use utoipa::openapi::security::SecurityRequirement;
use utoipa::openapi::{Ref, Required};

/// The name of the way in which one proves who one is.
pub(super) const SECURITY: &str = "bearer";

/// One operation.
pub(super) struct Operation {
    pub(super) method: HttpMethod,
    pub(super) path: String,
    inner: OperationBuilder,
    refusals: BTreeSet<u16>,
}

impl Operation {
    /// An operation that needs a token.
    pub(super) fn new(method: HttpMethod, path: &str, id: &str, tag: &str) -> Self {
        let inner = OperationBuilder::new()
            .operation_id(Some(id))
            .tag(tag)
            .security(SecurityRequirement::new(SECURITY, [""; 0]));
        Self { method, path: path.to_owned(), inner, refusals: [400, 401, 403, 500, 503].into() }
    }

    /// A GET.
    pub(super) fn get(path: &str, id: &str, tag: &str) -> Self {
        Self::new(HttpMethod::Get, path, id, tag)
    }

    /// A POST, whose answer is kept for repeats.
    pub(super) fn post(path: &str, id: &str, tag: &str) -> Self {
        Self::new(HttpMethod::Post, path, id, tag).takes(idempotency_key()).refuses(&[409])
    }

    /// A GET that needs no token, and refuses nobody.
    pub(super) fn open(path: &str, id: &str, tag: &str) -> Self {
        let inner = OperationBuilder::new()
            .operation_id(Some(id))
            .tag(tag)
            .securities(Some(Vec::<SecurityRequirement>::new()));
        Self { method: HttpMethod::Get, path: path.to_owned(), inner, refusals: BTreeSet::new() }
    }

    /// What it does: in short, and all of it.
    pub(super) fn says(mut self, summary: &str, description: &str) -> Self {
        self.inner = self.inner.summary(Some(summary)).description(Some(description));
        self
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
        self.takes(limit(LIMIT_MAX)).takes(cursor())
    }

    /// Takes the tag of what is known, and answers 304 then.
    pub(super) fn known(self) -> Self {
        let known = Answers::new(304, "It has the tag that is known.", Vec::new());
        self.takes(if_none_match()).answers(known.with(&["ETag", "Tollgate-Revision"]))
    }

    /// The same of what no revision has.
    pub(super) fn known_by_tag(self) -> Self {
        let known = Answers::new(304, "It has the tag that is known.", Vec::new());
        self.takes(if_none_match()).answers(known.with(&["ETag"]))
    }

    /// Takes the parameters of what makes a revision.
    pub(super) fn staged(self) -> Self {
        self.takes(dry_run()).takes(nodes()).refuses(&[409, 422])
    }

    /// Takes the parameters of what changes a resource that was seen before.
    pub(super) fn guarded(self) -> Self {
        self.takes(if_match()).staged().refuses(&[412, 428])
    }

    /// Takes a body.
    pub(super) fn reads(mut self, required: Required, bodies: Vec<Body>) -> Self {
        let body = RequestBodyBuilder::new().required(Some(required));
        let bodies = bodies.into_iter().map(Body::content);
        let body = bodies.fold(body, |body, (kind, content)| body.content(kind, content));
        self.inner = self.inner.request_body(Some(body.build()));
        self.refuses(&[408, 413, 422])
    }

    /// Answers so.
    pub(super) fn answers(mut self, answers: Answers) -> Self {
        self.inner = self.inner.response(answers.status.to_string(), answers.build());
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
            operation.response(status.to_string(), Ref::from_response_name(refusal::name(status)))
        })
    }
}
