//! What conditions can read. A field is asked for when a condition is evaluated that reads it, and not before.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use cel::common::traits::{Container, Indexer};
use cel::common::types::{CelInt, CelString, Type};
use cel::common::value::{CowVal, Val};
use cel::{Context, ExecutionError, Value};
use tollgate_pack::serde_json::Value as Json;
use tollgate_pack::{Request, Response};

/// What is judged.
#[derive(Clone, Copy)]
pub(crate) struct Exchange<'r> {
    pub(crate) request: &'r Request,
    pub(crate) response: Option<&'r Response>,
}

/// Something with fields.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Of {
    Request,
    RequestHeaders,
    Params,
    Caller,
    Claims,
    Time,
    Data,
    Response,
    ResponseHeaders,
}

/// The fields of something.
#[derive(Clone, Copy)]
struct Fields<'r> {
    of: Of,
    exchange: Exchange<'r>,
}

static FIELDS: Type = Type::new_unspecified_type("tollgate.fields");

/// What conditions can name.
pub(crate) const NAMES: [(&str, Of); 6] = [
    ("request", Of::Request),
    ("caller", Of::Caller),
    ("claims", Of::Claims),
    ("time", Of::Time),
    ("data", Of::Data),
    ("response", Of::Response),
];

impl Of {
    /// The names of the fields; none where any name may be a field.
    pub(crate) fn names(self) -> Option<&'static [&'static str]> {
        match self {
            Self::Request => Some(&[
                "method",
                "path",
                "query",
                "params",
                "headers",
                "body_size",
                "address",
                "route",
                "version",
            ]),
            Self::Caller => Some(&["tenant", "plan", "consumer", "scopes"]),
            Self::Time => Some(&["unix", "year", "month", "day", "weekday", "hour", "minute"]),
            Self::Response => Some(&["status", "headers"]),
            Self::RequestHeaders
            | Self::Params
            | Self::Claims
            | Self::Data
            | Self::ResponseHeaders => None,
        }
    }
}

impl<'r> Exchange<'r> {
    /// Makes its parts known by their names.
    pub(crate) fn name_in(self, context: &mut Context<'_, 'r>) {
        for (name, of) in NAMES {
            context.add_variable_as_val(name, Box::new(Fields { of, exchange: self }));
        }
    }
}

impl Fields<'_> {
    fn field<'v>(&self, name: &str) -> Option<Box<dyn Val + 'v>>
    where
        Self: 'v,
    {
        let Exchange { request, response } = self.exchange;
        let text = |text: String| Some(boxed(CelString::from(text)));
        let bytes = |value: Option<Vec<u8>>| value.and_then(|value| text(lossy(value)));
        let number = |number: i64| Some(boxed(CelInt::from(number)));
        let fields = |of| Some(boxed(Fields { of, exchange: self.exchange }));
        match (self.of, name) {
            (Of::Request, "method") => text(request.method()),
            (Of::Request, "path") => text(request.path()),
            (Of::Request, "query") => text(request.query().unwrap_or_default()),
            (Of::Request, "params") => fields(Of::Params),
            (Of::Request, "headers") => fields(Of::RequestHeaders),
            (Of::Request, "body_size") => number(i64::try_from(request.body_size()?).ok()?),
            (Of::Request, "address") => text(request.client_address()),
            (Of::Request, "route") => text(request.route()),
            (Of::Request, "version") => text(request.version()),
            (Of::Params, name) => text(request.query_param(name)?),
            (Of::RequestHeaders, name) => bytes(request.header(name)),
            (Of::Caller, "tenant") => text(request.tenant()),
            (Of::Caller, "plan") => text(request.plan()),
            (Of::Caller, "consumer") => text(request.consumer()),
            (Of::Caller, "scopes") => {
                let scopes = request.scopes().into_iter().map(Value::from);
                Value::List(Arc::new(scopes.collect())).try_into().ok()
            }
            (Of::Claims, name) => value(request.claim_as(name)?).try_into().ok(),
            (Of::Time, name) => time(request, name),
            (Of::Data, name) => bytes(request.data(name)),
            (Of::Response, "status") => number(response?.status().into()),
            (Of::Response, "headers") => fields(Of::ResponseHeaders),
            (Of::ResponseHeaders, name) => bytes(response?.header(name)),
            (Of::Request | Of::Caller | Of::Response, _) => None,
        }
    }
}

