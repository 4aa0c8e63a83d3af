//! `UpdateConfig` and `RollbackConfig`, which are alike.

use model::{FailureAction, UpdateConfig, UpdateOrder};
use serde_json::Value;

use super::duration;
use crate::ApiError;

/// Reads the one at `key` of a service's spec, whose types are checked.
pub(super) fn config(raw: &Value, key: &str) -> Result<UpdateConfig, ApiError> {
    let default = UpdateConfig::default();
    let Some(given) = raw.get(key).filter(|given| given.is_object()) else {
        return Ok(default);
    };
    let number = |word: &str| given.get(word).and_then(Value::as_i64);
    let word = |word: &str| given.get(word).and_then(Value::as_str).unwrap_or_default();
    let time = |word: &str| duration(number(word), &format!("{key}.{word}"));
    let parallelism = number("Parallelism").unwrap_or(0);
    let ratio = given.get("MaxFailureRatio").and_then(Value::as_f64);
    let ratio = ratio.unwrap_or(0.0);
    if !(0.0..=1.0).contains(&ratio) {
        return Err(ApiError::invalid(format!(
            "{key}.MaxFailureRatio: {ratio} is not a share: use a number from 0 to 1"
        )));
    }
    Ok(UpdateConfig {
        // Docker's form has 0, all at once, where it is left out
        parallelism: u64::try_from(parallelism).map_err(|_| {
            ApiError::invalid(format!("{key}.Parallelism: {parallelism} is negative"))
        })?,
        delay: time("Delay")?.unwrap_or(default.delay),
        failure_action: match word("FailureAction") {
            "continue" => FailureAction::Continue,
            "rollback" => FailureAction::Rollback,
            _ => FailureAction::Pause,
        },
        monitor: time("Monitor")?
            .filter(|monitor| !monitor.is_zero())
            .unwrap_or(default.monitor),
        max_failure_ratio: ratio,
        order: match word("Order") {
            "start-first" => UpdateOrder::StartFirst,
            _ => UpdateOrder::StopFirst,
        },
    })
}
