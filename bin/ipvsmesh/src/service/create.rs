//! `ipvsmesh service create`

use std::time::Duration;

use api::client::Client;
use clap::{Args, ValueEnum};
use model::{Name, label};
use serde_json::{Map, Value, json};

use super::{
    container::{Container, Lists},
    endpoints::Endpoints,
    options::Options,
    placement::Placement,
    progress::{Asked, converge},
    rollout::Rollout,
};
use crate::{
    output::{self, text},
    words::{self, Publish},
};

/// `service create`
#[derive(Debug, Args)]
#[command(
    override_usage = "ipvsmesh service create [OPTIONS] IMAGE [COMMAND] [ARG...]
       ipvsmesh service create [OPTIONS] --runtime process [--] COMMAND [ARG...]
       ipvsmesh service create [OPTIONS] --runtime static --endpoint ADDRESS[:PORT]...",
    after_help = "\
Examples:
  ipvsmesh service create --name web --replicas 3 --network back --publish 8080:80 \\
      --limit-memory 64m --mount type=bind,source=/srv/www,target=/www,readonly nginx:1.27
  ipvsmesh service create --name vote --replicas 3 --network back --publish 8080:80 \\
      --runtime process -- /usr/local/bin/whoami --port 80
  ipvsmesh service create --name shop --scheduler wlc --weight 1=3,2=1 --affinity client-ip,1h \\
      --connection-limit 1000:800 --drain-timeout 1m \\
      --publish 127.0.0.1:8080:80 --publish [::1]:8080:80 --runtime process -- shopd
  ipvsmesh service create --name media --publish 8000-8010:8000-8010/udp \\
      --publish target=9000-9010,published=9000-9010,protocol=udp,host_ip=192.0.2.1 \\
      --runtime process -- mediad
  ipvsmesh service create --name vote --replicas 3 --update-order start-first --update-delay 10s \
      --update-failure-action rollback --runtime process -- voted
  ipvsmesh service create --name client --runtime process --restart-condition none -- sleep 3600
  ipvsmesh service create --name legacy --publish 8080:80 --probe http:80/health --runtime static \\
      --endpoint 192.0.2.10:80 --endpoint 192.0.2.11:80"
)]
pub(crate) struct Create {
    /// Its name, and its DNS name; one is made up without
    #[arg(long)]
    name: Option<Name>,
    /// What runs its tasks
    #[arg(long, value_enum, default_value_t = Runtime::Docker)]
    runtime: Runtime,
    /// How many tasks
    #[arg(long, value_name = "N", value_parser = words::replicas, allow_hyphen_values = true)]
    replicas: Option<u32>,
    /// So many tasks, or one on each node
    #[arg(long, value_enum, default_value_t = Mode::Replicated)]
    mode: Mode,
    /// A network to be on, and what it is called there besides: NETWORK, or
    /// name=NETWORK,alias=NAME,...; the first one has the way out
    #[arg(long, value_name = "NETWORK", value_parser = words::attachment)]
    network: Vec<words::Attachment>,
    /// Ports of all nodes that lead to it: [[ADDRESS:]PUBLISHED[-END]:]TARGET[-END][/PROTOCOL], or
    /// target=N[-END],published=N[-END],protocol=tcp|udp|sctp,mode=ingress|host,host_ip=ADDRESS
    #[arg(short, long, value_name = "PORT", value_parser = words::publish, allow_hyphen_values = true)]
    publish: Vec<Publish>,
    /// Environment variables of its tasks
    #[arg(short, long, value_name = "KEY=VALUE", value_parser = words::environment)]
    env: Vec<Option<String>>,
    /// Working directory of its tasks
    #[arg(short, long, value_name = "DIR")]
    workdir: Option<String>,
    /// User of its tasks: NAME or NUMBER, and :GROUP
    #[arg(short, long, value_name = "USER")]
    user: Option<String>,
    /// Labels
    #[arg(short, long, value_name = "KEY=VALUE", value_parser = words::label)]
    label: Vec<(String, String)>,
    #[command(flatten)]
    placement: Placement,
    /// What its name resolves to
    #[arg(long, value_enum, default_value_t = EndpointMode::Vip)]
    endpoint_mode: EndpointMode,
    #[command(flatten)]
    endpoints: Endpoints,
    #[command(flatten)]
    options: Options,
    #[command(flatten)]
    life: Life,
    #[command(flatten)]
    container: Container,
    #[command(flatten)]
    lists: Lists,
    #[command(flatten)]
    rollout: Rollout,
    #[command(flatten)]
    wait: Wait,
    /// Image, and what it runs; of the process runtime, command and arguments of each task
    #[arg(
        required_unless_present = "endpoint",
        trailing_var_arg = true,
        value_name = "IMAGE|COMMAND"
    )]
    command: Vec<String>,
}

