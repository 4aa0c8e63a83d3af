use std::net::IpAddr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{Elsewhere, Name, NetworkId, NodeId, ServiceId, TaskId, TaskSpec};

/// One run of one replica: what is wanted. How it fares is its [`TaskStatus`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Task {
    /// Identity; its namespace, veth and addresses belong to it alone.
    pub id: TaskId,
    /// Of this service.
    pub service: ServiceId,
    /// The service's name when the task was made.
    pub service_name: Name,
    /// Which replica, from 1; 0 in global mode.
    pub slot: u32,
    /// Runs on this node.
    pub node: NodeId,
    /// What it is.
    pub spec: TaskSpec,
    /// Its places on networks, in the spec's order.
    pub attachments: Vec<Attachment>,
    /// What is wanted of it.
    pub desired: DesiredState,
    /// When it was made.
    pub created: Timestamp,
    /// Not to be started before this moment (restart delay).
    #[serde(default)]
    pub not_before: Option<Timestamp>,
    /// Where it is, if it is none of the mesh's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub elsewhere: Option<Elsewhere>,
}

impl Task {
    /// `SERVICE.SLOT`, as docker shows tasks; `SERVICE.NODE-ID` in global mode.
    pub fn name(&self) -> String {
        if self.slot == 0 {
            format!("{}.{}", self.service_name, self.node)
        } else {
            format!("{}.{}", self.service_name, self.slot)
        }
    }

    /// Name of its container, if it is in one: `SERVICE.SLOT.ID`, as Swarm has it.
    pub fn container_name(&self) -> String {
        format!("{}.{}", self.name(), self.id)
    }

    /// Name of the router's end of its veth: 13 characters (links have 15 at most).
    pub fn link(&self) -> String {
        format!("t{}", self.id.short())
    }

    /// The port that packets for this one of its ports are sent to.
    pub fn port(&self, asked: u16) -> u16 {
        let own = self.elsewhere.as_ref().and_then(|elsewhere| elsewhere.port);
        own.unwrap_or(asked)
    }

    /// Its addresses on all of its networks.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.attachments
            .iter()
            .flat_map(|attachment| attachment.addresses.iter().copied())
    }
}

/// A task's place on a network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attachment {
    /// Which network.
    pub network: NetworkId,
    /// One per family.
    pub addresses: Vec<IpAddr>,
}

/// What is wanted of a task. It only ever moves down this list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DesiredState {
    /// It shall run and serve.
    Running,
    /// It shall be drained, stopped, and kept as history.
    Shutdown,
    /// It shall be drained, stopped and forgotten.
    Remove,
}

/// How far a task is, in SwarmKit's order and words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TaskState {
    /// Made, not seen by its node yet.
    New,
    /// Waits for a node, or for its restart delay.
    Pending,
    /// Its node has it.
    Assigned,
    /// Its namespace is being made and attached.
    Preparing,
    /// Its command is being started, or is not healthy yet.
    Starting,
    /// Serves.
    Running,
    /// Ended by itself with status 0.
    Complete,
    /// Ended because that was asked.
    Shutdown,
    /// Ended by itself with another status, or died.
    Failed,
    /// Could not be started.
    Rejected,
    /// Its node is gone.
    Orphaned,
}

impl TaskState {
    /// Nothing of it runs any more.
    pub fn is_final(self) -> bool {
        self > Self::Running
    }

    /// Docker's lower-case word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Pending => "pending",
            Self::Assigned => "assigned",
            Self::Preparing => "preparing",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Complete => "complete",
            Self::Shutdown => "shutdown",
            Self::Failed => "failed",
            Self::Rejected => "rejected",
            Self::Orphaned => "orphaned",
        }
    }
}

/// What a check of a task that runs says of it; Docker's words.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Health {
    /// Nothing checks it.
    #[default]
    None,
    /// It was not well yet, and may still become so.
    Starting,
    /// It serves.
    Healthy,
    /// It failed its check as often as is too often.
    Unhealthy,
}

/// How a task fares: written by its node only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskStatus {
    /// Of this task.
    pub task: TaskId,
    /// How far it is.
    pub state: TaskState,
    /// Since when.
    pub since: Timestamp,
    /// Since when it serves, or did.
    #[serde(default)]
    pub started: Option<Timestamp>,
    /// One word or line on what happens ("started").
    #[serde(default)]
    pub message: String,
    /// Why it failed; empty otherwise.
    #[serde(default)]
    pub error: String,
    /// Exit status, 128 + signal where it was killed.
    #[serde(default)]
    pub exit_code: Option<i32>,
    /// What runs, while something does.
    #[serde(default)]
    pub process: Option<ProcessIdentity>,
    /// It is leaving: no new connections (weight 0), open ones may end.
    #[serde(default)]
    pub draining: bool,
    /// Since when; what open connections may take counts from then.
    #[serde(default)]
    pub draining_since: Option<Timestamp>,
    /// Its command has ended, and it is not known yet how: it is no destination.
    #[serde(default)]
    pub ended: bool,
    /// Whether its namespace, veth and address still exist on its node.
    #[serde(default)]
    pub attached: bool,
}

impl TaskStatus {
    /// Its command runs, as far as its node can tell; it may be leaving.
    pub fn runs(&self) -> bool {
        self.state == TaskState::Running && !self.ended
    }

    /// Takes connections, as far as its node can tell.
    pub fn serves(&self) -> bool {
        self.runs() && !self.draining
    }

    /// That of a task for which nothing was done yet.
    pub fn new(task: TaskId, since: Timestamp) -> Self {
        Self {
            task,
            state: TaskState::New,
            since,
            started: None,
            message: String::new(),
            error: String::new(),
            exit_code: None,
            process: None,
            draining: false,
            draining_since: None,
            ended: false,
            attached: false,
        }
    }
}

/// Which process exactly: a pid alone may long be another's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessIdentity {
    /// Process id in the host's pid namespace.
    pub pid: u32,
    /// Field 22 of `/proc/PID/stat`: clock ticks from boot to its start.
    pub start_time: u64,
    /// `/proc/sys/kernel/random/boot_id`.
    pub boot_id: String,
    /// Inode of its network namespace (`/proc/PID/ns/net`).
    pub netns_inode: u64,
}
