use std::{collections::BTreeMap, net::IpAddr, time::Duration};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    ContainerSpec, FileRef, Listener, Mark, Name, NetworkId, Placement, PublishedPort,
    RegistryAuth, Revision, ServiceId, UpdateConfig, UpdateStatus,
};

/// What a person asks of a service: the domain's own form, which the store
/// keeps. Docker's JSON is translated to and from it at the API's edge.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceSpec {
    /// Unique name, and its DNS name.
    pub name: Name,
    /// Docker labels; `ipvsmesh.*` are options of ours.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// How many tasks.
    pub mode: Mode,
    /// What each task is.
    pub task: TaskSpec,
    /// Where they are. Another one replaces no task that is where it may be.
    #[serde(flatten)]
    pub placement: Placement,
    /// How clients reach it.
    pub endpoint: EndpointSpec,
    /// How its tasks are replaced.
    #[serde(default)]
    pub update: UpdateConfig,
    /// How they are replaced on the way back to the previous spec.
    #[serde(default)]
    pub rollback: UpdateConfig,
    /// With what its image is fetched. Another one replaces no task.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub registry_auth: Option<RegistryAuth>,
}

/// How many tasks a service has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// This many.
    Replicated {
        /// May be 0.
        replicas: u32,
    },
    /// One on each node.
    Global,
}

/// What a task is. Tasks whose spec is not their service's are replaced.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskSpec {
    /// What runs.
    pub runtime: RuntimeSpec,
    /// On which networks, in order: the first has the default route.
    pub networks: Vec<NetworkAttachment>,
    /// What happens after it ended.
    #[serde(default)]
    pub restart: RestartPolicy,
    /// Raised by `update --force`, which so makes the spec differ.
    #[serde(default)]
    pub force_update: u64,
}

/// What runs a task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RuntimeSpec {
    /// A command of the host in its own network namespace.
    Process(ProcessSpec),
    /// A container of the Docker Engine.
    Docker(Box<ContainerSpec>),
    /// Servers that are not the mesh's: who they are, its labels say
    /// ([`Server::of_labels`](crate::Server::of_labels)), so that another one replaces none.
    Static,
    /// Containers of others, which said by labels of theirs that they belong to it.
    Adopted {
        /// The image of the first one.
        image: String,
        /// One of them has an IPv6 address.
        #[serde(default)]
        ipv6: bool,
    },
}

impl RuntimeSpec {
    /// Configs and secrets that a task gets as files.
    pub fn files(&self) -> &[FileRef] {
        match self {
            Self::Process(process) => &process.files,
            Self::Docker(container) => &container.files,
            Self::Static | Self::Adopted { .. } => &[],
        }
    }

    /// Signal that asks a task to stop; `None`: as its image says, or SIGTERM.
    pub fn stop_signal(&self) -> Option<&str> {
        match self {
            Self::Process(process) => process.stop_signal.as_deref(),
            Self::Docker(container) => container.stop_signal.as_deref(),
            Self::Static | Self::Adopted { .. } => None,
        }
    }

    /// How long it has from that signal until it is killed.
    pub fn stop_grace(&self) -> Duration {
        match self {
            Self::Process(process) => process.stop_grace,
            Self::Docker(container) => container.grace(),
            Self::Static | Self::Adopted { .. } => Duration::ZERO,
        }
    }

    /// Its tasks are others': nothing of them is made, started or stopped.
    pub fn is_elsewhere(&self) -> bool {
        matches!(self, Self::Static | Self::Adopted { .. })
    }
}

/// A command in its own network namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessSpec {
    /// Program (absolute, or found in the PATH) and arguments; never empty.
    pub command: Vec<String>,
    /// `KEY=VALUE`s added to a small default environment.
    #[serde(default)]
    pub env: Vec<String>,
    /// Working directory, `/` without.
    #[serde(default)]
    pub dir: Option<String>,
    /// `NAME[:GROUP]` or numbers; root without.
    #[serde(default)]
    pub user: Option<String>,
    /// Configs and secrets, as files.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<FileRef>,
    /// Signal that asks it to stop, SIGTERM without.
    #[serde(default)]
    pub stop_signal: Option<String>,
    /// How long it has from that signal until it is killed.
    #[serde(default = "default_stop_grace")]
    pub stop_grace: Duration,
}

fn default_stop_grace() -> Duration {
    Duration::from_secs(10)
}

/// A service's place on a network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkAttachment {
    /// Which network.
    pub network: NetworkId,
    /// Further names of the service there.
    #[serde(default)]
    pub aliases: Vec<String>,
}

