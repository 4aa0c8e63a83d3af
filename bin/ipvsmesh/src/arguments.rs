//! What the command line says, and what is said about one that makes no sense.

use std::{error::Error as _, path::PathBuf, process::ExitCode};

use api::client::Client;
use clap::{
    ArgMatches, CommandFactory as _, FromArgMatches as _, Parser, Subcommand,
    error::{ContextKind, ContextValue, ErrorKind},
    parser::ValueSource,
};
use model::Instance;

use crate::{
    blob, completion, doctor, events, exec, inspect, man, network, node, output, service, stack,
    system, top, trace,
};

const EXAMPLES: &str = "\
Examples:
  ipvsmesh network create back
  ipvsmesh service create --name vote --replicas 3 --network back --publish 8080:80 \\
      --runtime process -- /usr/local/bin/whoami --port 80
  ipvsmesh service ls
  ipvsmesh inspect vote
  ipvsmesh exec vote.1 -- ip addr

Exit codes:
  0  done
  1  it failed: the first line on standard error says what and why, and what to do
  2  the command line makes no sense, and nothing was done
  exec gives the code of its command, or as shells do 126 (cannot be run) and 127 (not found)";

/// A service mesh on the kernel's IPVS
#[derive(Debug, Parser)]
#[command(name = "ipvsmesh", version, after_help = EXAMPLES, max_term_width = 100)]
struct Cli {
    /// Talk to this one of several daemons on the machine
    #[arg(long, global = true, env = "IPVSMESH_INSTANCE", value_name = "NAME", value_parser = instance)]
    instance: Option<Instance>,
    /// Talk to the daemon with this socket: unix:///PATH
    #[arg(short = 'H', global = true, env = "IPVSMESH_HOST", value_name = "SOCKET", value_parser = socket)]
    socket: Option<PathBuf>,
    /// The same, before the command: services have a --host of another meaning
    #[arg(id = "daemon", long = "host", value_name = "SOCKET", value_parser = socket)]
    daemon: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

/// A command.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Manage services
    #[command(subcommand)]
    Service(service::Command),
    /// Manage networks
    #[command(subcommand)]
    Network(network::Command),
    /// Manage stacks: services and what they need, from compose files
    #[command(subcommand)]
    Stack(stack::Command),
    /// Manage configs, which tasks get as files
    #[command(subcommand)]
    Config(blob::Configs),
    /// Manage secrets, which tasks get as files
    #[command(subcommand)]
    Secret(blob::Secrets),
    /// Look at nodes
    #[command(subcommand)]
    Node(node::Command),
    /// Run a command inside a task: its network, files and host name
    Exec(exec::Exec),
    /// Show the whole way to a service: names, VIPs, marks, IPVS, tasks
    Inspect(inspect::Inspect),
    /// Show what the mesh does, and why
    Events(events::Events),
    /// Send a probe and show where it goes, or where it is lost and why
    Trace(trace::Trace),
    /// Look whether this machine can run the mesh, and what to mend; no daemon need run
    Doctor(doctor::Doctor),
    /// Show the versions of the command and the daemon
    Version(system::Show),
    /// Show what the daemon is and has
    Info(system::Show),
    /// Watch connections and rates of services and tasks
    Top(top::Top),
    /// Print a script that completes commands and names in a shell
    Completion(completion::Completion),
    /// Write the manual pages
    Man(man::Man),
}

fn instance(text: &str) -> Result<Instance, String> {
    Instance::try_from(text.to_owned()).map_err(|error| error.to_string())
}

/// `unix:///PATH` or `/PATH`; an empty variable is as good as none.
fn socket(text: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(text.strip_prefix("unix://").unwrap_or(text));
    if text.is_empty() || path.is_absolute() {
        Ok(path)
    } else {
        Err("use unix:///PATH".to_owned())
    }
}

/// All that the command line may say.
pub(crate) fn command() -> clap::Command {
    Cli::command()
}

/// The client for a command line of which only the part before its end is written.
pub(crate) fn client_of(words: impl Iterator<Item = String>) -> Client {
    let words: Vec<_> = words.collect();
    let after = |names: &[&str]| {
        let at = words
            .iter()
            .rposition(|word| names.contains(&word.as_str()))?;
        words.get(at + 1).cloned()
    };
    let set = |name| {
        std::env::var(name)
            .ok()
            .filter(|value: &String| !value.is_empty())
    };
    let typed = after(&["-H", "--host"]);
    let named = after(&["--instance"]);
    let host = typed.or_else(|| set("IPVSMESH_HOST").filter(|_| named.is_none()));
    let host = host.and_then(|host| socket(&host).ok());
    let name = named.or_else(|| set("IPVSMESH_INSTANCE"));
    let name = name.and_then(|name| instance(&name).ok());
    Client::new(&host.unwrap_or_else(|| name.unwrap_or_default().socket()))
}

