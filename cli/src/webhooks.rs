//! `tollgate webhooks`: where events go, what became of them, and what an operator or a receiver does about it.
//!
//! `listen` is the receiver's: it speaks to the gateway with a consumer's credential. The others speak to the admin API.

mod change;
mod deliveries;
mod listen;
mod replay;
mod show;

use crate::Ending;
use clap::{Args, Subcommand};

/// Shows what became of events, sends them again, and receives them without a public address.
#[derive(Args)]
pub(crate) struct Webhooks {
    #[command(subcommand)]
    command: WebhooksCommand,
}

#[derive(Subcommand)]
enum WebhooksCommand {
    Endpoints(deliveries::Endpoints),
    Deliveries(deliveries::Deliveries),
    Show(show::Show),
    Retry(change::Retry),
    Discard(change::Discard),
    Ping(change::Ping),
    Replay(replay::Replay),
    Listen(Box<listen::Listen>),
}

impl Webhooks {
    pub(crate) fn run(self) -> anyhow::Result<Ending> {
        match self.command {
            WebhooksCommand::Endpoints(command) => command.run(),
            WebhooksCommand::Deliveries(command) => command.run(),
            WebhooksCommand::Show(command) => command.run(),
            WebhooksCommand::Retry(command) => command.run(),
            WebhooksCommand::Discard(command) => command.run(),
            WebhooksCommand::Ping(command) => command.run(),
            WebhooksCommand::Replay(command) => command.run(),
            WebhooksCommand::Listen(command) => command.run(),
        }
    }
}