/// When a task that ended is replaced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RestartCondition {
    /// Always.
    #[default]
    Any,
    /// When its exit status is not 0.
    OnFailure,
    /// Never.
    None,
}

/// What happens after a task ended; SwarmKit's `RestartPolicy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestartPolicy {
    /// When.
    pub condition: RestartCondition,
    /// Wait this long before the next task of the slot starts.
    pub delay: Duration,
    /// At most so many restarts of a slot within the window; 0: no limit.
    pub max_attempts: u64,
    /// Over which time attempts are counted; zero: for ever.
    pub window: Duration,
}

impl Default for RestartPolicy {
    /// Any, 5 s, unlimited: SwarmKit's defaults.
    fn default() -> Self {
        Self {
            condition: RestartCondition::Any,
            delay: Duration::from_secs(5),
            max_attempts: 0,
            window: Duration::ZERO,
        }
    }
}

/// How clients reach a service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointSpec {
    /// What its name resolves to.
    pub mode: EndpointMode,
    /// Ports on the hosts.
    #[serde(default)]
    pub ports: Vec<PublishedPort>,
}

/// What a service's name resolves to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EndpointMode {
    /// One stable address, balanced by IPVS.
    #[default]
    Vip,
    /// The addresses of the running tasks.
    DnsRr,
}

/// A service as stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    /// Identity.
    pub id: ServiceId,
    /// As asked last.
    pub spec: ServiceSpec,
    /// The last version that had another spec: whoever has seen a later one knows
    /// this spec, whatever was written of its update since.
    #[serde(default)]
    pub spec_after: Revision,
    /// As asked before that, for rollback.
    #[serde(default)]
    pub previous: Option<Box<ServiceSpec>>,
    /// What was allocated for it.
    pub endpoint: Endpoint,
    /// When it was made.
    pub created: Timestamp,
    /// When it was last asked to be different.
    pub updated: Timestamp,
    /// How far the latest change of its tasks is; `None`: nothing was to be replaced.
    #[serde(default)]
    pub update_status: Option<UpdateStatus>,
    /// The client's own JSON, kept so that no field is lost.
    #[serde(default)]
    pub raw: serde_json::Value,
    /// The client's JSON that belongs to `previous`.
    #[serde(default)]
    pub raw_previous: serde_json::Value,
}

impl Service {
    /// The number of tasks wanted, on this many nodes.
    pub fn wanted_tasks(&self, nodes: u32) -> u32 {
        match self.spec.mode {
            Mode::Replicated { replicas } => replicas,
            Mode::Global => nodes,
        }
    }
}

/// What was allocated for a service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// One per network and family, in `vip` mode.
    pub vips: Vec<Vip>,
    /// The published ports, each with a number and a mark.
    pub ports: Vec<AllocatedPort>,
}

/// A virtual address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vip {
    /// Seen on this network.
    pub network: NetworkId,
    /// The address, from the network's VIP block.
    pub address: IpAddr,
    /// Mark of its TCP packets in the router namespace, and of SCTP's.
    pub tcp: Mark,
    /// Mark of its UDP packets; its own, because UDP drains otherwise than TCP.
    pub udp: Mark,
}

/// A published port with everything chosen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AllocatedPort {
    /// As asked, with `published` filled in.
    pub port: PublishedPort,
    /// Mark of its packets in the ingress namespace. Ports of a service that lead to
    /// the same port of its tasks share one, and so do those of a range that has the
    /// same numbers on both sides.
    pub mark: Mark,
    /// Number of the ingress address that stands for its host address, from
    /// [`ANY_INGRESS`] on, which is every address's.
    #[serde(default = "any_ingress")]
    pub ingress: u8,
    /// The mark is a range's: packets keep their port.
    #[serde(default)]
    pub keeps_port: bool,
    /// Number of an ingress address of the service's own, with affinity: IPVS does not
    /// translate the port of a persistent service by mark, so the host does.
    #[serde(default)]
    pub affine: Option<u8>,
}

/// Number of the ingress address of ports that answer on every host address.
pub const ANY_INGRESS: u8 = 2;

fn any_ingress() -> u8 {
    ANY_INGRESS
}

impl AllocatedPort {
    /// What it takes on the host.
    pub fn listener(&self) -> Listener {
        Listener {
            host_ip: self.port.host_ip,
            protocol: self.port.protocol,
            port: self.published(),
        }
    }

    /// The port on the host; 0 does not occur.
    pub fn published(&self) -> u16 {
        self.port.published.unwrap_or(0)
    }
}
