//! The embedded store: one file, one process, each commit durable when it
//! returns.

use std::{
    fs::{self, File, Permissions, TryLockError},
    io::{self, Read as _, Seek as _, Write as _},
    os::unix::fs::PermissionsExt as _,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use model::{Change, Object, Revision, State, Transaction};
use redb::{
    Builder, Database, ReadableDatabase as _, ReadableTable as _, StorageBackend as _,
    TableDefinition, backends::InMemoryBackend,
};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use crate::{Batch, CommitError, Store, StoreError, Watch, WatchError};

/// Key's text to JSON of [`Stored`].
const OBJECTS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("objects");
/// Revision to JSON of its changes.
const LOG: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("log");
/// `schema` and `revision`.
const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");

/// The schema that this code writes. A store of an older one is migrated when
/// it is opened, by one step a number.
const SCHEMA: u64 = 1;
/// So many revisions can be watched from.
const HISTORY: u64 = 4096;

#[derive(Serialize, Deserialize)]
struct Stored {
    version: Revision,
    object: Object,
}

/// Why a store cannot be opened. The file is as it was.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another daemon has it.
    #[error("data directory {} is in use by another ipvsmeshd{holder}: stop that one, or give this one another --instance or --data-dir", dir.display())]
    InUse {
        /// The data directory.
        dir: PathBuf,
        /// ` (pid 123)`, where it is known.
        holder: String,
    },
    /// The file cannot be read as a store.
    #[error("store file {} is damaged: {why}; it was left as it is. Restore it from a backup, or move it away to begin with an empty mesh", path.display())]
    Damaged {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// It was written by a newer program.
    #[error("store file {} has schema {found}, and this ipvsmesh knows {SCHEMA} at most: install a newer ipvsmesh", path.display())]
    Newer {
        /// Which.
        path: PathBuf,
        /// Its schema.
        found: u64,
    },
    /// The operating system refused.
    #[error("cannot open {}", path.display())]
    Io {
        /// Which file or directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// A store in a file.
pub struct Embedded {
    shared: Arc<Shared>,
    /// Holds the lock for as long as the store is open.
    _lock: File,
}

struct Shared {
    database: Database,
    /// Also serialises commits.
    watchers: Mutex<Vec<mpsc::UnboundedSender<Batch>>>,
}

impl Embedded {
    /// Opens the store in this directory, or makes an empty one.
    ///
    /// # Errors
    /// [`OpenError`]; nothing was changed then.
    pub fn open(dir: &Path) -> Result<Self, OpenError> {
        let lock = lock(dir)?;
        let path = dir.join("store.redb");
        if !path.try_exists().map_err(io_error(&path))? {
            make(dir, &path)?;
        }
        // passwords of registries and secrets are in it; older programs let all read
        fs::set_permissions(&path, Permissions::from_mode(0o600)).map_err(io_error(&path))?;
        examine(&path)?;
        let database = opened(&path, || Database::open(&path))?;
        let shared = Shared {
            database,
            watchers: Mutex::default(),
        };
        Ok(Self {
            shared: Arc::new(shared),
            _lock: lock,
        })
    }
}

fn io_error(path: &Path) -> impl Fn(io::Error) -> OpenError {
    let path = path.to_owned();
    move |source| OpenError::Io {
        path: path.clone(),
        source,
    }
}

/// What the library says of a file, in our words. It may panic on pages that
/// make no sense.
fn opened<T>(
    path: &Path,
    open: impl FnOnce() -> Result<T, redb::DatabaseError>,
) -> Result<T, OpenError> {
    let damaged = |why: String| OpenError::Damaged {
        path: path.to_owned(),
        why,
    };
    match catch_unwind(AssertUnwindSafe(open)) {
        Ok(Ok(opened)) => Ok(opened),
        Ok(Err(redb::DatabaseError::Storage(redb::StorageError::Io(source))))
            if ![io::ErrorKind::InvalidData, io::ErrorKind::UnexpectedEof]
                .contains(&source.kind()) =>
        {
            Err(io_error(path)(source))
        }
        Ok(Err(error)) => Err(damaged(error.to_string())),
        Err(_) => Err(damaged("its pages make no sense".to_owned())),
    }
}

/// Makes an empty store under another name first: whatever has the right one is whole.
fn make(dir: &Path, path: &Path) -> Result<(), OpenError> {
    let new = dir.join("store.redb.new");
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(io_error(&new)(error)),
        _ => {}
    }
    let database = opened(&new, || Database::create(&new))?;
    prepare(&database).map_err(|error| OpenError::Damaged {
        path: new.clone(),
        why: error.to_string(),
    })?;
    drop(database);
    fs::rename(&new, path).map_err(io_error(path))?;
    File::open(dir)
        .and_then(|dir| dir.sync_all())
        .map_err(io_error(dir))
}

/// Refuses a file that cannot be used, by a look at a copy in memory: opening
/// writes, and repairs what it can, but a file that is refused stays as it is.
fn examine(path: &Path) -> Result<(), OpenError> {
    let damaged = |why: &str| OpenError::Damaged {
        path: path.to_owned(),
        why: why.to_owned(),
    };
    let bytes = fs::read(path).map_err(io_error(path))?;
    if bytes.is_empty() {
        return Err(damaged("it is empty"));
    }
    if !bytes.starts_with(b"redb") {
        return Err(damaged("it does not begin as a store does"));
    }
    let schema = opened(path, || {
        let memory = InMemoryBackend::new();
        memory.set_len(bytes.len() as u64)?;
        memory.write(0, &bytes)?;
        let database = Builder::new()
            .set_check_integrity_on_open(true)
            .create_with_backend(memory)?;
        // a closure may panic here as well: that is told like the rest
        Ok(read_all(database))
    });
    let schema = schema.map_err(|error| match error {
        // memory does not fail: what is not there should be
        OpenError::Io { source, .. } => damaged(&source.to_string()),
        other => other,
    })?;
    match schema.map_err(|error| damaged(&error.to_string()))? {
        SCHEMA => Ok(()),
        0 => Err(damaged("it has no schema")),
        found => Err(OpenError::Newer {
            path: path.to_owned(),
            found,
        }),
    }
}

/// Reads everything that is understood of a database; gives its schema.
fn read_all(database: Database) -> Result<u64, StoreError> {
    let schema = {
        let read = database.begin_read().map_err(storage)?;
        match read.open_table(META) {
            Ok(meta) => meta
                .get("schema")
                .map_err(storage)?
                .map_or(0, |value| value.value()),
            Err(redb::TableError::TableDoesNotExist(_)) => 0,
            Err(error) => return Err(storage(error)),
        }
    };
    if schema == SCHEMA {
        let shared = Shared {
            database,
            watchers: Mutex::default(),
        };
        let now = shared.load()?.revision;
        shared.history(Revision(0), now)?;
    }
    Ok(schema)
}

/// Takes the directory for this process.
fn lock(dir: &Path) -> Result<File, OpenError> {
    let path = dir.join("lock");
    let fail = |source| OpenError::Io {
        path: path.clone(),
        source,
    };
    let mut file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .map_err(fail)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut pid = String::new();
            let _ = file.read_to_string(&mut pid);
            let holder = pid
                .trim()
                .parse::<u32>()
                .map_or_else(|_| String::new(), |pid| format!(" (pid {pid})"));
            return Err(OpenError::InUse {
                dir: dir.to_owned(),
                holder,
            });
        }
        Err(TryLockError::Error(source)) => return Err(fail(source)),
    }
    file.set_len(0).and_then(|()| file.rewind()).map_err(fail)?;
    writeln!(file, "{}", std::process::id()).map_err(fail)?;
    Ok(file)
}

