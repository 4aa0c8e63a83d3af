//! Completions for shells, which ask this very command while one types, so that they
//! know the names of services, tasks, networks, nodes, stacks, configs and
//! secrets.

use std::{ffi::OsStr, time::Duration};

use anyhow::Context as _;
use api::client::{Client, ClientError, Filters};
use clap::{Args, Command};
use clap_complete::{
    CompletionCandidate,
    engine::{ArgValueCompleter, ValueCompleter},
    env::{CompleteEnv, Shells},
};
use model::BlobKind;

use crate::{arguments, output, stack, wait};

/// Where shells say that they want a completion.
const VARIABLE: &str = "COMPLETE";
/// Somebody waits for the next character.
const PATIENCE: Duration = Duration::from_secs(3);

/// `completion`
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  source <(ipvsmesh completion bash)
  ipvsmesh completion bash > /etc/bash_completion.d/ipvsmesh
  ipvsmesh completion fish > ~/.config/fish/completions/ipvsmesh.fish")]
pub(crate) struct Completion {
    /// The shell
    #[arg(value_parser = ["bash", "elvish", "fish", "powershell", "zsh"])]
    shell: String,
}

/// Answers a shell that asks, and ends the process then.
pub(crate) fn answer() {
    CompleteEnv::with_factory(|| with_names(arguments::command())).complete();
}

/// Prints what a shell has to read once.
pub(crate) fn run(completion: &Completion) -> anyhow::Result<()> {
    let shells = Shells::builtins();
    let shell = shells.completer(&completion.shell);
    let shell = shell.context("there is no such shell")?;
    let mut script = Vec::new();
    let name = "ipvsmesh";
    shell.write_registration(VARIABLE, name, name, name, &mut script)?;
    output::print(script)
}

/// What an argument or an option names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Service,
    Task,
    Network,
    Node,
    Blob(BlobKind),
    Stack,
}

/// What a value's name in the help stands for.
fn kinds(value_name: &str) -> Vec<Kind> {
    let kind = |word| {
        Some(match word {
            "SERVICE" => Kind::Service,
            "TASK" => Kind::Task,
            "NETWORK" => Kind::Network,
            "NODE" => Kind::Node,
            "STACK" => Kind::Stack,
            "CONFIG" => Kind::Blob(BlobKind::Config),
            "SECRET" => Kind::Blob(BlobKind::Secret),
            _ => return None,
        })
    };
    value_name.split(['|', '=']).filter_map(kind).collect()
}

/// The command line with the names that its arguments may have.
fn with_names(command: Command) -> Command {
    let complete = |argument: clap::Arg| {
        let names = argument.get_value_names().unwrap_or_default();
        let kinds: Vec<_> = names.iter().flat_map(|name| kinds(name)).collect();
        match kinds.is_empty() {
            true => argument,
            false => argument.add(ArgValueCompleter::new(Names(kinds))),
        }
    };
    command.mut_args(complete).mut_subcommands(with_names)
}

/// Completes by asking the daemon.
struct Names(Vec<Kind>);

impl ValueCompleter for Names {
    fn complete(&self, current: &OsStr) -> Vec<CompletionCandidate> {
        let Some(begin) = current.to_str() else {
            return Vec::new();
        };
        let client = arguments::client_of(std::env::args());
        let found = wait(async {
            let asked = tokio::time::timeout(PATIENCE, names(&client, &self.0));
            Ok(asked.await??)
        });
        // where nobody answers there is nothing to complete, and no place to say why
        let mut found = found.unwrap_or_default();
        found.retain(|name| name.starts_with(begin));
        // the daemon has them by id, and scripts ask shells not to sort
        found.sort_unstable();
        found.dedup();
        found.into_iter().map(CompletionCandidate::new).collect()
    }
}

async fn names(client: &Client, kinds: &[Kind]) -> Result<Vec<String>, ClientError> {
    let all = Filters::default();
    let mut names = Vec::new();
    for kind in kinds {
        let running = Filters::one("desired-state", "running");
        let (objects, at) = match kind {
            Kind::Service => (client.services(&all).await?, "/Spec/Name"),
            Kind::Task => (client.tasks(&running).await?, "/Name"),
            Kind::Network => (client.networks(&all).await?, "/Name"),
            Kind::Stack => {
                names.extend(stack::names(client).await?.into_keys());
                continue;
            }
            Kind::Blob(kind) => (client.blobs(*kind, &all).await?, "/Spec/Name"),
            Kind::Node => (client.nodes(&all).await?, "/Description/Hostname"),
        };
        let named = objects.iter().map(|object| output::text(object, at));
        names.extend(named.map(str::to_owned));
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_known_by_their_names_in_the_help() {
        assert_eq!(kinds("SERVICE|TASK"), [Kind::Service, Kind::Task]);
        assert_eq!(kinds("SERVICE=REPLICAS"), [Kind::Service]);
        assert_eq!(kinds("DURATION"), []);
    }

    #[test]
    fn each_shell_has_a_script() {
        let shells = Shells::builtins();
        for name in ["bash", "elvish", "fish", "powershell", "zsh"] {
            assert!(shells.completer(name).is_some(), "{name}");
        }
    }
}
