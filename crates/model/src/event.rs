use std::collections::BTreeMap;

use jiff::Timestamp;

use crate::{NodeId, ServiceId};

/// Something that happened, with who it happened to and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// To what kind of thing.
    pub kind: EventKind,
    /// What happened, in one word.
    pub action: &'static str,
    /// The thing's id.
    pub actor: String,
    /// More about it, by Docker's keys where it has them: `name`, `exitCode`,
    /// `replicas.old`, `updatestate.new`; `reason` says why.
    pub attributes: BTreeMap<&'static str, String>,
    /// The service that it is about, if it is about one.
    pub service: Option<ServiceId>,
    /// The node where it happened, if it was on one.
    pub node: Option<NodeId>,
}

/// What kind of thing an event is about: Docker's words and some of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// A config: `create`, `update`, `remove`.
    Config,
    /// The daemon itself: `start`, `lost` (events, by a slow reader).
    Daemon,
    /// What a node has in its kernel: `repair`.
    Datapath,
    /// A task as a place where connections go: `add`, `drain`, `remove`.
    Destination,
    /// A network: `create`, `update`, `remove`.
    Network,
    /// A node: `create`, `update`, `remove`.
    Node,
    /// The process that answers names: `start`.
    Responder,
    /// A secret: `create`, `update`, `remove`.
    Secret,
    /// A service: `create`, `update`, `remove`.
    Service,
    /// A task: `create`, Docker's words for its states, `health_status`, `remove`.
    Task,
}

impl EventKind {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Config => "config",
            Self::Daemon => "daemon",
            Self::Datapath => "datapath",
            Self::Destination => "destination",
            Self::Network => "network",
            Self::Node => "node",
            Self::Responder => "responder",
            Self::Secret => "secret",
            Self::Service => "service",
            Self::Task => "task",
        }
    }

    /// Docker's word for how far it can be seen from: from the whole mesh, or only
    /// from the node where it happened.
    pub fn scope(self) -> &'static str {
        match self {
            Self::Daemon | Self::Datapath | Self::Responder => "local",
            Self::Config
            | Self::Secret
            | Self::Destination
            | Self::Network
            | Self::Node
            | Self::Service
            | Self::Task => "swarm",
        }
    }
}

impl Event {
    /// Of which nothing more is known yet.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "ids and numbers, or references"
    )]
    pub fn new(kind: EventKind, action: &'static str, actor: impl ToString) -> Self {
        Self {
            kind,
            action,
            actor: actor.to_string(),
            attributes: BTreeMap::new(),
            service: None,
            node: None,
        }
    }

    /// With one more attribute; without it, where the value is empty.
    #[must_use]
    #[expect(
        clippy::needless_pass_by_value,
        reason = "texts and numbers, or references"
    )]
    pub fn with(mut self, key: &'static str, value: impl ToString) -> Self {
        let value = value.to_string();
        if !value.is_empty() {
            self.attributes.insert(key, value);
        }
        self
    }
}

/// An event and when it was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Happened {
    /// When.
    pub at: Timestamp,
    /// What.
    pub event: Event,
}