fn storage(error: impl Into<redb::Error>) -> StoreError {
    StoreError::Storage(error.into())
}

/// Makes the tables.
fn prepare(database: &Database) -> Result<(), StoreError> {
    let write = database.begin_write().map_err(storage)?;
    {
        let mut meta = write.open_table(META).map_err(storage)?;
        meta.insert("schema", SCHEMA).map_err(storage)?;
        meta.insert("revision", 0).map_err(storage)?;
        write.open_table(OBJECTS).map_err(storage)?;
        write.open_table(LOG).map_err(storage)?;
    }
    write.commit().map_err(storage)
}

fn decode<'a, T: Deserialize<'a>>(key: &str, bytes: &'a [u8]) -> Result<T, StoreError> {
    serde_json::from_slice(bytes).map_err(|error| StoreError::Value {
        key: key.to_owned(),
        why: error.to_string(),
    })
}

fn encode<T: Serialize>(key: &str, value: &T) -> Result<Vec<u8>, StoreError> {
    serde_json::to_vec(value).map_err(|error| StoreError::Value {
        key: key.to_owned(),
        why: error.to_string(),
    })
}

impl Shared {
    fn load(&self) -> Result<State, StoreError> {
        let read = self.database.begin_read().map_err(storage)?;
        let mut state = State::default();
        let objects = read.open_table(OBJECTS).map_err(storage)?;
        for entry in objects.iter().map_err(storage)? {
            let (key, value) = entry.map_err(storage)?;
            let stored: Stored = decode(key.value(), value.value())?;
            state.put(stored.version, stored.object);
        }
        let meta = read.open_table(META).map_err(storage)?;
        let revision = meta.get("revision").map_err(storage)?;
        state.revision = Revision(revision.map_or(0, |revision| revision.value()));
        Ok(state)
    }

