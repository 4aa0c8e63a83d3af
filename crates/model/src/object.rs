use std::{fmt, net::IpAddr};

use ipnet::IpNet;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    Blob, BlobId, BlobKind, Lease, Listener, Mark, Network, NetworkId, Node, NodeId, Pools,
    Revision, Service, ServiceId, Task, TaskId, TaskStatus,
};

/// Everything that is stored, one JSON value a key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Object {
    /// The mesh's address ranges.
    Pools(Pools),
    /// A node.
    Node(Node),
    /// A network.
    Network(Network),
    /// A node's block of a network.
    Lease(Lease),
    /// A service.
    Service(Box<Service>),
    /// A service that was removed and whose tasks have not ended yet.
    Leaving(Box<Service>),
    /// A task: what is wanted of it.
    Task(Box<Task>),
    /// A task: how it fares.
    Status(TaskStatus),
    /// A config or a secret.
    Blob(Blob),
    /// Something taken by somebody.
    Claim(Claim),
}

/// Something of which each value may be taken once.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Resource {
    /// A service's name, folded to lower case.
    ServiceName(String),
    /// A network's name, folded to lower case.
    NetworkName(String),
    /// The name of a config or of a secret, folded to lower case.
    BlobName(BlobKind, String),
    /// A network's task subnet or VIP block, or a node's block of the former.
    Block(IpNet),
    /// A VIP or a task's address.
    Address(IpAddr),
    /// A mark, in the router or the ingress namespace.
    Mark(Mark),
    /// A port on the hosts.
    Listener(Listener),
}

/// That something is taken. A claim that was given back stays as a tombstone
/// until it is old enough for nobody to remember the former owner.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// What is taken.
    pub resource: Resource,
    /// By which object: its id.
    pub owner: String,
    /// When it was given back.
    #[serde(default)]
    pub released: Option<Timestamp>,
}

/// Where an object is stored. Its text form is the store's key, so that one
/// prefix has all objects of a kind.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Key {
    /// `pools`
    Pools,
    /// `nodes/ID`
    Node(NodeId),
    /// `networks/ID`
    Network(NetworkId),
    /// `leases/NETWORK/NODE`
    Lease(NetworkId, NodeId),
    /// `services/ID`
    Service(ServiceId),
    /// `leaving/ID`
    Leaving(ServiceId),
    /// `tasks/ID`
    Task(TaskId),
    /// `status/ID`
    Status(TaskId),
    /// `blobs/ID`
    Blob(BlobId),
    /// `claims/KIND/VALUE`
    Claim(Resource),
}

impl Object {
    /// Where it belongs.
    pub fn key(&self) -> Key {
        match self {
            Self::Pools(_) => Key::Pools,
            Self::Node(node) => Key::Node(node.id.clone()),
            Self::Network(network) => Key::Network(network.id.clone()),
            Self::Lease(lease) => Key::Lease(lease.network.clone(), lease.node.clone()),
            Self::Service(service) => Key::Service(service.id.clone()),
            Self::Leaving(service) => Key::Leaving(service.id.clone()),
            Self::Task(task) => Key::Task(task.id.clone()),
            Self::Status(status) => Key::Status(status.task.clone()),
            Self::Blob(blob) => Key::Blob(blob.id.clone()),
            Self::Claim(claim) => Key::Claim(claim.resource.clone()),
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pools => write!(f, "pools"),
            Self::Node(id) => write!(f, "nodes/{id}"),
            Self::Network(id) => write!(f, "networks/{id}"),
            Self::Lease(network, node) => write!(f, "leases/{network}/{node}"),
            Self::Service(id) => write!(f, "services/{id}"),
            Self::Leaving(id) => write!(f, "leaving/{id}"),
            Self::Task(id) => write!(f, "tasks/{id}"),
            Self::Status(id) => write!(f, "status/{id}"),
            Self::Blob(id) => write!(f, "blobs/{id}"),
            Self::Claim(resource) => write!(f, "claims/{resource}"),
        }
    }
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ServiceName(name) => write!(f, "service-name/{name}"),
            Self::NetworkName(name) => write!(f, "network-name/{name}"),
            Self::BlobName(kind, name) => write!(f, "{kind}-name/{name}"),
            Self::Block(net) => write!(f, "block/{net}"),
            Self::Address(ip) => write!(f, "address/{ip}"),
            Self::Mark(mark) => write!(f, "mark/{mark}"),
            Self::Listener(listener) => write!(f, "listener/{listener}"),
        }
    }
}

/// What a transaction takes for granted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expect {
    /// Of this key,
    pub key: Key,
    /// that its version is this; `None`: that it does not exist.
    pub version: Option<Revision>,
}

/// One write.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Change {
    /// Make or replace.
    Put(Object),
    /// Delete; not an error where nothing is.
    Delete(Key),
}

impl Change {
    /// The key it writes.
    pub fn key(&self) -> Key {
        match self {
            Self::Put(object) => object.key(),
            Self::Delete(key) => key.clone(),
        }
    }
}

/// Writes that happen together at one revision, or not at all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Transaction {
    /// All of these must hold,
    pub expect: Vec<Expect>,
    /// then all of these are done.
    pub changes: Vec<Change>,
}

impl Transaction {
    /// Whether it would write nothing.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// Writes an object that must not exist yet.
    pub fn create(&mut self, object: Object) {
        self.expect.push(Expect {
            key: object.key(),
            version: None,
        });
        self.changes.push(Change::Put(object));
    }

    /// Replaces an object that must still have this version.
    pub fn replace(&mut self, version: Revision, object: Object) {
        self.expect.push(Expect {
            key: object.key(),
            version: Some(version),
        });
        self.changes.push(Change::Put(object));
    }

    /// Deletes an object that must still have this version.
    pub fn delete(&mut self, version: Revision, key: Key) {
        self.expect.push(Expect {
            key: key.clone(),
            version: Some(version),
        });
        self.changes.push(Change::Delete(key));
    }
}
