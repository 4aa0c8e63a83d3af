//! What is wanted of a service, a task, an address, a port, a network or a node, and
//! beside it what the kernel has. `docs/inspect.md` has the JSON, which only ever grows.

mod compared;
mod network;
mod node;
mod target;
mod way;

use serde::{Deserialize, Serialize};

pub use compared::{Compared, Part, Verdict};
pub use network::{BlockEntry, MemberService, MemberTask, NetworkInspection, SubnetEntry};
pub use node::{NamespaceEntry, NodeInspection, ProcessEntry};
pub use target::{PortTarget, Target};
pub use way::{
    DestinationEntry, Inspection, NameEntry, PortEntry, Rates, RuleEntry, ServiceEntry, TaskEntry,
    TrafficEntry, VipEntry,
};

/// What was looked at; `kind` says which.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Inspected {
    /// The whole way to a service.
    Service(Inspection),
    /// Of its service, what leads to one task, and more of that.
    Task(Inspection),
    /// Of its service, what leads there by one address.
    Vip(Inspection),
    /// Of its service, what leads there by one port.
    Port(Inspection),
    /// A network and who is on it.
    Network(NetworkInspection),
    /// What a node has whatever services there are.
    Node(NodeInspection),
}
