//! Where log lines go: standard error, as text on a terminal and as JSON elsewhere. `TOLLGATE_LOG` sets the level.

use std::io::IsTerminal as _;
use tracing_subscriber::EnvFilter;

/// Starts logging. `default` holds unless `TOLLGATE_LOG` says otherwise.
pub(crate) fn start(default: &str) {
    let filter =
        EnvFilter::try_from_env("TOLLGATE_LOG").unwrap_or_else(|_| EnvFilter::new(default));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let started = if std::io::stderr().is_terminal() {
        builder.try_init()
    } else {
        builder.json().flatten_event(true).try_init()
    };
    if started.is_err() {
        crate::say("tollgate: logging was started twice");
    }
}
