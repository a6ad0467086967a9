//! `tollgate pack`: what platform teams do with packs, from an empty folder to a version that decides.
//!
//! `new`, `build`, `test`, `inspect`, `keygen`, `sign` need nothing but this binary and a compiler; the others speak to the
//! admin API.

mod attach;
mod build;
mod compile;
mod decide;
mod diff;
mod folder;
mod inspect;
mod key;
mod list;
mod new;
mod push;
mod reference;
mod standing;
mod status;
mod test;

pub(crate) use folder::Described;

use crate::Ending;
use clap::{Args, Subcommand};

/// Writes, tests, signs, ships and watches policy packs.
#[derive(Args)]
pub(crate) struct Pack {
    #[command(subcommand)]
    command: PackCommand,
}

#[derive(Subcommand)]
enum PackCommand {
    New(new::New),
    Build(build::Build),
    Test(test::Test),
    Inspect(inspect::Inspect),
    Keygen(key::Keygen),
    Sign(key::Sign),
    Push(push::Push),
    List(list::List),
    Attach(Box<attach::Attach>),
    Status(status::Status),
    Promote(decide::Promote),
    Rollback(decide::Rollback),
    Quarantine(decide::Quarantine),
    Diff(diff::Diff),
}

impl Pack {
    pub(crate) fn run(self) -> anyhow::Result<Ending> {
        match self.command {
            PackCommand::New(command) => command.run(),
            PackCommand::Build(command) => command.run(),
            PackCommand::Test(command) => command.run(),
            PackCommand::Inspect(command) => command.run(),
            PackCommand::Keygen(command) => command.run(),
            PackCommand::Sign(command) => command.run(),
            PackCommand::Push(command) => command.run(),
            PackCommand::List(command) => command.run(),
            PackCommand::Attach(command) => command.run(),
            PackCommand::Status(command) => command.run(),
            PackCommand::Promote(command) => command.run(),
            PackCommand::Rollback(command) => command.run(),
            PackCommand::Quarantine(command) => command.run(),
            PackCommand::Diff(command) => command.run(),
        }
    }
}
