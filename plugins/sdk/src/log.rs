//! Lines for the operator's log. Capability `log`.
//!
//! The host marks each line with the pack and the request, cuts long ones and drops those beyond its limits. In tests, lines
//! go to standard error.

/// How much a line matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Level {
    /// For whoever develops the pack.
    Debug,
    /// Of interest.
    Info,
    /// Should be looked at.
    Warn,
    /// Went wrong.
    Error,
}

/// Writes one line.
pub fn write(level: Level, message: &str) {
    #[cfg(target_arch = "wasm32")]
    crate::abi::log(level, message);
    #[cfg(not(target_arch = "wasm32"))]
    eprintln!("{level:?}: {message}");
}

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

/// Has a panic say where and why before it ends the decision. Call it in [`crate::Policy::new`]; a pack that doesn't needs no
/// capability `log`, and its panics say nothing.
pub fn report_panics() {
    #[cfg(target_arch = "wasm32")]
    std::panic::set_hook(Box::new(|panic| error(&panic.to_string())));
}