    fn commit(&self, transaction: Transaction) -> Result<Revision, CommitError> {
        // held until watchers were told, so that they see commits in order
        let mut watchers = self.watchers.lock().unwrap_or_else(PoisonError::into_inner);
        let write = self.database.begin_write().map_err(storage)?;
        let revision;
        {
            let mut meta = write.open_table(META).map_err(storage)?;
            let mut objects = write.open_table(OBJECTS).map_err(storage)?;
            let mut log = write.open_table(LOG).map_err(storage)?;
            let before = meta
                .get("revision")
                .map_err(storage)?
                .map_or(0, |value| value.value());
            for expect in transaction.expect {
                let key = expect.key.to_string();
                let version = match objects.get(key.as_str()).map_err(storage)? {
                    Some(value) => Some(decode::<Stored>(&key, value.value())?.version),
                    None => None,
                };
                if version != expect.version {
                    return Err(CommitError::Conflict { key: expect.key });
                }
            }
            if transaction.changes.is_empty() {
                return Ok(Revision(before));
            }
            revision = Revision(before + 1);
            for change in &transaction.changes {
                let key = change.key().to_string();
                match change {
                    Change::Put(object) => {
                        let stored = Stored {
                            version: revision,
                            object: object.clone(),
                        };
                        let bytes = encode(&key, &stored)?;
                        objects
                            .insert(key.as_str(), bytes.as_slice())
                            .map_err(storage)?;
                    }
                    Change::Delete(_) => {
                        objects.remove(key.as_str()).map_err(storage)?;
                    }
                }
            }
            let bytes = encode("log", &transaction.changes)?;
            log.insert(revision.0, bytes.as_slice()).map_err(storage)?;
            if let Some(old) = revision.0.checked_sub(HISTORY) {
                log.remove(old).map_err(storage)?;
            }
            meta.insert("revision", revision.0).map_err(storage)?;
        }
        write.commit().map_err(storage)?;
        let batch = Batch {
            revision,
            changes: transaction.changes,
        };
        watchers.retain(|watcher| watcher.send(batch.clone()).is_ok());
        Ok(revision)
    }

    fn watch(&self, from: Revision) -> Result<Watch, WatchError> {
        let mut watchers = self.watchers.lock().unwrap_or_else(PoisonError::into_inner);
        let read = self.database.begin_read().map_err(storage)?;
        let meta = read.open_table(META).map_err(storage)?;
        let now = meta
            .get("revision")
            .map_err(storage)?
            .map_or(0, |value| value.value());
        let log = read.open_table(LOG).map_err(storage)?;
        let oldest = log
            .first()
            .map_err(storage)?
            .map_or(now, |(first, _)| first.value() - 1);
        if from.0 < oldest {
            return Err(WatchError::Compacted {
                oldest: Revision(oldest),
            });
        }
        let (sender, receiver) = mpsc::unbounded_channel();
        for batch in self.history(from, Revision(now))? {
            // the receiver is in this function
            let _ = sender.send(batch);
        }
        watchers.push(sender);
        Ok(Watch { receiver })
    }

    /// The batches after `from`, up to `to`, that are kept.
    fn history(&self, from: Revision, to: Revision) -> Result<Vec<Batch>, StoreError> {
        let read = self.database.begin_read().map_err(storage)?;
        let log = read.open_table(LOG).map_err(storage)?;
        let mut batches = Vec::new();
        for entry in log.range(from.0 + 1..=to.0).map_err(storage)? {
            let (revision, changes) = entry.map_err(storage)?;
            batches.push(Batch {
                revision: Revision(revision.value()),
                changes: decode("log", changes.value())?,
            });
        }
        Ok(batches)
    }
}

/// Runs on a thread that may wait for the disk.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        // not cancelled by anybody, so it panicked
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

impl Store for Embedded {
    async fn load(&self) -> Result<State, StoreError> {
        let shared = self.shared.clone();
        blocking(move || shared.load()).await
    }

    async fn commit(&self, transaction: Transaction) -> Result<Revision, CommitError> {
        let shared = self.shared.clone();
        blocking(move || shared.commit(transaction)).await
    }

    async fn watch(&self, from: Revision) -> Result<Watch, WatchError> {
        let shared = self.shared.clone();
        blocking(move || shared.watch(from)).await
    }
}

#[cfg(test)]
mod tests;
