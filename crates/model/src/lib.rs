//! The words of ipvsmesh, and nothing that acts: services, tasks, networks,
//! nodes, their identities and names, and the [`State`] that all of them make.
//!
//! Everything here is plain data with serde and validation. No I/O, no clock,
//! no randomness: whoever needs those passes the result in.
#![forbid(unsafe_code)]

mod blob;
mod container;
mod differences;
mod dns_options;
mod duration;
mod elsewhere;
mod event;
mod id;
mod instance;
mod mark;
mod name;
pub mod names;
mod network;
mod node;
mod object;
mod options;
mod placement;
mod port;
mod probe;
mod registry_auth;
mod service;
mod state;
mod task;
mod text;
mod update;

pub use blob::{Blob, BlobKind, BlobSpec, FileRef, Octets};
pub use container::{
    ContainerSpec, DnsConfig, HealthCheck, InvalidPull, LogDriver, Mount, MountKind, PullPolicy,
    Resources, Ulimit,
};
pub use differences::differences;
pub use dns_options::DnsOptions;
pub use duration::{InvalidDuration, duration};
pub use elsewhere::{Candidate, Elsewhere, Guest, InvalidServer, Server};
pub use event::{Event, EventKind, Happened};
pub use id::{BlobId, NetworkId, NodeId, ServiceId, TaskId};
pub use instance::{Instance, InvalidInstance};
pub use mark::Mark;
pub use name::{InvalidName, Name};
pub use network::{Lease, Network, NetworkSpec, Pool, gateway};
pub use node::{Availability, Node, Pools, Ranges};
pub use object::{Change, Claim, Expect, Key, Object, Resource, Transaction};
pub use options::{
    Affinity, ConnectionLimit, InvalidOption, Options, SCHEDULERS, Scheduler, Weights, label,
};
pub use placement::{Constraint, InvalidConstraint, InvalidSpread, Placement, Spread};
pub use port::{InvalidPort, Listener, Protocol, PublishMode, PublishedPort};
pub use probe::{Probe, ProbeKind};
pub use registry_auth::RegistryAuth;
pub use service::{
    ANY_INGRESS, AllocatedPort, Endpoint, EndpointMode, EndpointSpec, Mode, NetworkAttachment,
    ProcessSpec, RestartCondition, RestartPolicy, RuntimeSpec, Service, ServiceSpec, TaskSpec, Vip,
};
pub use state::{Revision, State, Versioned};
pub use task::{Attachment, DesiredState, Health, ProcessIdentity, Task, TaskState, TaskStatus};
pub use update::{FailureAction, UpdateConfig, UpdateOrder, UpdateState, UpdateStatus};
