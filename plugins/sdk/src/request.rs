//! A request made by a test. Same methods as the one that the host lends.

use serde_json::{Map, Value};

/// One request and its caller.
#[derive(Clone, Debug)]
pub struct Request {
    parts: Parts,
}

#[derive(Clone, Debug)]
struct Parts {
    method: String,
    path: String,
    query: Option<String>,
    headers: Vec<(String, Vec<u8>)>,
    client_address: String,
    route: String,
    version: String,
    tenant: String,
    consumer: String,
    scopes: Vec<String>,
    claims: Map<String, Value>,
}

impl Request {
    /// Begins a request: `GET /` without headers, of consumer `consumer` of tenant `tenant` on route `route`, version
    /// `v1`, from 127.0.0.1.
    pub fn builder() -> RequestBuilder {
        RequestBuilder {
            parts: Parts {
                method: "GET".to_owned(),
                path: "/".to_owned(),
                query: None,
                headers: Vec::new(),
                client_address: "127.0.0.1".to_owned(),
                route: "route".to_owned(),
                version: "v1".to_owned(),
                tenant: "tenant".to_owned(),
                consumer: "consumer".to_owned(),
                scopes: Vec::new(),
                claims: Map::new(),
            },
        }
    }

    /// The method, such as `POST`.
    pub fn method(&self) -> String {
        self.parts.method.clone()
    }

    /// The path as it was sent, percent-encoded, starting with `/`.
    pub fn path(&self) -> String {
        self.parts.path.clone()
    }

    /// The query as it was sent, without `?`.
    pub fn query(&self) -> Option<String> {
        self.parts.query.clone()
    }

    /// The first value of this query parameter, decoded.
    pub fn query_param(&self, name: &str) -> Option<String> {
        form_urlencoded::parse(self.parts.query.as_ref()?.as_bytes())
            .find(|(found, _)| found == name)
            .map(|(_, value)| value.into_owned())
    }

    /// The first line of this header.
    pub fn header(&self, name: &str) -> Option<Vec<u8>> {
        self.headers_all(name).into_iter().next()
    }

    /// Every line of this header, in order.
    pub fn headers_all(&self, name: &str) -> Vec<Vec<u8>> {
        let lines = self.parts.headers.iter();
        lines
            .filter(|(held, _)| held.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.clone())
            .collect()
    }

    /// The names of the headers, in lower case, each once.
    pub fn header_names(&self) -> Vec<String> {
        let mut names = Vec::new();
        for (name, _) in &self.parts.headers {
            if !names.contains(name) {
                names.push(name.clone());
            }
        }
        names
    }

    /// The address of the peer of the connection.
    pub fn client_address(&self) -> String {
        self.parts.client_address.clone()
    }

    /// The id of the matched route.
    pub fn route(&self) -> String {
        self.parts.route.clone()
    }

    /// The resolved version of the API.
    pub fn version(&self) -> String {
        self.parts.version.clone()
    }

    /// The id of the caller's tenant.
    pub fn tenant(&self) -> String {
        self.parts.tenant.clone()
    }

    /// The id of the caller's consumer.
    pub fn consumer(&self) -> String {
        self.parts.consumer.clone()
    }

    /// What the caller's credential may do.
    pub fn scopes(&self) -> Vec<String> {
        self.parts.scopes.clone()
    }

    /// A claim of the caller's JWT as JSON text.
    pub fn claim(&self, name: &str) -> Option<String> {
        self.parts.claims.get(name).map(Value::to_string)
    }
}

/// Makes a [`Request`] for a test.
#[derive(Clone, Debug)]
pub struct RequestBuilder {
    parts: Parts,
}

impl RequestBuilder {
    /// Sets the method.
    #[must_use]
    pub fn method(mut self, method: &str) -> Self {
        method.clone_into(&mut self.parts.method);
        self
    }

    /// Sets the path.
    #[must_use]
    pub fn path(mut self, path: &str) -> Self {
        path.clone_into(&mut self.parts.path);
        self
    }

    /// Sets the query, percent-encoded, without `?`.
    #[must_use]
    pub fn query(mut self, query: &str) -> Self {
        self.parts.query = Some(query.to_owned());
        self
    }

    /// Adds a header line.
    #[must_use]
    pub fn header(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.parts.headers.push((name.to_ascii_lowercase(), value.as_ref().to_vec()));
        self
    }

    /// Sets the address of the peer.
    #[must_use]
    pub fn client_address(mut self, address: &str) -> Self {
        address.clone_into(&mut self.parts.client_address);
        self
    }

    /// Sets the id of the route.
    #[must_use]
    pub fn route(mut self, route: &str) -> Self {
        route.clone_into(&mut self.parts.route);
        self
    }

    /// Sets the version of the API.
    #[must_use]
    pub fn version(mut self, version: &str) -> Self {
        version.clone_into(&mut self.parts.version);
        self
    }

    /// Sets the ids of the caller.
    #[must_use]
    pub fn caller(mut self, tenant: &str, consumer: &str) -> Self {
        tenant.clone_into(&mut self.parts.tenant);
        consumer.clone_into(&mut self.parts.consumer);
        self
    }

    /// Adds a scope.
    #[must_use]
    pub fn scope(mut self, scope: &str) -> Self {
        self.parts.scopes.push(scope.to_owned());
        self.parts.scopes.sort_unstable();
        self.parts.scopes.dedup();
        self
    }

    /// Adds a claim.
    #[must_use]
    pub fn claim(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.parts.claims.insert(name.to_owned(), value.into());
        self
    }

    /// Ends the building.
    pub fn build(self) -> Request {
        Request { parts: self.parts }
    }
}