/// How a task starts again and stops; of `create` and of `update`.
#[derive(Debug, Args)]
pub(super) struct Life {
    /// When an ended task is replaced (default any)
    #[arg(long, value_enum)]
    restart_condition: Option<Restart>,
    /// How long to wait before that (default 5s)
    #[arg(long, value_name = "DURATION", value_parser = words::duration)]
    restart_delay: Option<Duration>,
    /// How often at most, 0 for ever (default 0)
    #[arg(long, value_name = "N")]
    restart_max_attempts: Option<u32>,
    /// Within which time attempts are counted, 0 for all (default 0)
    #[arg(long, value_name = "DURATION", value_parser = words::duration)]
    restart_window: Option<Duration>,
    /// Signal that asks a task to stop (default SIGTERM)
    #[arg(long, value_name = "SIGNAL")]
    stop_signal: Option<String>,
    /// How long it has until it is killed (default 10s)
    #[arg(long, value_name = "DURATION", value_parser = words::duration)]
    stop_grace_period: Option<Duration>,
}

/// Whether the command waits; of all commands that change tasks.
#[derive(Debug, Args)]
pub(super) struct Wait {
    /// Do not wait for its tasks
    #[arg(short, long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value_t = false, value_name = "BOOL", hide_default_value = true, hide_possible_values = true)]
    detach: bool,
    /// Do not show how far it is
    #[arg(short, long)]
    quiet: bool,
}

/// `--runtime`
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Runtime {
    /// A command of the host in its own network namespace
    Process,
    /// A container of the Docker Engine
    Docker,
    /// Servers that are not the mesh's, each an --endpoint
    Static,
}

/// `--mode`
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Mode {
    Replicated,
    Global,
}

/// `--endpoint-mode`
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum EndpointMode {
    /// One stable address, balanced by IPVS
    Vip,
    /// The addresses of its tasks
    Dnsrr,
}

/// `--restart-condition`
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Restart {
    Any,
    OnFailure,
    None,
}

/// The word that was typed for a value.
pub(super) fn word(value: &impl ValueEnum) -> String {
    let possible = value.to_possible_value();
    possible.map_or_else(String::new, |value| value.get_name().to_owned())
}

impl EndpointMode {
    /// Docker's word.
    pub(super) fn word(self) -> String {
        word(&self)
    }
}

pub(super) fn nanoseconds(duration: Duration) -> Value {
    json!(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX))
}

impl Life {
    /// Writes what was given into a `TaskTemplate`.
    pub(super) fn apply(&self, template: &mut Value) {
        for (at, key, value) in [
            (
                "RestartPolicy",
                "Condition",
                self.restart_condition.map(|c| json!(word(&c))),
            ),
            (
                "RestartPolicy",
                "Delay",
                self.restart_delay.map(nanoseconds),
            ),
            (
                "RestartPolicy",
                "MaxAttempts",
                self.restart_max_attempts.map(|n| json!(n)),
            ),
            (
                "RestartPolicy",
                "Window",
                self.restart_window.map(nanoseconds),
            ),
            (
                "ContainerSpec",
                "StopSignal",
                self.stop_signal.as_ref().map(|s| json!(s)),
            ),
            (
                "ContainerSpec",
                "StopGracePeriod",
                self.stop_grace_period.map(nanoseconds),
            ),
        ] {
            if let Some(value) = value {
                template[at][key] = value;
            }
        }
    }
}

