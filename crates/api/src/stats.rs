//! What passes through services at one moment, by task: counters that only grow while a
//! task serves, and what is open now.

use std::ops::AddAssign;

use serde::{Deserialize, Serialize};

/// What the node that answers balances, by service and task.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Stats {
    /// All services, in order of their names.
    pub services: Vec<ServiceStats>,
}

/// One service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ServiceStats {
    /// Its id.
    #[serde(rename = "ID")]
    pub id: String,
    /// Its name.
    pub name: String,
    /// Tasks that run.
    pub running: u32,
    /// Tasks that are wanted.
    pub replicas: u32,
    /// Its tasks that are destinations.
    pub tasks: Vec<TaskStats>,
}

/// One task.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct TaskStats {
    /// Its id.
    #[serde(rename = "ID")]
    pub id: String,
    /// As `vote.1`.
    pub name: String,
    /// Docker's word for its state, `draining` while it leaves.
    pub state: String,
    /// By all VIPs and published ports together, as seen by this node.
    #[serde(flatten)]
    pub traffic: Traffic,
}

/// What went through destinations of IPVS (`struct ip_vs_kstats` of the kernel's
/// `include/net/ip_vs.h`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Traffic {
    /// Connections that are open.
    pub active: u64,
    /// Connections that are closing, and UDP flows.
    pub inactive: u64,
    /// Connections so far.
    pub connections: u64,
    /// Packets from clients so far.
    pub packets_in: u64,
    /// Packets to clients so far.
    pub packets_out: u64,
    /// Octets from clients so far.
    pub bytes_in: u64,
    /// Octets to clients so far.
    pub bytes_out: u64,
}

impl AddAssign for Traffic {
    fn add_assign(&mut self, other: Self) {
        self.active += other.active;
        self.inactive += other.inactive;
        self.connections += other.connections;
        self.packets_in += other.packets_in;
        self.packets_out += other.packets_out;
        self.bytes_in += other.bytes_in;
        self.bytes_out += other.bytes_out;
    }
}
