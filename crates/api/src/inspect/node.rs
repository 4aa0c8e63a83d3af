use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Compared, Part};

/// What a node has whatever services there are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeInspection {
    /// Its id.
    pub id: String,
    /// Its host name.
    pub name: String,
    /// Its number in the mesh.
    pub number: u8,
    /// Which daemon answers; empty for the default one.
    pub instance: String,
    /// The daemon's version.
    pub version: String,
    /// Addresses of the node's own, by what they are for.
    pub addresses: BTreeMap<String, String>,
    /// Its network namespaces: host, ingress, router, and each task's.
    pub namespaces: Vec<NamespaceEntry>,
    /// Processes of the mesh.
    pub processes: Vec<ProcessEntry>,
    /// What the daemon has counted since it began.
    pub counters: BTreeMap<String, u64>,
    /// Links, addresses, routes, sysctls, rules, sets and time-outs that all services share.
    pub parts: Vec<Part>,
    /// What is not as it should be, in words, with the next step.
    pub problems: Vec<String>,
}

/// A network namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamespaceEntry {
    /// `host`, `ingress`, `router`, or a task's name.
    pub place: String,
    /// Its name under `/run/netns`; the host's has none.
    pub name: String,
    /// Its inode, as `readlink /proc/PID/ns/net` shows it.
    pub inode: u64,
    /// Whether it is there.
    pub present: Compared,
}

/// A process of the mesh.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessEntry {
    /// `daemon`, `responder`, or a task's name.
    pub what: String,
    /// Its process id.
    pub pid: u32,
    /// What it has in memory, in octets.
    pub memory: u64,
    /// Seconds since it started.
    pub uptime: u64,
}
