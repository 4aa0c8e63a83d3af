//! What the DNS responder is told: all names once, then what changes of them. It
//! keeps them when the daemon dies.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::{NetworkId, NodeId, Protocol, ServiceId, TaskId};

/// What may stand behind every name of the mesh: `vote.back.ipvsmesh` is `vote.back`,
/// and no such name is asked for elsewhere. One line of a resolver's configuration
/// leads all of them here.
pub const SUFFIX: &str = "ipvsmesh";

/// Changes from one revision to another.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Update {
    /// The revision that they lead from; `None`: they are all there is.
    pub since: Option<u64>,
    /// The revision that they lead to.
    pub revision: u64,
    /// More parts of this update follow; nothing is answered from them until then.
    pub more: bool,
    /// In the order in which they are made.
    pub changes: Vec<Change>,
}

/// One change. `None` takes something away; what is not there already is not missed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Change {
    /// What holds for all names.
    Mesh(Mesh),
    /// A network; with it go its services.
    Network(NetworkId, Option<Zone>),
    /// A service's names on a network.
    Service(NetworkId, ServiceId, Option<ServiceNames>),
    /// Who asks from an address.
    Client(IpAddr, Option<Client>),
}

/// What holds for all names.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mesh {
    /// TTL of our own answers, in seconds, where a service does not say another.
    pub ttl: u32,
    /// The mesh's address ranges: nobody outside knows names of theirs.
    pub own: Vec<IpNet>,
}

impl Mesh {
    /// Whether an address is out of the mesh's ranges.
    pub fn covers(&self, address: IpAddr) -> bool {
        self.own.iter().any(|net| net.contains(&address))
    }
}

/// A network.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Zone {
    /// Its name in lower case: `vote` is `vote.NETWORK` as well.
    pub name: String,
}

/// Who asks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Client {
    /// The networks whose names it sees, in the order in which they are searched.
    pub networks: Box<[NetworkId]>,
    /// Whether its other questions are forwarded; not from internal networks.
    pub forward: bool,
    /// Servers for these; empty: the host's.
    pub servers: Box<[IpAddr]>,
}

/// A service on a network. All text is in lower case.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceNames {
    /// Its name.
    pub name: Box<str>,
    /// What it is called besides.
    pub aliases: Box<[Box<str>]>,
    /// What its name means; none: the addresses of its tasks.
    pub vips: Box<[IpAddr]>,
    /// Those that serve.
    pub tasks: Box<[TaskNames]>,
    /// Ports with a name (RFC 2782).
    pub ports: Box<[PortName]>,
    /// TTL of its answers, in seconds.
    pub ttl: Option<u32>,
    /// How many addresses an answer has at most; 0: all.
    pub answers: u16,
}

/// A task on a network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskNames {
    /// One of its names.
    pub id: TaskId,
    /// `SERVICE.SLOT` is another.
    pub slot: u32,
    /// Without slots it is `SERVICE.NODE`.
    pub node: Option<Box<NodeId>>,
    /// Its addresses.
    pub addresses: Box<[IpAddr]>,
}

/// A port with a name: `_NAME._PROTOCOL.SERVICE`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PortName {
    /// Such as `http`, in lower case.
    pub name: Box<str>,
    /// Of the transport.
    pub protocol: Protocol,
    /// The tasks' port.
    pub port: u16,
}
