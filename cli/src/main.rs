//! `tollgate`: the one binary. Composes the roles and holds the tools around them.

mod check;
mod demo;
mod log;
mod migrate;
mod node;
mod pack;
mod ports;
mod scenario;
mod schema;
mod serve;
mod settings;
mod status;
mod token;

use clap::{Parser, Subcommand};
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
    Schema(schema::Schema),
    Scenario(scenario::Scenario),
    Token(token::Token),
    Pack(pack::Pack),
    Migrate(migrate::Migrate),
}

/// How a command ended: 0, or 1 when what was asked for was refused. Usage errors end with 2 in clap.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ending {
    Done,
    Refused,
}

fn main() -> ExitCode {
    // One TLS provider for the process, before anything makes a client (docs/adr/0002).
    let _ = rustls::crypto::ring::default_provider().install_default();
    let arguments = Arguments::parse();
    let ended = match arguments.command {
        Command::Demo(command) => command.run(),
        Command::Serve(command) => command.run(),
        Command::Check(command) => command.run(),
        Command::Schema(command) => command.run(),
        Command::Scenario(command) => command.run(),
        Command::Token(command) => command.run(),
        Command::Pack(command) => command.run(),
        Command::Migrate(command) => command.run(),
    };
    match ended {
        Ok(Ending::Done) => ExitCode::SUCCESS,
        Ok(Ending::Refused) => ExitCode::from(1),
        Err(error) => {
            say(&format!("tollgate: {error:#}"));
            ExitCode::from(1)
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