/// Reads the command line.
pub(crate) fn read() -> Result<(Client, Instance, Command), clap::Error> {
    let matches = Cli::command().try_get_matches()?;
    let cli = Cli::from_arg_matches(&matches)?;
    let checked = match &cli.command {
        Command::Service(command) => command.check(),
        Command::Network(command) => command.check(),
        _ => Ok(()),
    };
    checked.map_err(|why| clap::Error::raw(ErrorKind::ArgumentConflict, why + "\n"))?;
    let host = cli.daemon.or(cli.socket);
    let host = host.filter(|path| !path.as_os_str().is_empty());
    let instance = cli.instance.unwrap_or_default();
    let socket = match host {
        Some(host) if !instance_is_meant(&matches) => host,
        _ => instance.socket(),
    };
    Ok((Client::new(&socket), instance, cli.command))
}

/// Whether the instance was typed and the host merely comes from the environment.
fn instance_is_meant(matches: &ArgMatches) -> bool {
    let typed = |id| matches.value_source(id) == Some(ValueSource::CommandLine);
    typed("instance") && !typed("socket") && !typed("daemon")
}

/// Prints what is wrong with the command line, or the help that was asked for.
pub(crate) fn explain(error: &clap::Error) -> ExitCode {
    let code = u8::try_from(error.exit_code()).unwrap_or(2);
    let text = wrong_value(error).unwrap_or_else(|| {
        let text = error.render();
        let colours = match error.use_stderr() {
            true => output::colours(&std::io::stderr()),
            false => output::colours(&std::io::stdout()),
        };
        if colours {
            text.ansi().to_string()
        } else {
            text.to_string()
        }
    });
    // nowhere is left to tell that this failed
    let _ = match error.use_stderr() {
        true => output::print_error(text),
        false => output::print(text),
    };
    code.into()
}

/// A wrong value in docker's words.
fn wrong_value(error: &clap::Error) -> Option<String> {
    let context = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.as_str()),
        _ => None,
    };
    let why = match (error.kind(), error.get(ContextKind::ValidValue)) {
        (ErrorKind::ValueValidation, _) => error.source()?.to_string(),
        (ErrorKind::InvalidValue, Some(ContextValue::Strings(valid))) => {
            format!("use {}", valid.join(" or "))
        }
        _ => return None,
    };
    let value = context(ContextKind::InvalidValue).filter(|value| !value.is_empty())?;
    let named = context(ContextKind::InvalidArg)?;
    // `--replicas <N>`, or `<NAME>`
    let named = named.split(' ').next().unwrap_or(named);
    Some(format!(
        "invalid argument {value:?} for {named:?}: {why}\n\nAdd --help to the command to see what it takes.\n"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn each_command_has_examples_and_about() {
        fn check(command: &clap::Command) {
            assert!(command.get_about().is_some(), "{}", command.get_name());
            let leaf = command.get_subcommands().next().is_none();
            let help = command.get_after_help().map(ToString::to_string);
            assert!(
                !leaf || help.is_some_and(|text| text.contains("Example")),
                "{} has no example",
                command.get_name()
            );
            command.get_subcommands().for_each(check);
        }
        check(&Cli::command());
    }

    #[test]
    fn sockets_are_paths() {
        assert_eq!(socket("unix:///a/b"), Ok("/a/b".into()));
        assert_eq!(socket("/a/b"), Ok("/a/b".into()));
        assert!(socket("tcp://1.2.3.4:2375").is_err());
        assert!(socket("a/b").is_err());
    }

    #[test]
    fn wrong_values_are_named_as_docker_does() {
        let explained = |line: &[&str]| {
            let error = Cli::try_parse_from(line).unwrap_err();
            assert_eq!(error.exit_code(), 2);
            wrong_value(&error).unwrap_or_else(|| error.to_string())
        };
        let create = ["ipvsmesh", "service", "create"];
        let with = |more: &[&str]| explained(&[&create, more].concat());
        assert!(
            with(&["--replicas", "-1", "x"])
                .starts_with("invalid argument \"-1\" for \"--replicas\": use a whole number")
        );
        assert!(
            with(&["--endpoint-mode", "magic", "x"]).starts_with(
                "invalid argument \"magic\" for \"--endpoint-mode\": use vip or dnsrr"
            )
        );
        assert!(with(&["--name", "bad_", "x"]).contains("bad_"));
        assert!(with(&["--publish", "1:2/icmp", "x"]).contains("icmp"));
        assert!(with(&["--name", "x"]).contains("COMMAND"));
        assert!(with(&["--nosuchflag", "x"]).contains("--nosuchflag"));
    }
}
