//! Lines for the operator's log. The host bounds their length and their number per decision.

#[cfg(target_arch = "wasm32")]
use crate::abi::tollgate::policy::log::write;

pub use crate::abi::tollgate::policy::log::Level;

/// Writes a line that helps whoever develops the pack.
pub fn debug(message: &str) {
    write(Level::Debug, message);
}

/// Writes a line of interest.
pub fn info(message: &str) {
    write(Level::Info, message);
}

/// Writes a line about something that should be looked at.
pub fn warn(message: &str) {
    write(Level::Warn, message);
}

/// Writes a line about something that went wrong.
pub fn error(message: &str) {
    write(Level::Error, message);
}

/// Outside the host, where tests run, lines go to standard error.
#[cfg(not(target_arch = "wasm32"))]
fn write(level: Level, message: &str) {
    eprintln!("{level:?}: {message}");
}

/// Has a panic say where and why before it traps.
#[cfg(target_arch = "wasm32")]
pub(crate) fn report_panics() {
    std::panic::set_hook(Box::new(|panic| error(&panic.to_string())));
}
