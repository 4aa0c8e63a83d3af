//! What tasks are at, by Docker or without it, and who is told.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use jiff::Timestamp;
use model::{Health, ProcessIdentity, TaskId};
use tokio::time::timeout;

use super::{
    Inner, boot_id, lock, look,
    phase::{self, Container},
    record::Record,
};
use crate::{Event, Observed, Phase, RuntimeError, identity};

/// An engine that takes longer to say what there is is as good as absent: nobody
/// waits for it, a starting daemon least of all.
const LIMIT: Duration = Duration::from_secs(10);

impl Inner {
    /// What a task is at, by its container; and what follows from that: who runs is
    /// written down and watched.
    fn settle(
        self: &Arc<Self>,
        task: &TaskId,
        record: &Record,
        container: Option<&Container>,
    ) -> Observed {
        let held = |pid| self.gates.of(task).holds(pid);
        let now = Timestamp::now();
        let observed = phase::by_docker(task, record, container, held, &boot_id(), now);
        if let Some(identity) = &observed.identity {
            let noted = self.records.change(task, |record| {
                record.process.get_or_insert_with(|| identity.clone());
            });
            if let Err(error) = noted {
                tracing::warn!(%task, %error, "cannot write down who runs");
            }
            self.watch(task, identity);
        }
        observed
    }

    /// Tells of the end of a task's process when it comes, which Docker takes long to
    /// do; how it ended, Docker tells.
    pub(super) fn watch(self: &Arc<Self>, task: &TaskId, identity: &ProcessIdentity) {
        let before = lock(&self.watched).insert(task.clone(), identity.clone());
        if before.as_ref() == Some(identity) {
            return;
        }
        let (this, task, identity) = (self.clone(), task.clone(), identity.clone());
        tokio::spawn(async move {
            let ended = identity::ended(&identity).await;
            {
                let mut watched = lock(&this.watched);
                if watched.get(&task) != Some(&identity) {
                    return;
                }
                watched.remove(&task);
            }
            if let Err(error) = ended {
                tracing::warn!(%task, %error, "only Docker will tell of a task's end");
                return;
            }
            let record = this.records.get(&task);
            if record.is_some_and(|r| r.started && r.process.as_ref() == Some(&identity)) {
                this.news(Observed {
                    task,
                    phase: Phase::Ended,
                    identity: None,
                });
            }
        });
    }

    /// What a task is at while Docker does not answer.
    fn blind(self: &Arc<Self>, task: &TaskId, record: &Record) -> Observed {
        let health = match lock(&self.told).get(task) {
            Some(Phase::Running { health, .. }) => *health,
            _ => Health::None,
        };
        let held = |pid| self.gates.of(task).holds(pid);
        let observed = phase::by_process(
            task,
            record,
            identity::lives,
            held,
            health,
            Timestamp::now(),
        );
        if let Some(identity) = &observed.identity {
            self.watch(task, identity);
        }
        observed
    }

    /// What there is of one task; `None`: it is none of ours.
    pub(super) async fn look(
        self: &Arc<Self>,
        task: &TaskId,
    ) -> Result<Option<Observed>, RuntimeError> {
        let record = self.records.get(task);
        let Some(record) = record.filter(|record| !record.forgotten) else {
            return Ok(None);
        };
        let looked = async {
            let client = self.engine.client().await?;
            let container = self.inspect(&client, &record.name).await?;
            if record.removed && container.as_ref().is_some_and(Container::runs) {
                // somebody has started it again
                self.signal(&client, &record.name, "SIGKILL").await?;
            }
            Ok(self.settle(task, &record, container.as_ref()))
        };
        match timeout(LIMIT, looked).await {
            Err(_) | Ok(Err(RuntimeError::Unavailable { .. })) => {
                Ok(Some(self.blind(task, &record)))
            }
            Ok(looked) => looked.map(Some),
        }
    }

    pub(super) async fn observe(self: &Arc<Self>) -> Result<Vec<Observed>, RuntimeError> {
        if !self.records.any() {
            return Ok(Vec::new());
        }
        match timeout(LIMIT, self.observe_docker()).await {
            Err(_) | Ok(Err(RuntimeError::Unavailable { .. })) => {
                let records = self.records.all()?;
                let wanted = records.iter().filter(|(_, record)| !record.forgotten);
                Ok(wanted
                    .map(|(task, record)| self.blind(task, record))
                    .collect())
            }
            Ok(observed) => observed,
        }
    }

    pub(super) async fn observe_docker(self: &Arc<Self>) -> Result<Vec<Observed>, RuntimeError> {
        let client = self.engine.client().await?;
        let listed = look::list(&client, &self.prefix).await;
        let mut listed =
            listed.map_err(|error| self.engine.failed("list", "containers", &error))?;
        let mut records: BTreeMap<_, _> = self.records.all()?.into_iter().collect();
        for (task, containers) in &listed {
            if records.contains_key(task) {
                continue;
            }
            // its record was lost, as after a power failure
            let record = Record {
                name: containers
                    .first()
                    .and_then(look::listed_name)
                    .unwrap_or_default(),
                started: true,
                ..Record::default()
            };
            self.records.put(task, &record)?;
            records.insert(task.clone(), record);
        }
        let mut all = Vec::new();
        for (task, record) in records {
            if record.forgotten {
                self.erase_later(&task, record);
                continue;
            }
            let containers = listed.remove(&task).unwrap_or_default();
            if record.removed {
                if containers.iter().any(look::runs) {
                    // somebody has started it again
                    self.signal(&client, &record.name, "SIGKILL").await?;
                }
                all.push(self.settle(&task, &record, None));
                continue;
            }
            let container = match look::of_list(&containers, &record) {
                Some(container) => Some(container),
                None => self.inspect(&client, &record.name).await?,
            };
            all.push(self.settle(&task, &record, container.as_ref()));
        }
        Ok(all)
    }

    /// Tells what a task is at, if that is news.
    pub(super) async fn tell(self: &Arc<Self>, task: &TaskId) {
        match self.look(task).await {
            Ok(Some(observed)) => self.news(observed),
            Ok(None) => {}
            Err(error) => tracing::warn!(%task, %error, "cannot see what became of a task"),
        }
    }

    /// The same of all tasks.
    pub(super) async fn tell_all(self: &Arc<Self>) {
        match self.observe().await {
            Ok(all) => all.into_iter().for_each(|observed| self.news(observed)),
            Err(error) => tracing::warn!(%error, "cannot see what became of tasks"),
        }
    }

    pub(super) fn news(&self, observed: Observed) {
        let Observed { task, phase, .. } = observed;
        let mut told = lock(&self.told);
        let before = told.get(&task);
        // the same process, seen before it ended
        let late = matches!(before, Some(Phase::Ended | Phase::Exited { .. }))
            && matches!(phase, Phase::Prepared | Phase::Running { .. });
        // known before from Docker
        let late = late || matches!((before, &phase), (Some(Phase::Exited { .. }), Phase::Ended));
        if !late && before != Some(&phase) {
            told.insert(task.clone(), phase.clone());
            // nobody may be listening
            let _ = self.events.send(Event { task, phase });
        }
    }
}
