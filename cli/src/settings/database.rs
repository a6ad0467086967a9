//! The database's URL. Invariant: whatever prints one prints no password.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::path::Path;
use std::str::FromStr;

/// Instead of a password.
const HIDDEN: &str = "***";

/// `sqlite://path` or `postgres://…`.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct DatabaseUrl(String);

impl DatabaseUrl {
    /// `tollgate.db` in the data folder.
    pub(crate) fn embedded(data: &Path) -> Self {
        Self(format!("sqlite://{}", data.join("tollgate.db").display()))
    }

    /// All of it, with its password.
    pub(crate) fn revealed(&self) -> &str {
        &self.0
    }

    /// Whether it is a server's, which may be away.
    pub(crate) fn is_remote(&self) -> bool {
        !self.0.starts_with("sqlite:")
    }
}

impl FromStr for DatabaseUrl {
    type Err = &'static str;

    /// Never says what was given: it may hold a password.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const SCHEMES: [&str; 3] = ["sqlite:", "postgres://", "postgresql://"];
        let known = SCHEMES.iter().any(|scheme| text.starts_with(scheme));
        let readable = text.starts_with("sqlite:") || reqwest::Url::parse(text).is_ok();
        match known && readable {
            true => Ok(Self(text.to_owned())),
            false => Err(
                "it is not a database; write one like `sqlite://data/tollgate.db` or `postgres://user@host/name`",
            ),
        }
    }
}

impl fmt::Display for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let url = match reqwest::Url::parse(&self.0) {
            Ok(url) if self.is_remote() => url,
            _ => return f.write_str(&self.0),
        };
        // libpq's way of writing it among the parameters, too.
        let secret = |name: &str| name.eq_ignore_ascii_case("password");
        let pairs: Vec<(String, String)> = url
            .query_pairs()
            .map(|(name, value)| match secret(&name) {
                true => (name.into_owned(), HIDDEN.to_owned()),
                false => (name.into_owned(), value.into_owned()),
            })
            .collect();
        let mut shown = url.clone();
        if url.password().is_some() && shown.set_password(Some(HIDDEN)).is_err() {
            return write!(f, "{}://{HIDDEN}", url.scheme());
        }
        if pairs.iter().any(|(name, _)| secret(name)) {
            shown.query_pairs_mut().clear().extend_pairs(pairs);
        }
        f.write_str(shown.as_str())
    }
}

impl fmt::Debug for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl Serialize for DatabaseUrl {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for DatabaseUrl {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_never_shown() {
        for (url, shown) in [
            ("sqlite://data/tollgate.db", "sqlite://data/tollgate.db"),
            ("postgres://u:s3cret@db:5432/t", "postgres://u:***@db:5432/t"),
            ("postgresql://u@db/t", "postgresql://u@db/t"),
            (
                "postgres://db/t?password=s3cret&sslmode=require",
                "postgres://db/t?password=***&sslmode=require",
            ),
            ("postgres://u:s3cret@db/t?Password=s3cret", "postgres://u:***@db/t?Password=***"),
        ] {
            let parsed: DatabaseUrl = url.parse().expect("a database");
            assert_eq!(parsed.to_string(), shown);
            assert_eq!(format!("{parsed:?}"), shown);
            assert_eq!(serde_json::to_value(&parsed).expect("text"), shown);
            assert_eq!(parsed.revealed(), url);
        }
    }

    #[test]
    fn what_is_no_database_is_not_echoed() {
        for url in ["mysql://u:s3cret@db/t", "s3cret", "postgres:s3cret", "postgres://u:s3cret@:x/"]
        {
            let error = url.parse::<DatabaseUrl>().expect_err(url);
            assert!(!error.contains("s3cret"), "{error}");
        }
    }
}
