//! What daemon and shim say to each other on the task's socket, a JSON line each
//! way; and the files in a task's directory.

use jiff::Timestamp;
use model::{ProcessIdentity, ProcessSpec};
use serde::{Deserialize, Serialize};

/// The shim's socket.
pub(crate) const SOCKET: &str = "control.sock";
/// [`Order`] of the daemon, as JSON.
pub(crate) const ORDER: &str = "task.json";
/// [`Report`] of the shim, as JSON, replaced at each change.
pub(crate) const REPORT: &str = "shim.json";
/// Why the shim could not begin.
pub(crate) const FAILURE: &str = "failure";

/// What a shim is made for.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Order {
    pub(crate) hostname: String,
    pub(crate) process: ProcessSpec,
    pub(crate) log: std::path::PathBuf,
    pub(crate) cgroup: std::path::PathBuf,
}

/// What a shim is asked.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Ask {
    /// Start the command.
    Start,
    /// Send this signal, and kill what is left after so many milliseconds.
    Stop { signal: i32, grace_ms: u64 },
    /// Only answer.
    Status,
    /// Answer, then each change as well.
    Watch,
    /// Kill what is left and end.
    Quit,
}

/// How the command is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Condition {
    Prepared,
    Running {
        pid: u32,
    },
    Exited {
        code: i32,
        error: String,
        rejected: bool,
        at: Timestamp,
    },
}

/// Who the shim is, and how its command is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Report {
    pub(crate) identity: ProcessIdentity,
    pub(crate) condition: Condition,
}
