//! The admin API, asked as a program asks it: with a token, and with the tag of what it has seen.

use super::call::{Answer, Call, Client};
use http::Method;
use serde_json::Value;

/// A client of the admin API with a token.
#[derive(Clone, Debug)]
pub(crate) struct Api {
    client: Client,
    token: String,
}

impl Api {
    pub(crate) fn new(client: Client, token: String) -> Self {
        Self { client, token }
    }

    /// The same API with another token.
    pub(crate) fn with(&self, token: &str) -> Self {
        Self { client: self.client.clone(), token: token.to_owned() }
    }

    /// Where it is.
    pub(crate) fn url(&self) -> &str {
        self.client.url()
    }

    pub(crate) fn token(&self) -> &str {
        &self.token
    }

    /// A request without any token.
    pub(crate) fn anonymous(&self, method: Method, path: &str) -> Call {
        self.client.call(method, path)
    }

    pub(crate) fn call(&self, method: Method, path: &str) -> Call {
        self.client.call(method, path).bearer(&self.token)
    }

    pub(crate) fn get(&self, path: &str) -> Call {
        self.call(Method::GET, path)
    }

    pub(crate) fn post(&self, path: &str) -> Call {
        self.call(Method::POST, path)
    }

    /// A resource and its tag.
    pub(crate) async fn read(&self, path: &str) -> (Value, String) {
        let answer = self.get(path).send().await;
        (answer.is(200).json(), answer.header("etag").to_owned())
    }

    /// Every item of a list, page by page.
    pub(crate) async fn items(&self, path: &str) -> Vec<Value> {
        let mut items = Vec::new();
        let mut cursor: Option<String> = None;
        loop {
            let joint = if path.contains('?') { '&' } else { '?' };
            let page = match &cursor {
                Some(cursor) => format!("{path}{joint}cursor={cursor}"),
                None => path.to_owned(),
            };
            let body = self.get(&page).send().await.is(200).json();
            items.extend(body["items"].as_array().unwrap().iter().cloned());
            match body["next_cursor"].as_str() {
                Some(next) => cursor = Some(next.to_owned()),
                None => return items,
            }
        }
    }

    /// PUT over what has this tag.
    pub(crate) fn put(&self, path: &str, value: &Value, tag: &str) -> Call {
        self.call(Method::PUT, path).header("if-match", tag).json(value)
    }

    /// PUT of what is not there yet.
    pub(crate) fn create(&self, path: &str, value: &Value) -> Call {
        self.call(Method::PUT, path).header("if-none-match", "*").json(value)
    }

    /// PATCH (JSON Merge Patch) of what has this tag.
    pub(crate) fn patch(&self, path: &str, patch: &Value, tag: &str) -> Call {
        self.call(Method::PATCH, path)
            .header("if-match", tag)
            .header("content-type", "application/merge-patch+json")
            .body(patch.to_string())
    }

    pub(crate) fn delete(&self, path: &str, tag: &str) -> Call {
        self.call(Method::DELETE, path).header("if-match", tag)
    }

    /// Replaces a resource, whatever it was.
    pub(crate) async fn replace(&self, path: &str, value: &Value) -> Answer {
        let (_, tag) = self.read(path).await;
        self.put(path, value, &tag).send().await
    }

    /// Merges a patch into a resource, whatever it was.
    pub(crate) async fn merge(&self, path: &str, patch: &Value) -> Answer {
        let (_, tag) = self.read(path).await;
        self.patch(path, patch, &tag).send().await
    }

    /// Publishes the first document of a deployment. Returns its number.
    pub(crate) async fn publish_first(&self, document: &Value) -> u64 {
        let answer = self.create("/v1/document", document).send().await;
        answer.is(200).revision()
    }

    /// Replaces the document, whatever it was. Returns the number of the revision.
    pub(crate) async fn publish(&self, document: &Value) -> u64 {
        self.replace("/v1/document", document).await.is(200).revision()
    }

    /// A new token: itself, and what the API says of it.
    pub(crate) async fn new_token(&self, asked: &Value) -> (String, Value) {
        let answer = self.post("/v1/tokens").json(asked).send().await;
        let made = answer.is(201).json();
        let token = made["token"].as_str().unwrap().to_owned();
        assert!(token.starts_with("tga_"));
        (token, made)
    }

    /// Every audit entry, newest first.
    pub(crate) async fn audit(&self) -> Vec<Value> {
        self.items("/v1/audit?limit=100").await
    }
}
