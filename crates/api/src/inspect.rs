//! The whole way to a service, from its names to its tasks: what is wanted, and
//! beside it what the kernel has.

use serde::{Deserialize, Serialize};

/// What is wanted beside what the kernel has; both as people read them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Compared {
    /// What is wanted; `None`: nothing is.
    pub wanted: Option<String>,
    /// What the kernel has; `None`: nothing.
    pub kernel: Option<String>,
}

impl Compared {
    /// Whether both are the same.
    pub fn agrees(&self) -> bool {
        self.wanted == self.kernel
    }
}

/// The whole way to one service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inspection {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// `vip` or `dnsrr`.
    pub mode: String,
    /// Tasks that run, and that are wanted.
    pub running: u32,
    /// Tasks that are wanted.
    pub replicas: u32,
    /// Names that lead to it.
    pub names: Vec<NameEntry>,
    /// Its VIPs, in the router namespace.
    pub vips: Vec<VipEntry>,
    /// Its published ports, on the host and in the ingress namespace.
    pub ports: Vec<PortEntry>,
    /// Its tasks.
    pub tasks: Vec<TaskEntry>,
    /// What is not as it should be, in words, with the next step.
    pub problems: Vec<String>,
}

/// A name on a network.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NameEntry {
    /// The network's name: only tasks on it see this.
    pub network: String,
    /// The name.
    pub name: String,
    /// What it resolves to.
    pub addresses: Vec<String>,
}

/// A VIP and what balances it, for one protocol.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VipEntry {
    /// The network's name.
    pub network: String,
    /// The VIP.
    pub address: String,
    /// `tcp` or `udp`.
    pub protocol: String,
    /// Its firewall mark, as `0x100`.
    pub mark: String,
    /// The entry in the router's set that gives packets the mark.
    pub entry: Compared,
    /// The IPVS service.
    pub service: ServiceEntry,
}

/// A published port and what balances it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortEntry {
    /// As `8080/tcp`.
    pub listener: String,
    /// The task's port.
    pub target: u16,
    /// Its firewall mark.
    pub mark: String,
    /// The entry in the host's set that sends packets to the ingress namespace.
    pub host: Compared,
    /// The entry in the ingress namespace's set that gives them the mark.
    pub entry: Compared,
    /// The IPVS service.
    pub service: ServiceEntry,
}

/// An IPVS service by firewall mark.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceEntry {
    /// Scheduler, flags and persistence.
    pub settings: Compared,
    /// Its destinations.
    pub destinations: Vec<DestinationEntry>,
}

/// A destination of an IPVS service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DestinationEntry {
    /// Address and port; port 0 keeps the packet's.
    pub address: String,
    /// The task's name, if it is one's.
    pub task: String,
    /// Weight.
    pub weight: Compared,
    /// Open connections.
    pub active: u32,
    /// Connections that are closing, and UDP flows.
    pub inactive: u32,
}

/// A task of the service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskEntry {
    /// Its id.
    pub id: String,
    /// As `vote.1`.
    pub name: String,
    /// Docker's word for its state, `draining` while it leaves.
    pub state: String,
    /// Its addresses.
    pub addresses: Vec<String>,
    /// Its network namespace's name under `/run/netns`.
    pub netns: String,
    /// The router's end of its veth.
    pub link: Compared,
    /// Why it failed.
    pub error: String,
}