/// The time of the exchange, in the time zone of the tenant.
fn time<'v>(request: &Request, name: &str) -> Option<Box<dyn Val + 'v>> {
    let number = |number: i64| Some(boxed(CelInt::from(number)));
    if name == "unix" {
        return number(i64::try_from(request.now() / 1_000_000).ok()?);
    }
    let now = request.local_time(None)?;
    match name {
        "year" => number(now.year.into()),
        "month" => number(now.month.into()),
        "day" => number(now.day.into()),
        "weekday" => number(now.weekday.iso().into()),
        "hour" => number(now.hour.into()),
        "minute" => number(now.minute.into()),
        _ => None,
    }
}

/// A claim. What neither 64-bit type of whole numbers holds becomes a floating-point number.
fn value(json: Json) -> Value {
    match json {
        Json::Null => Value::Null,
        Json::Bool(truth) => truth.into(),
        Json::String(text) => text.into(),
        Json::Number(number) => {
            let whole =
                number.as_i64().map(Value::Int).or_else(|| number.as_u64().map(Value::UInt));
            whole.unwrap_or_else(|| Value::Float(number.as_f64().unwrap_or(f64::NAN)))
        }
        Json::Array(items) => Value::List(Arc::new(items.into_iter().map(value).collect())),
        Json::Object(members) => {
            let members = members.into_iter().map(|(name, json)| (name, value(json)));
            members.collect::<HashMap<_, _>>().into()
        }
    }
}

fn boxed<'v>(value: impl Val + 'v) -> Box<dyn Val + 'v> {
    Box::new(value)
}

fn lossy(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes)
        .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
}

impl fmt::Debug for Fields<'_> {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str("fields")
    }
}

impl Val for Fields<'_> {
    fn get_type(&self) -> &Type {
        &FIELDS
    }

    fn cel_type() -> &'static Type {
        &FIELDS
    }

    fn as_indexer<'b, 'v>(&'b self) -> Option<&'b (dyn Indexer + 'v)>
    where
        Self: 'v,
    {
        Some(self)
    }

    fn as_container(&self) -> Option<&dyn Container> {
        Some(self)
    }

    fn clone_as_boxed<'v>(&self) -> Box<dyn Val + 'v>
    where
        Self: 'v,
    {
        Box::new(*self)
    }
}

impl Indexer for Fields<'_> {
    fn get<'b, 'v>(&'b self, name: &dyn Val) -> Result<CowVal<'b, 'v>, ExecutionError>
    where
        Self: 'v,
    {
        let name = key(name)?;
        self.field(name).map(CowVal::Owned).ok_or_else(|| ExecutionError::no_such_key(name))
    }

    fn steal<'v>(self: Box<Self>, name: &dyn Val) -> Result<Box<dyn Val + 'v>, ExecutionError>
    where
        Self: 'v,
    {
        self.get(name).map(CowVal::into_owned)
    }
}

impl Container for Fields<'_> {
    fn contains(&self, name: &dyn Val) -> Result<bool, ExecutionError> {
        Ok(self.field(key(name)?).is_some())
    }
}

fn key(name: &dyn Val) -> Result<&str, ExecutionError> {
    let name = name.downcast_ref::<CelString<'_>>().map(CelString::inner);
    name.ok_or_else(|| ExecutionError::UnexpectedType {
        got: "another type".to_owned(),
        want: "string".to_owned(),
    })
}
