use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// How tasks are replaced where a service's task spec changed; SwarmKit's
/// `UpdateConfig`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct UpdateConfig {
    /// Slots that are worked on at once; 0: all.
    pub parallelism: u64,
    /// How long a worker rests after each slot.
    pub delay: Duration,
    /// What happens when too many new tasks fail.
    pub failure_action: FailureAction,
    /// A new task that ends within this time after it served is a failure.
    pub monitor: Duration,
    /// The share of slots, 0 to 1, of which the new task may fail.
    pub max_failure_ratio: f64,
    /// Which of the two tasks of a slot goes first.
    pub order: UpdateOrder,
}

/// Every value compares with itself: ratios are numbers from 0 to 1.
impl Eq for UpdateConfig {}

impl UpdateConfig {
    /// What Docker has where a monitor of 0 is given.
    pub const MONITOR: Duration = Duration::from_secs(5);
}

impl Default for UpdateConfig {
    /// One at a time, stopped first, watched for 5 s; a failure pauses: SwarmKit's
    /// defaults (`api/defaults/service.go`).
    fn default() -> Self {
        Self {
            parallelism: 1,
            delay: Duration::ZERO,
            failure_action: FailureAction::Pause,
            monitor: Self::MONITOR,
            max_failure_ratio: 0.0,
            order: UpdateOrder::StopFirst,
        }
    }
}

/// What happens when too many new tasks fail.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FailureAction {
    /// What was not replaced yet stays.
    #[default]
    Pause,
    /// Nothing.
    Continue,
    /// The service gets its previous spec again; in a rollback it pauses.
    Rollback,
}

impl FailureAction {
    /// Docker's word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pause => "pause",
            Self::Continue => "continue",
            Self::Rollback => "rollback",
        }
    }
}

/// Which of the two tasks of a slot goes first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum UpdateOrder {
    /// The old one ends before the new one starts.
    #[default]
    StopFirst,
    /// The new one serves before the old one leaves.
    StartFirst,
}

impl UpdateOrder {
    /// Docker's word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::StopFirst => "stop-first",
            Self::StartFirst => "start-first",
        }
    }
}

/// How far the latest change of a service's tasks is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpdateStatus {
    /// How far.
    pub state: UpdateState,
    /// Tasks with the service's task spec that were made from then on are its work.
    pub started: Timestamp,
    /// When it was done.
    #[serde(default)]
    pub completed: Option<Timestamp>,
    /// A line for people.
    pub message: String,
}

/// Docker's `ServiceUpdateStatus.State`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UpdateState {
    /// Tasks are being replaced.
    Updating,
    /// Too many new tasks failed.
    Paused,
    /// All were replaced.
    Completed,
    /// Tasks are being replaced by those of the previous spec.
    RollbackStarted,
    /// Too many of these failed.
    RollbackPaused,
    /// All were replaced back.
    RollbackCompleted,
}

impl UpdateState {
    /// Docker's word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Updating => "updating",
            Self::Paused => "paused",
            Self::Completed => "completed",
            Self::RollbackStarted => "rollback_started",
            Self::RollbackPaused => "rollback_paused",
            Self::RollbackCompleted => "rollback_completed",
        }
    }

    /// Whether it leads back to a previous spec.
    pub fn is_rollback(self) -> bool {
        matches!(
            self,
            Self::RollbackStarted | Self::RollbackPaused | Self::RollbackCompleted
        )
    }

    /// Whether tasks are being replaced.
    pub fn in_progress(self) -> bool {
        matches!(self, Self::Updating | Self::RollbackStarted)
    }

    /// Whether it waits for somebody to decide.
    pub fn is_paused(self) -> bool {
        matches!(self, Self::Paused | Self::RollbackPaused)
    }
}

impl UpdateStatus {
    /// An update that begins now.
    pub fn updating(now: Timestamp) -> Self {
        Self {
            state: UpdateState::Updating,
            started: now,
            completed: None,
            message: "update in progress".to_owned(),
        }
    }

    /// A rollback that begins now, for this reason.
    pub fn rolling_back(now: Timestamp, message: String) -> Self {
        Self {
            state: UpdateState::RollbackStarted,
            started: now,
            completed: None,
            message,
        }
    }

    /// The same, stopped for this reason.
    pub fn paused(&self, message: String) -> Self {
        let state = match self.state.is_rollback() {
            true => UpdateState::RollbackPaused,
            false => UpdateState::Paused,
        };
        Self {
            state,
            message,
            ..self.clone()
        }
    }

    /// The same, done. A rollback that had nothing to replace begins and ends at once,
    /// so that its end must say why it was.
    pub fn done(&self, now: Timestamp) -> Self {
        let (state, message) = match self.state.is_rollback() {
            true => {
                let message = format!("rollback completed: {}", self.message);
                (UpdateState::RollbackCompleted, message)
            }
            false => (UpdateState::Completed, "update completed".to_owned()),
        };
        Self {
            state,
            completed: Some(now),
            message,
            ..self.clone()
        }
    }
}
