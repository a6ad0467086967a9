//! `tollgate`: the one binary. Composes the roles and holds the tools around them.

mod apply;
mod check;
mod demo;
mod descriptors;
mod difference;
mod document;
mod export;
mod folder;
mod listener;
mod log;
mod migrate;
mod node;
mod pack;
mod parts;
mod ports;
mod ready;
mod rekey;
mod remote;
mod retention;
mod scenario;
mod schema;
mod serve;
mod settings;
mod status;
mod table;
mod token;
mod webhooks;

use clap::{Parser, Subcommand};
use std::fmt;
use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A programmable API gateway: authenticates partners, enforces quotas, routes versions, recognises repeats, runs policy
/// packs.
#[derive(Parser)]
#[command(name = "tollgate", version, max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Demo(demo::Demo),
    Serve(serve::Serve),
    Check(check::Check),
    Apply(apply::Apply),
    Export(export::Export),
    Schema(schema::Schema),
    Scenario(scenario::Scenario),
    Token(token::Token),
    Pack(pack::Pack),
    Webhooks(webhooks::Webhooks),
    /// Checks and compiles one pack for the process that starts this.
    #[command(hide = true)]
    PackWorker,
    Rekey(rekey::Rekey),
    Migrate(migrate::Migrate),
    Ready(ready::Ready),
}

/// How a command ended: 0, or 1 when what was asked for was refused. [`Misused`] ends with 2, as usage errors do in clap.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ending {
    Done,
    Refused,
}

/// It was asked wrongly, in a way that clap can't see.
#[derive(Debug)]
struct Misused(String);

impl fmt::Display for Misused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Misused {}

/// The error that says how to ask instead.
fn misused(message: impl Into<String>) -> anyhow::Error {
    Misused(message.into()).into()
}

fn main() -> ExitCode {
    // One TLS provider for the process, before anything makes a client (docs/adr/0002).
    let _ = rustls::crypto::ring::default_provider().install_default();
    let arguments = Arguments::parse();
    let ended = match arguments.command {
        Command::Demo(command) => command.run(),
        Command::Serve(command) => command.run(),
        Command::Check(command) => command.run(),
        Command::Apply(command) => command.run(),
        Command::Export(command) => command.run(),
        Command::Schema(command) => command.run(),
        Command::Scenario(command) => command.run(),
        Command::Token(command) => command.run(),
        Command::Pack(command) => command.run(),
        Command::Webhooks(command) => command.run(),
        Command::PackWorker => return pack_host::worker::serve(),
        Command::Rekey(command) => command.run(),
        Command::Migrate(command) => command.run(),
        Command::Ready(command) => command.run(),
    };
    match ended {
        Ok(Ending::Done) => ExitCode::SUCCESS,
        Ok(Ending::Refused) => ExitCode::from(1),
        Err(error) => {
            say(&format!("tollgate: {error:#}"));
            ExitCode::from(if error.is::<Misused>() { 2 } else { 1 })
        }
    }
}

/// Prints a line of what was asked for. A closed pipe is nobody's fault.
fn print(line: &str) {
    use std::io::Write as _;
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// Prints a line about how it went.
fn say(line: &str) {
    use std::io::Write as _;
    let _ = writeln!(std::io::stderr(), "{line}");
}
