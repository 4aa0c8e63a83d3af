use serde::{Deserialize, Serialize};

use super::{Compared, Part};

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
    /// The network's name: only tasks on it and the host see this.
    pub network: String,
    /// The name.
    pub name: String,
    /// What it resolves to.
    pub addresses: Vec<String>,
    /// Services whose tasks see it, by their names; the host does in any case.
    #[serde(default)]
    pub seen_by: Vec<String>,
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
    /// `ingress` or `host`.
    #[serde(default)]
    pub mode: String,
    /// Its firewall mark.
    pub mark: String,
    /// The host's rule that sends its packets to the ingress namespace.
    #[serde(default)]
    pub rule: RuleEntry,
    /// Programs that listen at the same address and port of the host, and get nothing
    /// from elsewhere.
    #[serde(default)]
    pub others: Vec<String>,
    /// The entry in the host's set that sends packets to the ingress namespace.
    pub host: Compared,
    /// The entry in the ingress namespace's set that gives them the mark.
    pub entry: Compared,
    /// The IPVS service.
    pub service: ServiceEntry,
}

/// A rule of iptables.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleEntry {
    /// As `iptables-save` prints it, with its chain.
    pub rule: Compared,
    /// Whether other ports have the same one.
    pub shared: bool,
    /// First packets of connections that it sent there, since the table was written.
    pub packets: u64,
    /// Their octets.
    pub bytes: u64,
}

/// An IPVS service by firewall mark.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceEntry {
    /// Scheduler, flags and persistence.
    pub settings: Compared,
    /// Time-outs of the namespace.
    #[serde(default)]
    pub timeouts: Compared,
    /// What went by it, whichever destinations it has had.
    #[serde(default)]
    pub traffic: TrafficEntry,
    /// Its destinations.
    pub destinations: Vec<DestinationEntry>,
}

/// What IPVS counts: totals, and averages of the last seconds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrafficEntry {
    /// Connections that were balanced.
    pub connections: u64,
    /// Packets from clients.
    pub packets_in: u64,
    /// Packets to clients.
    pub packets_out: u64,
    /// Octets from clients.
    pub bytes_in: u64,
    /// Octets to clients.
    pub bytes_out: u64,
    /// The same a second, now.
    pub rates: Rates,
}

/// What goes by in a second.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rates {
    /// New connections.
    pub connections: u64,
    /// Packets from clients.
    pub packets_in: u64,
    /// Packets to clients.
    pub packets_out: u64,
    /// Octets from clients.
    pub bytes_in: u64,
    /// Octets to clients.
    pub bytes_out: u64,
}

/// A destination of an IPVS service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DestinationEntry {
    /// Address and port; port 0 keeps the packet's.
    pub address: String,
    /// The task's name, if it is one's.
    pub task: String,
    /// The task's node.
    #[serde(default)]
    pub node: String,
    /// The task's state, as in [`TaskEntry`].
    #[serde(default)]
    pub state: String,
    /// The task's health, as in [`TaskEntry`].
    #[serde(default)]
    pub health: String,
    /// Weight.
    pub weight: Compared,
    /// Open connections.
    pub active: u32,
    /// Connections that are closing, and UDP flows.
    pub inactive: u32,
    /// Clients that affinity keeps with it.
    #[serde(default)]
    pub persistent: u32,
    /// What went by it.
    #[serde(default)]
    pub traffic: TrafficEntry,
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
    /// Its node's name.
    #[serde(default)]
    pub node: String,
    /// What a check of it says: `starting`, `healthy`, `unhealthy`; empty without one.
    #[serde(default)]
    pub health: String,
    /// Its addresses.
    pub addresses: Vec<String>,
    /// Its network namespace's name under `/run/netns`.
    pub netns: String,
    /// The router's end of its veth.
    pub link: Compared,
    /// The router's routes to its addresses.
    #[serde(default)]
    pub routes: Vec<Part>,
    /// What listens inside, such as `0.0.0.0:80/tcp whoami (pid 7)`; `None`: its
    /// namespace was not looked into.
    #[serde(default)]
    pub listens: Option<Vec<String>>,
    /// What its own namespace has, where the task itself was asked for.
    #[serde(default)]
    pub inside: Vec<Part>,
    /// Why it failed.
    pub error: String,
}
