//! Waits until a service is as it was asked to be.

use std::{
    collections::BTreeMap,
    io::IsTerminal as _,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use api::client::{Client, Filters};
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use super::bars::Bars;
use crate::output::{self, number, text};

/// How often the tasks are looked at.
const LOOK: Duration = Duration::from_millis(250);
/// All must run for so long: a command that fails at once does so within it.
const STABLE: Duration = Duration::from_secs(1);
/// So many failures of one slot in a row are no accident.
const FAILURES: usize = 3;
/// What stands in a task's way and may go by itself, a Docker that is being restarted,
/// is given so long.
const OBSTRUCTED: SignedDuration = SignedDuration::from_secs(30);
/// A task that failed is replaced within this time, if it is replaced at all.
const REPLACED: SignedDuration = SignedDuration::from_secs(2);

/// What a service was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    /// To be like its spec.
    Spec,
    /// To be like its previous spec.
    Rollback,
}

/// Waits until all tasks of a service run as asked, and shows how far it is where
/// somebody looks at it. Who presses Ctrl-C does not want to wait any longer; the
/// mesh goes on.
pub(crate) async fn converge(
    client: &Client,
    name: &str,
    asked: Asked,
    quiet: bool,
) -> anyhow::Result<()> {
    tokio::select! {
        converged = watch(client, name, asked, quiet) => converged,
        interrupted = tokio::signal::ctrl_c() => {
            interrupted.context("cannot listen for Ctrl-C")?;
            match quiet {
                true => Ok(()),
                false => output::print_error(format!(
                    "\nOperation continuing in background.\nUse `ipvsmesh service ps {name}` to check progress.\n"
                )),
            }
        }
    }
}