impl Wait {
    /// Waits for a service, if that is wanted.
    pub(super) async fn on(&self, client: &Client, name: &str, asked: Asked) -> anyhow::Result<()> {
        match self.detach {
            true => Ok(()),
            false => converge(client, name, asked, self.quiet).await,
        }
    }
}

impl Create {
    /// Refuses flags that contradict each other.
    pub(super) fn check(&self) -> Result<(), String> {
        if self.mode == Mode::Global && self.replicas.is_some() {
            return Err("replicas can only be used with replicated mode: leave out --replicas or --mode global".to_owned());
        }
        self.placement.check(self.mode == Mode::Global)?;
        self.endpoints
            .check(self.runtime == Runtime::Static, &self.command)?;
        self.options.agree("--label", &self.label)
    }

    /// The request's body: the spec as Docker has it.
    fn spec(&self) -> Value {
        let labels = self
            .label
            .iter()
            .map(|(key, value)| (key.clone(), json!(value)));
        let options = self.options.labels();
        let options = options.map(|(label, value)| (label.to_owned(), json!(value)));
        let pull = self.container.label();
        let options = options.chain(pull.map(|(label, value)| (label.to_owned(), value)));
        let mut labels: Map<String, Value> = labels.chain(options).collect();
        let (program, arguments) = self
            .command
            .split_first()
            .map_or(("", &[][..]), |(program, rest)| (program.as_str(), rest));
        let mut container = json!({"Image": program, "Args": arguments});
        if self.runtime == Runtime::Process {
            labels.insert(label::RUNTIME.to_owned(), json!("process"));
            container["Command"] = json!([program]);
        }
        if self.runtime == Runtime::Static {
            labels.insert(label::RUNTIME.to_owned(), json!("static"));
            labels.insert(label::ENDPOINTS.to_owned(), json!(self.endpoints.label()));
        }
        let env: Vec<_> = self.lists.env().chain(self.env.iter().flatten()).collect();
        if !env.is_empty() {
            container["Env"] = json!(env);
        }
        for (key, value) in [("Dir", &self.workdir), ("User", &self.user)] {
            if let Some(value) = value {
                container[key] = json!(value);
            }
        }
        self.lists.apply(&mut container);
        let networks = self.network.iter().map(words::Attachment::spec);
        let published = self.publish.iter().flat_map(|publish| &publish.0);
        let mut template = json!({
            "ContainerSpec": container,
            "Networks": networks.collect::<Vec<_>>(),
            "ForceUpdate": 0,
        });
        self.placement.apply(&mut template);
        self.life.apply(&mut template);
        self.container.apply(&mut template);
        let mut spec = json!({
            "Labels": labels,
            "TaskTemplate": template,
            "Mode": match self.mode {
                Mode::Global => json!({"Global": {}}),
                Mode::Replicated => json!({"Replicated": {"Replicas": self.replicas.unwrap_or(1)}}),
            },
            "EndpointSpec": {
                "Mode": self.endpoint_mode.word(),
                "Ports": published.map(api::port).collect::<Vec<_>>(),
            },
        });
        self.rollout.apply(&mut spec);
        if let Some(name) = &self.name {
            spec["Name"] = json!(name);
        }
        spec
    }
}

