//! Where the database is: the URL, and what may be shown of it.
//!
//! Invariant: a password appears in no error and no label, wherever in the URL it stands.

use crate::OpenError;
use sqlx::ConnectOptions as _;
use sqlx::any::AnyConnectOptions;
use sqlx::postgres::PgConnectOptions;
use std::str::FromStr as _;

/// What a URL may say after `?`. Another name is taken for a slip: what follows it could be a password.
const PARAMETERS: [&str; 18] = [
    "sslmode",
    "ssl-mode",
    "sslrootcert",
    "ssl-root-cert",
    "ssl-ca",
    "sslcert",
    "ssl-cert",
    "sslkey",
    "ssl-key",
    "statement-cache-capacity",
    "host",
    "hostaddr",
    "port",
    "dbname",
    "user",
    "password",
    "application_name",
    "options",
];

/// Where the database is.
#[derive(Clone)]
pub(super) struct Target {
    /// For those who run statements.
    pub(super) any: AnyConnectOptions,
    /// For the one who listens.
    pub(super) own: PgConnectOptions,
}

impl Target {
    /// Errors say nothing of the URL but its parameters' names: whatever is wrong with it, a password may stand there.
    pub(super) fn parse(url: &str) -> Result<Self, OpenError> {
        let any = AnyConnectOptions::from_str(url).map_err(|_| OpenError::BadUrl)?;
        let own = PgConnectOptions::from_str(url).map_err(|_| OpenError::BadUrl)?;
        for (name, _) in any.database_url.query_pairs() {
            if PARAMETERS.contains(&&*name) || name.starts_with("options[") {
                continue;
            }
            // A `?` in a password that is not encoded makes the rest of it a name.
            let is_word = name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
            return Err(if is_word {
                OpenError::UnknownParameter(name.into_owned())
            } else {
                OpenError::BadUrl
            });
        }
        let (any, own) = (any.disable_statement_logging(), own.disable_statement_logging());
        Ok(Self { any, own })
    }

    pub(super) fn label(&self) -> String {
        let database = self.own.get_database().unwrap_or_else(|| self.own.get_username());
        match self.own.get_socket() {
            Some(socket) => format!("postgres://{}/{database}", socket.display()),
            None => {
                format!("postgres://{}:{}/{database}", self.own.get_host(), self.own.get_port())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_of_a_url_is_no_secret() {
        let secret = "s3cret%2F";
        for (url, label) in [
            ("postgres://ann:S@db.example/tollgate", "postgres://db.example:5432/tollgate"),
            ("postgresql://ann:S@[::1]:6000", "postgres://[::1]:6000/ann"),
            ("postgres:///x?host=/run/pg&user=ann&password=S", "postgres:///run/pg/x"),
        ] {
            let target = Target::parse(&url.replace('S', secret)).unwrap();
            assert_eq!(target.label(), label);
        }
        for url in [
            "postgres://ann:S@db.example:port/x",
            "postgres://ann:12?S@db.example/x",
            "postgres://ann@db.example/x?sslmode=S",
            "postgres://ann@db.example/x?pasword=S",
            "postgres://ann:%ff@S/x",
        ] {
            let error = Target::parse(&url.replace('S', secret)).map(drop).unwrap_err();
            let said = format!("{error} {error:?}");
            assert!(!said.contains("s3cret"), "{url}: {said}");
        }
    }
}
