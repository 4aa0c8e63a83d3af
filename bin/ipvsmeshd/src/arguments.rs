//! What the command line says, and what is done for it.

use std::{io::Write as _, net::SocketAddr, path::PathBuf};

use clap::{Parser, Subcommand, ValueEnum};
use daemon::{Config, DockerSettings, Ipv6Choice, PoolChoice, TlsSettings};
use ipnet::{IpNet, Ipv6Net};
use model::Instance;

const EXAMPLES: &str = "\
Examples:
  ipvsmeshd                                     # the daemon, in the foreground
  ipvsmeshd --task-pool 172.20.0.0/16 --vip-pool 172.21.0.0/16
  ipvsmeshd --metrics 127.0.0.1:9323            # for Prometheus
  ipvsmeshd --instance blue                     # a second mesh on this machine
  ipvsmeshd --cleanup                           # remove everything it ever made

It is made for a service manager: systemctl enable --now ipvsmeshd";

/// The daemon of ipvsmesh: runs services and keeps their data plane in the kernel
#[derive(Debug, Parser)]
#[command(name = "ipvsmeshd", version, after_help = EXAMPLES, max_term_width = 100)]
pub(crate) struct Arguments {
    /// Be this one of several daemons on the machine
    #[arg(long, env = "IPVSMESH_INSTANCE", value_name = "NAME", value_parser = instance)]
    instance: Option<Instance>,
    /// Keep services and tasks here [default: /var/lib/ipvsmesh[-NAME]]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Cut new networks' task subnets from this range; only for a mesh that is new
    #[arg(long, value_name = "SUBNET")]
    task_pool: Option<IpNet>,
    /// Cut new networks' VIP blocks from this range; only for a mesh that is new
    #[arg(long, value_name = "SUBNET")]
    vip_pool: Option<IpNet>,
    /// Take the addresses between host and ingress namespace from this range; only for a mesh
    /// that is new
    #[arg(long, value_name = "SUBNET")]
    node_pool: Option<IpNet>,
    /// Cut IPv6 ranges from this /48, or have none; one is made up for a mesh that has none yet
    #[arg(long, value_name = "PREFIX|none", value_parser = ipv6_prefix)]
    ipv6_prefix: Option<Ipv6Choice>,
    /// Forget TCP connections through the mesh that were idle for so many seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 432_000, value_parser = seconds())]
    tcp_timeout: u32,
    /// Forget TCP connections so many seconds after their end began
    #[arg(long, value_name = "SECONDS", default_value_t = 120, value_parser = seconds())]
    tcp_fin_timeout: u32,
    /// Forget UDP flows that were idle for so many seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 300, value_parser = seconds())]
    udp_timeout: u32,
    /// MTU of the mesh's links, in octets
    #[arg(long, default_value_t = 1500, value_parser = clap::value_parser!(u32).range(576..=65535))]
    mtu: u32,
    /// Where the servers for names outside of the mesh are named; followed when it changes
    #[arg(long, value_name = "PATH", default_value = "/etc/resolv.conf")]
    resolv_conf: PathBuf,
    /// Docker's socket, for tasks in containers
    #[arg(
        long,
        env = "IPVSMESH_DOCKER_SOCKET",
        value_name = "PATH",
        default_value = "/run/docker.sock"
    )]
    docker_socket: PathBuf,
    /// Answer Prometheus at http://ADDRESS/metrics; whoever reaches it sees names and counts of
    /// services, so choose loopback or a network of your own [default: off]
    #[arg(long, env = "IPVSMESH_METRICS", value_name = "ADDRESS:PORT", value_parser = metrics)]
    metrics: Option<SocketAddr>,
    /// Serve the API there as well, to clients with a certificate of --tlscacert: they are root
    /// here [default: off]
    #[arg(long, value_name = "ADDRESS:PORT", value_parser = tls_address, requires_all = ["tlscacert", "tlscert", "tlskey"])]
    tls_address: Option<SocketAddr>,
    /// The authority of clients' certificates, a PEM file
    #[arg(long, value_name = "PATH", requires = "tls_address")]
    tlscacert: Option<PathBuf>,
    /// The daemon's own certificate, a PEM file
    #[arg(long, value_name = "PATH", requires = "tls_address")]
    tlscert: Option<PathBuf>,
    /// The key of the daemon's own certificate, a PEM file
    #[arg(long, value_name = "PATH", requires = "tls_address")]
    tlskey: Option<PathBuf>,
    /// Tell of what others change in the kernel, but leave it so: for looking at it (trace, inspect)
    #[arg(long)]
    no_repair: bool,
    /// Have each packet of a published port pass all of the host's rules: without this,
    /// established TCP connections go past them by an nftables flowtable (Linux 6.1 and later)
    #[arg(long)]
    no_flowtable: bool,
    /// How lines are logged to standard error; RUST_LOG says which
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    pub(crate) log_format: LogFormat,
    /// Remove everything that this instance ever made, its services and data included, and end
    #[arg(long)]
    pub(crate) cleanup: bool,
    /// What this process is instead of the daemon
    #[command(subcommand)]
    pub(crate) role: Option<Role>,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum LogFormat {
    Text,
    Json,
}

