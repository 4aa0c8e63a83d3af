//! Flags for how tasks are replaced.

use std::time::Duration;

use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use super::create::{nanoseconds, word};
use crate::words;

/// How tasks are replaced by an update and by a rollback; of `create` and of `update`.
#[derive(Debug, Args)]
pub(super) struct Rollout {
    /// How many tasks are replaced at once, 0 for all (default 1)
    #[arg(long, value_name = "N")]
    update_parallelism: Option<u64>,
    /// How long to wait after each (default 0s)
    #[arg(long, value_name = "DURATION", value_parser = words::duration)]
    update_delay: Option<Duration>,
    /// What happens when new tasks fail (default pause)
    #[arg(long, value_enum, value_name = "ACTION")]
    update_failure_action: Option<Action>,
    /// For how long a new task that ends is one that failed (default 5s)
    #[arg(long, value_name = "DURATION", value_parser = words::duration)]
    update_monitor: Option<Duration>,
    /// The share of tasks that may fail, from 0 to 1 (default 0)
    #[arg(long, value_name = "RATIO", value_parser = ratio)]
    update_max_failure_ratio: Option<f64>,
    /// Which of the two tasks goes first (default stop-first)
    #[arg(long, value_enum, value_name = "ORDER")]
    update_order: Option<Order>,
    /// The same of a rollback
    #[arg(long, value_name = "N")]
    rollback_parallelism: Option<u64>,
    /// The same of a rollback
    #[arg(long, value_name = "DURATION", value_parser = words::duration)]
    rollback_delay: Option<Duration>,
    /// The same of a rollback
    #[arg(long, value_enum, value_name = "ACTION")]
    rollback_failure_action: Option<BackAction>,
    /// The same of a rollback
    #[arg(long, value_name = "DURATION", value_parser = words::duration)]
    rollback_monitor: Option<Duration>,
    /// The same of a rollback
    #[arg(long, value_name = "RATIO", value_parser = ratio)]
    rollback_max_failure_ratio: Option<f64>,
    /// The same of a rollback
    #[arg(long, value_enum, value_name = "ORDER")]
    rollback_order: Option<Order>,
}

/// `--update-failure-action`
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Action {
    /// What was not replaced yet stays
    Pause,
    /// Nothing
    Continue,
    /// The service gets its previous spec again
    Rollback,
}

/// `--rollback-failure-action`
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum BackAction {
    /// What was not replaced yet stays
    Pause,
    /// Nothing
    Continue,
}

/// `--update-order`, `--rollback-order`
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Order {
    /// The old one ends before the new one starts
    StopFirst,
    /// The new one serves before the old one leaves
    StartFirst,
}

/// A number from 0 to 1.
fn ratio(text: &str) -> Result<f64, String> {
    let number = text.parse().ok();
    number
        .filter(|ratio| (0.0..=1.0).contains(ratio))
        .ok_or_else(|| "use a number from 0 to 1".to_owned())
}

impl Rollout {
    /// Writes what was given into a spec; what it does not say beside that has
    /// docker's defaults.
    pub(super) fn apply(&self, spec: &mut Value) {
        let update = [
            ("Parallelism", self.update_parallelism.map(|n| json!(n))),
            ("Delay", self.update_delay.map(nanoseconds)),
            (
                "FailureAction",
                self.update_failure_action.as_ref().map(said),
            ),
            ("Monitor", self.update_monitor.map(nanoseconds)),
            (
                "MaxFailureRatio",
                self.update_max_failure_ratio.map(|n| json!(n)),
            ),
            ("Order", self.update_order.as_ref().map(said)),
        ];
        let rollback = [
            ("Parallelism", self.rollback_parallelism.map(|n| json!(n))),
            ("Delay", self.rollback_delay.map(nanoseconds)),
            (
                "FailureAction",
                self.rollback_failure_action.as_ref().map(said),
            ),
            ("Monitor", self.rollback_monitor.map(nanoseconds)),
            (
                "MaxFailureRatio",
                self.rollback_max_failure_ratio.map(|n| json!(n)),
            ),
            ("Order", self.rollback_order.as_ref().map(said)),
        ];
        for (at, given) in [("UpdateConfig", update), ("RollbackConfig", rollback)] {
            for (key, value) in given {
                let Some(value) = value else { continue };
                if spec[at].is_null() {
                    spec[at] = json!({"Parallelism": 1});
                }
                spec[at][key] = value;
            }
        }
    }
}

fn said(value: &impl ValueEnum) -> Value {
    json!(word(value))
}
