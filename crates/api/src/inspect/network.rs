use serde::{Deserialize, Serialize};

use super::Compared;

/// A network and who is on it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkInspection {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Whether it has no way out.
    pub internal: bool,
    /// Its addresses, by family.
    pub subnets: Vec<SubnetEntry>,
    /// What each node has of them.
    pub blocks: Vec<BlockEntry>,
    /// Services on it.
    pub services: Vec<MemberService>,
    /// Tasks on it.
    pub tasks: Vec<MemberTask>,
    /// Who may talk to whom, a sentence each.
    pub reach: Vec<String>,
    /// What is not as it should be, in words, with the next step.
    pub problems: Vec<String>,
}

/// The addresses of one family.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubnetEntry {
    /// `ipv4` or `ipv6`.
    pub family: String,
    /// Tasks' addresses.
    pub subnet: String,
    /// How many of them tasks have.
    pub used: u64,
    /// How many there are for tasks in the blocks of nodes; more where a node joins.
    pub usable: u64,
    /// VIPs.
    pub vips: String,
    /// How many of them services have.
    pub vips_used: u64,
}

/// A node's block of a network.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockEntry {
    /// The node's name.
    pub node: String,
    /// The block.
    pub block: String,
    /// Its gateway, which is its DNS server as well, in the node's router namespace; of
    /// other nodes the kernel's side is not known.
    pub gateway: Compared,
}

/// A service on a network.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberService {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Its other names there.
    pub aliases: Vec<String>,
    /// Its VIPs there; none with endpoint mode `dnsrr`.
    pub vips: Vec<String>,
}

/// A task on a network.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberTask {
    /// Its id.
    pub id: String,
    /// As `vote.1`.
    pub name: String,
    /// The node's name.
    pub node: String,
    /// Docker's word for its state, `draining` while it leaves.
    pub state: String,
    /// Its addresses there.
    pub addresses: Vec<String>,
}
