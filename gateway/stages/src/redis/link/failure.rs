//! Why a command has no answer, and what that says of what was written.

use model::port::StoreError;
use redis::{ErrorKind, RedisError, ServerErrorKind};
use std::time::Duration;

/// Why a command has no answer.
#[derive(Clone, Debug)]
pub(in crate::redis) enum Failure {
    /// It was not sent.
    NotSent(StoreError),
    /// It may have been done.
    TimedOut(Duration),
    /// The connection broke; it may have been done.
    Unanswered(RedisError),
    /// Redis refused it: nothing was written.
    Refused(RedisError),
}

impl Failure {
    /// What an error of the client means.
    pub(super) fn of(error: RedisError) -> Self {
        // What Redis answers has a code.
        if error.code().is_some() { Self::Refused(error) } else { Self::Unanswered(error) }
    }

    /// The same for each of so many commands that shared it.
    pub(super) fn of_all<T>(self, count: usize) -> Vec<Result<T, Self>> {
        (0..count).map(|_| Err(self.clone())).collect()
    }

    /// Whether Redis does not know the script.
    pub(in crate::redis) fn is_unknown_script(&self) -> bool {
        matches!(self, Self::Refused(error)
            if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript))
    }

    /// Why the connection that it came by is of no more use, if it is not.
    pub(super) fn spoils_connection(&self) -> Option<String> {
        match self {
            Self::NotSent(_) | Self::TimedOut(_) => None,
            Self::Unanswered(error) => Some(error.to_string()),
            Self::Refused(error) => {
                let is_spoiled = matches!(code_of(error), "READONLY" | "NOAUTH" | "MASTERDOWN");
                is_spoiled.then(|| error.to_string())
            }
        }
    }
}

impl From<Failure> for StoreError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::NotSent(error) => error,
            Failure::TimedOut(waited) => Self::TimedOut(waited),
            Failure::Unanswered(error) => Self::Unanswered(error.to_string()),
            Failure::Refused(error) => match code_of(&error) {
                "OOM" => Self::Full("Redis' memory"),
                // Redis is well; what it holds under these keys, or what it was asked, is not.
                "WRONGTYPE" | "ERR" => Self::Unreadable(error.to_string()),
                _ => Self::Unavailable(error.to_string()),
            },
        }
    }
}

/// The code of an error that Redis answered; also of one within a script, which Redis 6 wraps into an `ERR`.
fn code_of(error: &RedisError) -> &str {
    let code = error.code().unwrap_or_default();
    let within = error.detail().and_then(|detail| detail.split_once(": -"));
    match within.and_then(|(_, inner)| inner.split_whitespace().next()) {
        Some(inner) if code == "ERR" => inner,
        _ => code,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_say_whether_redis_is_well_and_what_was_written() {
        let table = [
            ("OOM command not allowed when used memory > 'maxmemory'. script: 1f", "full"),
            // As Redis 6 tells what happened within a script.
            (
                "ERR Error running script (call to f_1f): @user_script:9: -OOM command not allowed",
                "full",
            ),
            (
                "ERR Error running script (call to f_1f): @user_script:9: -READONLY You can't write",
                "not available",
            ),
            ("READONLY You can't write against a read only replica.", "not available"),
            ("LOADING Redis is loading the dataset in memory", "not available"),
            ("CLUSTERDOWN The cluster is down", "not available"),
            ("MISCONF Redis is configured to save RDB snapshots", "not available"),
            ("BUSY Redis is busy running a script", "not available"),
            ("NOPERM this user has no permissions to run the 'evalsha' command", "not available"),
            ("WRONGTYPE Operation against a key holding the wrong kind of value", "can't be read"),
            ("ERR user_script:3: attempt to compare nil with number", "can't be read"),
        ];
        for (text, said) in table {
            let value = redis::parse_redis_value(format!("-{text}\r\n").as_bytes()).unwrap();
            let error = Failure::of(value.extract_error().unwrap_err());
            let error = StoreError::from(error);
            assert!(error.to_string().contains(said), "{text}: {error}");
        }
    }

    #[test]
    fn a_connection_that_breaks_leaves_open_what_was_done() {
        let broken = std::io::Error::from(std::io::ErrorKind::BrokenPipe);
        let failure = Failure::of(broken.into());
        assert!(failure.spoils_connection().is_some());
        assert!(matches!(StoreError::from(failure), StoreError::Unanswered(_)));
    }
}
