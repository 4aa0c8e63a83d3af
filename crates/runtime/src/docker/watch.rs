//! What tasks are at, by Docker or without it, and who is told.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bollard::Docker as Client;
use jiff::Timestamp;
use model::{Health, TaskId};
use tokio::time::timeout;

use super::{
    Inner, boot_id,
    container::{self, sandbox_name},
    lock, look,
    phase::{self, Pair},
    record::Record,
};
use crate::{Event, Observed, Phase, RuntimeError, identity};

/// An engine that takes longer to say what there is is as good as absent: nobody
/// waits for it, a starting daemon least of all.
const LIMIT: Duration = Duration::from_secs(10);

impl Inner {
    /// What a task is at, by these containers; and what follows from that: who runs
    /// is written down, and a sandbox that has done its work is killed.
    pub(super) async fn settle(
        self: &Arc<Self>,
        client: &Client,
        task: &TaskId,
        record: &Record,
        pair: &Pair,
    ) -> Observed {
        let observed = phase::by_docker(task, record, pair, &boot_id(), Timestamp::now());
        if !matches!(observed.phase, Phase::Running { .. }) {
            return observed;
        }
        let noted = self.records.change(task, |record| {
            record.started = true;
            record.task.clone_from(&observed.identity);
            if record.sandbox.is_none() {
                // all that is needed of it is its namespace
                record.sandbox.clone_from(&observed.identity);
            }
        });
        if let Err(error) = noted {
            tracing::warn!(%task, %error, "cannot write down who runs");
        } else if !self.keep_sandboxes && pair.sandbox_identity().is_some() {
            self.end_sandbox(client, task, sandbox_name(&record.name));
        }
        observed
    }

    /// Kills a sandbox that has done its work; the task does not wait for that.
    pub(super) fn end_sandbox(self: &Arc<Self>, client: &Client, task: &TaskId, name: String) {
        if !lock(&self.ending).insert(task.clone()) {
            return;
        }
        let (this, client, task) = (self.clone(), client.clone(), task.clone());
        tokio::spawn(async move {
            if let Err(error) = this.signal(&client, &name, "SIGKILL").await {
                tracing::debug!(%task, %error, "a sandbox stays for a while");
            }
            lock(&this.ending).remove(&task);
        });
    }

    /// What a task is at while Docker does not answer.
    pub(super) fn blind(&self, task: &TaskId, record: &Record) -> Observed {
        let health = match lock(&self.told).get(task) {
            Some(Phase::Running { health, .. }) => *health,
            _ => Health::None,
        };
        phase::by_processes(task, record, identity::lives, health, Timestamp::now())
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
            let pair = self.pair(&client, &record.name).await?;
            Ok(self.settle(&client, task, &record, &pair).await)
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
            let mut work = containers
                .iter()
                .filter(|c| look::is_role(c, container::label::WORK));
            if records.contains_key(task) {
                continue;
            }
            // its record was lost, as after a power failure
            let name = work.next().and_then(look::listed_name);
            let sandbox = containers.first().and_then(look::listed_name);
            let sandbox = sandbox.map(|name| name.trim_end_matches(".sandbox").to_owned());
            let record = Record {
                name: name.or(sandbox).unwrap_or_default(),
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
            let pair = match look::pair_of_list(&containers, &record) {
                _ if record.removed => Pair::default(),
                Some(pair) => pair,
                None => self.pair(&client, &record.name).await?,
            };
            all.push(self.settle(&client, &task, &record, &pair).await);
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
        let before = lock(&self.told).insert(task.clone(), phase.clone());
        if before.as_ref() != Some(&phase) {
            // nobody may be listening
            let _ = self.events.send(Event { task, phase });
        }
    }
}