/// What the program is beside the daemon: processes that it starts and that outlive it,
/// and who looks before it is started.
#[derive(Debug, Subcommand)]
pub(crate) enum Role {
    /// Holds one task
    #[command(hide = true)]
    Shim {
        /// The task's directory
        dir: PathBuf,
    },
    /// Answers names in the router namespace
    #[command(hide = true)]
    Dns,
    /// Look whether this machine can run the mesh, and what to mend; changes nothing
    Doctor {
        /// How to print it
        #[arg(short, long, value_enum)]
        format: Option<ReportFormat>,
    },
}

/// How a report is printed instead of lines for people.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum ReportFormat {
    /// JSON on one line
    Json,
}

fn ipv6_prefix(text: &str) -> Result<Ipv6Choice, String> {
    let wrong = || "use a /48, such as fd12:3456:789a::/48, or none".to_owned();
    match text {
        "none" => Ok(Ipv6Choice::None),
        _ => {
            let prefix: Ipv6Net = text.parse().map_err(|_| wrong())?;
            let whole = prefix.prefix_len() == 48 && prefix.trunc() == prefix;
            whole
                .then_some(Ipv6Choice::Prefix(prefix))
                .ok_or_else(wrong)
        }
    }
}

fn metrics(text: &str) -> Result<SocketAddr, String> {
    let wrong = "use ADDRESS:PORT, such as 127.0.0.1:9323 or [::1]:9323";
    text.parse().map_err(|_| wrong.to_owned())
}

fn tls_address(text: &str) -> Result<SocketAddr, String> {
    let wrong = "use ADDRESS:PORT, such as 192.0.2.1:2376 or [::]:2376";
    text.parse().map_err(|_| wrong.to_owned())
}

/// What IPVS can count: its own limit is in clock ticks.
fn seconds() -> clap::builder::RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(1..=2_000_000)
}

fn instance(text: &str) -> Result<Instance, String> {
    Instance::try_from(text.to_owned()).map_err(|error| error.to_string())
}

impl Arguments {
    fn instance(&self) -> Instance {
        self.instance.clone().unwrap_or_default()
    }

    fn docker(&self) -> DockerSettings {
        DockerSettings {
            socket: self.docker_socket.clone(),
        }
    }

    fn names(&self) -> daemon::Names {
        daemon::Names {
            resolv_conf: self.resolv_conf.clone(),
        }
    }

    /// clap has seen to it that all are there, or none.
    fn tls(&self) -> Option<TlsSettings> {
        Some(TlsSettings {
            address: self.tls_address?,
            ca: self.tlscacert.clone()?,
            cert: self.tlscert.clone()?,
            key: self.tlskey.clone()?,
        })
    }

    fn config(&self) -> Config {
        Config {
            instance: self.instance(),
            data_dir: self.data_dir.clone(),
            pools: PoolChoice {
                tasks: self.task_pool,
                vips: self.vip_pool,
                nodes: self.node_pool,
                six: self.ipv6_prefix.unwrap_or_default(),
            },
            settings: daemon::Settings {
                mtu: self.mtu,
                timeouts: daemon::Timeouts {
                    tcp: self.tcp_timeout,
                    tcp_fin: self.tcp_fin_timeout,
                    udp: self.udp_timeout,
                },
                ..daemon::Settings::default()
            },
            names: self.names(),
            docker: self.docker(),
            metrics: self.metrics,
            tls: self.tls(),
            repairs: !self.no_repair,
            flowtable: !self.no_flowtable,
        }
    }

    pub(crate) async fn run(&self) -> anyhow::Result<()> {
        Ok(daemon::run(self.config()).await?)
    }

    pub(crate) async fn look(&self) -> Vec<daemon::doctor::Check> {
        daemon::doctor::look(&self.config()).await
    }

    pub(crate) async fn respond(&self) -> anyhow::Result<()> {
        Ok(daemon::run_responder(&self.instance(), self.names()).await?)
    }

    pub(crate) async fn clean_up(&self) -> anyhow::Result<()> {
        let instance = self.instance();
        let data_dir = self.data_dir.as_deref();
        let cleaned = daemon::cleanup(&instance, data_dir, &self.docker()).await;
        let Err(errors) = cleaned else { return Ok(()) };
        let mut text = String::new();
        for error in errors {
            text.push_str(&format!("\n  {:#}", anyhow::Error::new(error)));
        }
        anyhow::bail!("not everything could be removed; run it again after mending this:{text}")
    }
}

/// Prints to standard error; nowhere is left to tell that this failed.
pub(crate) fn say(text: &str) {
    let _ = std::io::stderr().write_all(text.as_bytes());
}
