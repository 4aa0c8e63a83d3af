//! How tasks are asked to end, and made to.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use model::TaskId;
use tokio::time::sleep;

use super::{Inner, engine::is_missing, lock, look, phase::State, record::Stop};
use crate::{RuntimeError, identity};

/// How often a time of grace is looked at, which may be shortened.
const GRACE: Duration = Duration::from_millis(500);

impl Inner {
    /// Asks a task to end, and kills it when its time is over.
    pub(super) async fn stop(
        self: &Arc<Self>,
        task: &TaskId,
        signal: Option<&str>,
        grace: Duration,
    ) -> Result<(), RuntimeError> {
        let Some(record) = self.records.get(task) else {
            return Ok(());
        };
        let client = self.engine.client().await?;
        let inspected = client.inspect_container(&record.name, None).await;
        let inspected = match inspected {
            Err(error) if is_missing(&error) => return Ok(()),
            inspected => {
                inspected.map_err(|e| self.engine.failed("look at container", &record.name, &e))?
            }
        };
        let own = inspected
            .config
            .as_ref()
            .and_then(|c| c.stop_signal.clone());
        let State::Running { pid, .. } = look::container(inspected).state else {
            return Ok(());
        };
        if self.gates.of(task).holds(pid) {
            // nobody is there who could handle a signal
            return self.signal(&client, &record.name, "SIGKILL").await;
        }
        let own = own.filter(|signal| !signal.is_empty());
        let signal = signal.map(str::to_owned).or(own);
        let signal = signal.unwrap_or_else(|| "SIGTERM".to_owned());
        let asked = Timestamp::now().saturating_add(grace);
        let deadline = asked.unwrap_or(Timestamp::MAX);
        let before = record.stop.as_ref();
        let stop = Stop {
            signal: signal.clone(),
            deadline: before.map_or(deadline, |before| before.deadline.min(deadline)),
        };
        if before.is_none_or(|before| before.signal != signal) {
            self.signal(&client, &record.name, &signal).await?;
        }
        let records = &self.records;
        records.change(task, |record| record.stop = Some(stop))?;
        self.keep_grace(task);
        Ok(())
    }

    /// Kills a task when its time of grace is over, however often that is shortened.
    pub(super) fn keep_grace(self: &Arc<Self>, task: &TaskId) {
        if !lock(&self.stopping).insert(task.clone()) {
            return;
        }
        let (this, task) = (self.clone(), task.clone());
        tokio::spawn(async move {
            while let Some(record) = this.records.get(&task) {
                let Some(stop) = record.stop.as_ref().filter(|_| !record.removed) else {
                    break;
                };
                let left = Duration::try_from(stop.deadline - Timestamp::now());
                match left {
                    Ok(left) if !left.is_zero() => sleep(left.min(GRACE)).await,
                    _ => {
                        let killed = async {
                            let client = this.engine.client().await?;
                            this.signal(&client, &record.name, "SIGKILL").await
                        };
                        if let Err(error) = killed.await {
                            // whoever wants it stopped asks again
                            tracing::warn!(%task, %error, "cannot kill a task");
                        }
                        break;
                    }
                }
                let ended = record
                    .process
                    .as_ref()
                    .is_none_or(|id| !identity::lives(id));
                if ended {
                    break;
                }
            }
            lock(&this.stopping).remove(&task);
        });
    }
}
