//! Which route a request is for. The version in the path is any first segment here; it is judged later.

use crate::cost::CostHeader;
use crate::packs::Attached;
use http::{HeaderValue, Method, header};
use matchit::Router;
use model::document::Idempotency;
use model::id::RouteId;
use model::quota::Terms;
use model::record::RecordMode;
use model::{ErrorCode, Head, Reject};
use stages::authenticate::Requirement;
use stages::version::Service;
use std::borrow::Cow;
use std::sync::Arc;

/// A published path and the rules that guard it, compiled.
pub struct Route {
    /// Its id.
    pub id: RouteId,
    /// The service whose versions it has.
    pub service: Arc<Service>,
    /// What it asks of callers.
    pub requirement: Requirement,
    /// How it treats Idempotency-Key.
    pub idempotency: Option<Idempotency>,
    /// The largest body, in bytes.
    pub body_limit: usize,
    /// What a request costs.
    pub cost: u32,
    /// The header of the answer that says what it cost in the end.
    pub cost_header: Option<CostHeader>,
    /// What is charged to quotas that would not be.
    pub terms: Terms,
    /// Whether the upstream gets the client's credentials.
    pub forward_credentials: bool,
    /// Which of its exchanges leave a decision record.
    pub record: RecordMode,
    /// The packs that decide.
    pub attached: Arc<Attached>,
}

/// The route of one request.
#[derive(Clone)]
pub struct Matched {
    route: Arc<Route>,
    head: Arc<Head>,
    /// Where the path without the version begins; 0 when the version is not in the path.
    split: usize,
}

impl Matched {
    /// The route.
    pub fn route(&self) -> &Arc<Route> {
        &self.route
    }

    /// The path's first segment where the version may stand.
    pub fn segment(&self) -> Option<&str> {
        self.head.path.get(1..self.split)
    }

    /// The path without the version, as it was sent.
    pub fn path(&self) -> &str {
        self.head.path.get(self.split..).unwrap_or_default()
    }
}

/// The routes of one pattern, by method.
#[derive(Default)]
struct Entry {
    routes: Vec<(Method, Arc<Route>)>,
    versioned: bool,
}

impl Entry {
    fn of(&self, method: &Method) -> Option<&Arc<Route>> {
        let exact = |wanted: &Method| {
            self.routes.iter().find(|(taken, _)| taken == wanted).map(|(_, route)| route)
        };
        // RFC 9110 §9.3.2: HEAD is GET without a body.
        exact(method).or_else(|| (method == Method::HEAD).then(|| exact(&Method::GET)).flatten())
    }

    fn allow(&self) -> HeaderValue {
        let mut names: Vec<&str> = self.routes.iter().map(|(method, _)| method.as_str()).collect();
        if names.contains(&"GET") && !names.contains(&"HEAD") {
            names.push("HEAD");
        }
        HeaderValue::try_from(names.join(", ")).expect("method names are tokens")
    }
}

/// Every route of a revision.
#[derive(Default)]
pub struct RouteTable {
    router: Router<usize>,
    entries: Vec<Entry>,
}

/// A path template that can't stand beside the others.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct PathConflict(String);

impl RouteTable {
    /// Adds a route for these methods, under any first segment where the version is in the path, and without one where
    /// it may be named otherwise.
    pub fn insert(
        &mut self,
        template: &str,
        methods: &[Method],
        route: &Arc<Route>,
    ) -> Result<(), PathConflict> {
        use model::document::Select;
        let by_path = route.service.select.contains(&Select::Path);
        let otherwise = route.service.select.iter().any(|way| *way != Select::Path);
        if by_path {
            self.insert_pattern(format!("/{{v}}{template}"), true, methods, route)?;
        }
        if otherwise {
            self.insert_pattern(template.to_owned(), false, methods, route)?;
        }
        Ok(())
    }

    fn insert_pattern(
        &mut self,
        pattern: String,
        versioned: bool,
        methods: &[Method],
        route: &Arc<Route>,
    ) -> Result<(), PathConflict> {
        let pattern = canonical(&pattern);
        let index = match self.router.insert(pattern.as_str(), self.entries.len()) {
            Ok(()) => {
                self.entries.push(Entry { routes: Vec::new(), versioned });
                self.entries.len() - 1
            }
            Err(error) => match self.router.at_mut(&pattern) {
                // The very pattern is there already; a template matches itself.
                Ok(found) if is_same(&error, &pattern) => *found.value,
                _ => return Err(PathConflict(format!("overlaps with another route: {error}"))),
            },
        };
        let entry = self.entries.get_mut(index).expect("the router only holds indices of entries");
        if entry.versioned != versioned {
            return Err(PathConflict(
                "is ambiguous with a route whose path holds a version".to_owned(),
            ));
        }
        entry.routes.extend(methods.iter().map(|method| (method.clone(), route.clone())));
        Ok(())
    }

    /// The route of this head.
    pub fn find(&self, head: &Arc<Head>) -> Result<Matched, Reject> {
        let path = normalised(&head.path);
        let found = self.router.at(&path).map_err(|_| Reject::new(ErrorCode::RouteNotFound))?;
        let entry =
            self.entries.get(*found.value).expect("the router only holds indices of entries");
        let route = entry.of(&head.method).ok_or_else(|| {
            Reject::new(ErrorCode::MethodNotAllowed).header(header::ALLOW, entry.allow())
        })?;
        let split = match entry.versioned {
            true => head.path.match_indices('/').nth(1).map_or(head.path.len(), |(at, _)| at),
            false => 0,
        };
        Ok(Matched { route: route.clone(), head: head.clone(), split })
    }
}

/// The pattern with parameters named by their position, so that two routes may name them differently.
fn canonical(pattern: &str) -> String {
    let mut count = 0;
    let segments = pattern.split('/').map(|segment| {
        count += 1;
        match segment.strip_prefix('{') {
            Some(name) if name.starts_with('*') => format!("{{*p{count}}}"),
            Some(_) => format!("{{p{count}}}"),
            None => segment.to_owned(),
        }
    });
    segments.collect::<Vec<_>>().join("/")
}

fn is_same(error: &matchit::InsertError, pattern: &str) -> bool {
    matches!(error, matchit::InsertError::Conflict { with } if with == pattern)
}

/// The path with unreserved characters decoded (RFC 3986 §6.2.2.2), for matching only.
fn normalised(path: &str) -> Cow<'_, str> {
    if !path.contains('%') {
        return Cow::Borrowed(path);
    }
    let mut decoded = String::with_capacity(path.len());
    let mut parts = path.split('%');
    decoded.push_str(parts.next().unwrap_or_default());
    for part in parts {
        let (hex, rest) = part.split_at_checked(2).unwrap_or((part, ""));
        match u8::from_str_radix(hex, 16).map(char::from) {
            Ok(c) if c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '~') => decoded.push(c),
            _ => {
                decoded.push('%');
                decoded.push_str(&hex.to_ascii_uppercase());
            }
        }
        decoded.push_str(rest);
    }
    Cow::Owned(decoded)
}

#[cfg(test)]
mod tests;
