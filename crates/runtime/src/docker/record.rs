//! What is remembered of each docker task on disk: which process it is, so that it is
//! known to live while Docker does not answer, and how far it was taken. Docker alone
//! knows the rest.

use std::{
    fs::{self, DirBuilder},
    io,
    os::unix::fs::DirBuilderExt as _,
    path::PathBuf,
    sync::{Mutex, MutexGuard, PoisonError},
};

use jiff::Timestamp;
use model::{ProcessIdentity, TaskId};
use serde::{Deserialize, Serialize};

use crate::{RuntimeError, failed};

/// What is remembered of one task. Fields may be added with a default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Record {
    /// Name of its container.
    pub(crate) name: String,
    /// In which start of the machine it was made.
    pub(crate) boot_id: String,
    /// Its container's first process, once that was in the gate.
    pub(crate) process: Option<ProcessIdentity>,
    /// The gate was or is being opened.
    pub(crate) started: bool,
    /// It was told to stop.
    pub(crate) stop: Option<Stop>,
    /// It was taken away: what is left of it is its log.
    pub(crate) removed: bool,
    /// Its log is not wanted either.
    pub(crate) forgotten: bool,
}

/// How it was told to stop.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Stop {
    /// The signal that was sent; empty: the container's own.
    pub(crate) signal: String,
    /// When it is killed.
    pub(crate) deadline: Timestamp,
}

/// The records of an instance.
pub(crate) struct Records {
    dir: PathBuf,
    /// One at a time changes one.
    alone: Mutex<()>,
}

impl Records {
    pub(crate) fn new(dir: PathBuf) -> Self {
        Self {
            dir,
            alone: Mutex::new(()),
        }
    }

    fn path(&self, task: &TaskId) -> PathBuf {
        self.dir.join(format!("{task}.json"))
    }

    /// Whether this instance ever had a docker task.
    pub(crate) fn any(&self) -> bool {
        self.dir.exists()
    }

    /// That of a task; `None`: it is not Docker's. A damaged one is an empty one:
    /// Docker says what there is.
    pub(crate) fn get(&self, task: &TaskId) -> Option<Record> {
        let text = fs::read(self.path(task)).ok()?;
        Some(serde_json::from_slice(&text).unwrap_or_default())
    }

    /// All of them.
    pub(crate) fn all(&self) -> Result<Vec<(TaskId, Record)>, RuntimeError> {
        let entries = match fs::read_dir(&self.dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(failed("list", &self.dir))?,
        };
        let mut all = Vec::new();
        for entry in entries {
            let entry = entry.map_err(failed("list", &self.dir))?;
            let name = entry.file_name();
            let id = name.to_str().and_then(|name| name.strip_suffix(".json"));
            // other names are nobody's business
            let Some(id) = id.and_then(|id| id.parse::<TaskId>().ok()) else {
                continue;
            };
            all.extend(self.get(&id).map(|record| (id, record)));
        }
        all.sort_by(|(a, _), (b, _)| a.cmp(b));
        Ok(all)
    }

    /// Writes one, as a whole or not at all.
    pub(crate) fn put(&self, task: &TaskId, record: &Record) -> Result<(), RuntimeError> {
        let _alone = self.alone();
        self.write(task, record)
    }

    fn alone(&self) -> MutexGuard<'_, ()> {
        self.alone.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, task: &TaskId, record: &Record) -> Result<(), RuntimeError> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.dir)
            .map_err(failed("make", &self.dir))?;
        let path = self.path(task);
        let unfinished = path.with_extension("new");
        // ours can always be written as JSON
        let text = serde_json::to_vec(record).unwrap_or_default();
        fs::write(&unfinished, text)
            .and_then(|()| fs::rename(&unfinished, &path))
            .map_err(failed("write", &path))
    }

    /// Changes one, where there is one.
    pub(crate) fn change(
        &self,
        task: &TaskId,
        change: impl FnOnce(&mut Record),
    ) -> Result<(), RuntimeError> {
        let _alone = self.alone();
        let Some(before) = self.get(task) else {
            return Ok(());
        };
        let mut record = before.clone();
        change(&mut record);
        match record == before {
            true => Ok(()),
            false => self.write(task, &record),
        }
    }

    /// Deletes one.
    pub(crate) fn delete(&self, task: &TaskId) -> Result<(), RuntimeError> {
        let _alone = self.alone();
        let path = self.path(task);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(failed("delete", &path)(error))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_kept_changed_and_deleted() {
        let dir = tempfile::tempdir().unwrap();
        let records = Records::new(dir.path().join("containers"));
        let task = TaskId::from_random([7; 16]);
        assert!(!records.any() && records.get(&task).is_none());
        records
            .change(&task, |record| record.started = true)
            .unwrap();
        assert!(
            records.all().unwrap().is_empty(),
            "none is made by changing it"
        );
        let record = Record {
            name: "web.1".to_owned(),
            ..Record::default()
        };
        records.put(&task, &record).unwrap();
        records
            .change(&task, |record| record.started = true)
            .unwrap();
        fs::write(dir.path().join("containers/other"), "x").unwrap();
        let all = records.all().unwrap();
        assert_eq!(all.len(), 1);
        assert!(all[0].1.started && all[0].1.name == "web.1");
        // as after a power failure
        fs::write(records.path(&task), "{").unwrap();
        assert_eq!(records.get(&task), Some(Record::default()));
        records.delete(&task).unwrap();
        records.delete(&task).unwrap();
        assert!(records.get(&task).is_none() && records.any());
    }
}