async fn watch(client: &Client, name: &str, asked: Asked, quiet: bool) -> anyhow::Result<()> {
    let mut bars = Bars::new(!quiet && std::io::stderr().is_terminal());
    let mut running_since = None;
    let mut why = String::new();
    loop {
        let service = client.service(name).await?;
        let mut filters = Filters::one("service", text(&service, "/ID"));
        filters.add("_up-to-date", "true");
        let tasks = client.tasks(&filters).await?;
        let wanted = match service.pointer("/Spec/Mode/Global") {
            Some(_) => client.nodes(&Filters::default()).await?.len(),
            None => usize::try_from(number(&service, "/Spec/Mode/Replicated/Replicas"))?,
        };
        let name = text(&service, "/Spec/Name");
        let (state, message) = (
            text(&service, "/UpdateStatus/State"),
            text(&service, "/UpdateStatus/Message"),
        );
        let rolling_back = state.starts_with("rollback") && asked != Asked::Rollback;
        if state == "rollback_started" && why != message {
            message.clone_into(&mut why);
            if rolling_back {
                bars.say(&format!("rollback: {why}"))?;
            }
        }
        let stopped = match state {
            "paused" => Some(format!(
                "service update paused: {message}; what runs goes on: see ipvsmesh service ps {name}, then change it (service update) or undo it (service rollback {name})"
            )),
            "rollback_paused" => Some(format!(
                "service rollback paused: {message}; what runs goes on: see ipvsmesh service ps {name}, then change it (service update)"
            )),
            _ => None,
        };
        let in_progress = state == "updating" || state == "rollback_started";
        // what tasks that fail lead to is the update's affair
        let decided = in_progress && failure_action(&service, state) != "continue";
        let failed = || failure(&service, &tasks, Timestamp::now()).filter(|_| !decided);
        if let Some(stopped) = stopped {
            bars.end()?;
            bail!(stopped);
        }
        if let Some(failure) = failed() {
            bars.end()?;
            bail!(
                "service {name} does not come up: {failure}; it stays as it is: see ipvsmesh service logs {name}, change it (service update) or remove it (service rm {name})"
            );
        }
        let done = tasks.iter().filter(|task| is_done(task)).count();
        bars.show(done, wanted, &tasks)?;
        if done == wanted {
            let stable = running_since.get_or_insert_with(Instant::now).elapsed() >= STABLE;
            if stable && !in_progress {
                client.settled().await?;
                if rolling_back {
                    bars.end()?;
                    let why = message.trim_start_matches("rollback completed: ");
                    bail!("service rolled back: {why}");
                }
                bars.say(&format!("verify: Service {name} converged"))?;
                return Ok(());
            }
            bars.verify(in_progress)?;
        } else {
            running_since = None;
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// What the update that goes on does when tasks fail.
fn failure_action<'a>(service: &'a Value, state: &str) -> &'a str {
    match state {
        "updating" => text(service, "/Spec/UpdateConfig/FailureAction"),
        _ => text(service, "/Spec/RollbackConfig/FailureAction"),
    }
}
/// Runs, or ended well and is not wanted again.
fn is_done(task: &Value) -> bool {
    let state = text(task, "/Status/State");
    text(task, "/DesiredState") == "running" && (state == "running" || state == "complete")
}

/// Why waiting longer is of no use.
fn failure(service: &Value, tasks: &[Value], now: Timestamp) -> Option<String> {
    let time = |value: &Value, pointer| text(value, pointer).parse::<Timestamp>().ok();
    let asked = time(service, "/UpdatedAt");
    let is_new = |task: &Value| time(task, "/CreatedAt") >= asked;
    let mut failures: BTreeMap<&str, usize> = BTreeMap::new();
    for task in tasks {
        let state = text(task, "/Status/State");
        let why = text(task, "/Status/Err");
        let stays = |limit| {
            let since = time(task, "/Status/Timestamp").unwrap_or(now);
            text(task, "/DesiredState") == "running" && now.duration_since(since) >= limit
        };
        let given_up = || stays(REPLACED);
        let fatal = match state {
            "rejected" => is_new(task) || given_up(),
            "failed" => {
                let count = failures.entry(text(task, "/Name")).or_default();
                *count += usize::from(is_new(task));
                *count >= FAILURES || given_up()
            }
            "preparing" => !why.is_empty() && stays(OBSTRUCTED),
            _ => false,
        };
        if fatal {
            return Some(format!("task {} {state}: {why}", text(task, "/Name")));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const ASKED: &str = "2026-01-01T00:00:10Z";
    const BEFORE: &str = "2026-01-01T00:00:00Z";
    const AFTER: &str = "2026-01-01T00:00:10.1Z";

    fn task(created: &str, desired: &str, state: &str) -> Value {
        json!({
            "Name": "web.1",
            "CreatedAt": created,
            "DesiredState": desired,
            "Status": {"State": state, "Err": "why", "Timestamp": created},
        })
    }

    fn fails(tasks: &[Value], now: &str) -> Option<String> {
        failure(&json!({"UpdatedAt": ASKED}), tasks, now.parse().unwrap())
    }

    #[test]
    fn a_rejected_task_ends_the_wait() {
        let rejected = task(AFTER, "shutdown", "rejected");
        assert_eq!(
            fails(&[rejected], AFTER).unwrap(),
            "task web.1 rejected: why"
        );
        // history says nothing about what was asked since
        assert_eq!(fails(&[task(BEFORE, "shutdown", "rejected")], AFTER), None);
    }

    #[test]
    fn one_failure_is_forgiven_three_are_not() {
        let failed = || task(AFTER, "shutdown", "failed");
        assert_eq!(fails(&[failed(), failed()], AFTER), None);
        assert!(fails(&[failed(), failed(), failed()], AFTER).is_some());
        let old = || task(BEFORE, "shutdown", "failed");
        assert_eq!(fails(&[old(), old(), old()], AFTER), None);
    }

    #[test]
    fn a_task_that_is_not_replaced_ends_the_wait() {
        let failed = [task(AFTER, "running", "failed")];
        assert_eq!(fails(&failed, "2026-01-01T00:00:11Z"), None);
        assert!(fails(&failed, "2026-01-01T00:00:13Z").is_some());
    }

    #[test]
    fn what_may_go_by_itself_is_waited_for_a_while() {
        let mut preparing = task(AFTER, "running", "preparing");
        assert_eq!(fails(&[preparing.clone()], "2026-01-01T00:00:40Z"), None);
        assert_eq!(
            fails(&[preparing.clone()], "2026-01-01T00:00:41Z").unwrap(),
            "task web.1 preparing: why"
        );
        // an image may take long
        preparing["Status"]["Err"] = json!("");
        assert_eq!(fails(&[preparing], "2026-01-01T01:00:00Z"), None);
    }

    #[test]
    fn what_ended_well_is_done() {
        assert!(is_done(&task(AFTER, "running", "running")));
        assert!(is_done(&task(AFTER, "running", "complete")));
        assert!(!is_done(&task(AFTER, "shutdown", "complete")));
        assert!(!is_done(&task(AFTER, "running", "preparing")));
    }
}