/// Makes the service, prints its id and waits for it.
pub(super) async fn run(client: &Client, create: &Create) -> anyhow::Result<()> {
    let spec = create.spec();
    let image = text(&spec, "/TaskTemplate/ContainerSpec/Image");
    let authorized = create.container.client(client, image)?;
    let id = authorized.create_service(&spec).await?;
    output::print(format!("{id}\n"))?;
    create.wait.on(client, &id, Asked::Spec).await
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        create: Create,
    }

    fn spec(line: &[&str]) -> Value {
        let line = std::iter::once("create").chain(line.iter().copied());
        Line::try_parse_from(line).unwrap().create.spec()
    }

    #[test]
    fn flags_become_dockers_spec() {
        let spec = spec(&[
            "--name",
            "vote",
            "--replicas",
            "3",
            "--network",
            "back",
            "--publish",
            "8080:80",
            "-p",
            "53:53/udp",
            "-e",
            "A=b",
            "-l",
            "x=y",
            "--workdir",
            "/tmp",
            "--user",
            "nobody",
            "--restart-delay",
            "1s",
            "--restart-condition",
            "on-failure",
            "--stop-signal",
            "SIGINT",
            "--stop-grace-period",
            "2m",
            "--runtime",
            "process",
            "--",
            "whoami",
            "--port",
            "80",
        ]);
        let expected = json!({
            "Name": "vote",
            "Labels": {"ipvsmesh.runtime": "process", "x": "y"},
            "TaskTemplate": {
                "ContainerSpec": {
                    "Image": "whoami", "Command": ["whoami"], "Args": ["--port", "80"],
                    "Env": ["A=b"], "Dir": "/tmp", "User": "nobody",
                    "StopSignal": "SIGINT", "StopGracePeriod": 120_000_000_000_u64,
                },
                "Networks": [{"Target": "back"}],
                "RestartPolicy": {"Condition": "on-failure", "Delay": 1_000_000_000},
                "ForceUpdate": 0,
            },
            "Mode": {"Replicated": {"Replicas": 3}},
            "EndpointSpec": {"Mode": "vip", "Ports": [
                {"Protocol": "tcp", "TargetPort": 80, "PublishedPort": 8080, "PublishMode": "ingress"},
                {"Protocol": "udp", "TargetPort": 53, "PublishedPort": 53, "PublishMode": "ingress"},
            ]},
        });
        assert_eq!(spec, expected);
    }

    #[test]
    fn the_commands_own_flags_stay_its_own() {
        let args = |spec: &Value| spec["TaskTemplate"]["ContainerSpec"]["Args"].clone();
        let expected = json!(["--name", "x", "-p", "1"]);
        assert_eq!(args(&spec(&["prog", "--name", "x", "-p", "1"])), expected);
        assert_eq!(
            args(&spec(&["--", "prog", "--name", "x", "-p", "1"])),
            expected
        );
        // a typing error before the command is none of the command
        assert!(Line::try_parse_from(["create", "--nam", "x", "prog"]).is_err());
    }

    #[test]
    fn options_are_labels() {
        let line = [
            "--scheduler",
            "wlc",
            "--weight",
            "1=3,2=0",
            "--affinity",
            " client-ip,/24 ",
            "--connection-limit",
            "10:5",
            "--drain-timeout",
            "1m",
            "--label",
            "ipvsmesh.weight=1=3,2=0",
            "x",
        ];
        let expected = json!({
            "ipvsmesh.scheduler": "wlc", "ipvsmesh.weight": "1=3,2=0", "ipvsmesh.affinity": "client-ip,/24",
            "ipvsmesh.connection-limit": "10:5", "ipvsmesh.drain-timeout": "1m",
        });
        assert_eq!(spec(&line)["Labels"], expected);
    }

    #[test]
    fn host_addresses_are_kept() {
        let spec = spec(&[
            "-p",
            "[::1]:80:80",
            "-p",
            "target=1-2,host_ip=0.0.0.0,mode=host",
            "x",
        ]);
        let port = |target, mode, ip| json!({"Protocol": "tcp", "TargetPort": target, "PublishMode": mode, "HostIP": ip});
        let mut first = port(80, "ingress", "::1");
        first["PublishedPort"] = json!(80);
        let expected = json!([
            first,
            port(1, "host", "0.0.0.0"),
            port(2, "host", "0.0.0.0")
        ]);
        assert_eq!(spec["EndpointSpec"]["Ports"], expected);
    }

    #[test]
    fn an_image_has_no_label() {
        let spec = spec(&["--mode", "global", "nginx", "-g"]);
        assert_eq!(
            spec["TaskTemplate"]["ContainerSpec"],
            json!({"Image": "nginx", "Args": ["-g"]})
        );
        assert_eq!(spec["Labels"], json!({}));
        assert_eq!(spec["Mode"], json!({"Global": {}}));
    }
}
