//! The embedded store: one file, one process, each commit durable when it
//! returns.

use std::{
    fs::{File, TryLockError},
    io::{self, Read as _, Seek as _, Write as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use model::{Change, Object, Revision, State, Transaction};
use redb::{Database, ReadableDatabase as _, ReadableTable as _, TableDefinition};
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
        check_header(&path)?;
        let damaged = |why: String| OpenError::Damaged {
            path: path.clone(),
            why,
        };
        // the library may panic on pages that make no sense
        let opened = std::panic::catch_unwind(|| Database::create(&path));
        let database = match opened {
            Ok(Ok(database)) => database,
            Ok(Err(redb::DatabaseError::Storage(redb::StorageError::Io(source))))
                if ![io::ErrorKind::InvalidData, io::ErrorKind::UnexpectedEof]
                    .contains(&source.kind()) =>
            {
                return Err(OpenError::Io { path, source });
            }
            Ok(Err(error)) => return Err(damaged(error.to_string())),
            Err(_) => return Err(damaged("its pages make no sense".to_owned())),
        };
        let schema = prepare(&database).map_err(|error| damaged(error.to_string()))?;
        if schema > SCHEMA {
            return Err(OpenError::Newer {
                path,
                found: schema,
            });
        }
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

/// Refuses a file that is no database before the library could make one of it.
fn check_header(path: &Path) -> Result<(), OpenError> {
    let fail = |source| OpenError::Io {
        path: path.to_owned(),
        source,
    };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(fail(error)),
    };
    let mut magic = Vec::new();
    file.take(4).read_to_end(&mut magic).map_err(fail)?;
    if magic == b"redb" {
        return Ok(());
    }
    let why = if magic.is_empty() {
        "it is empty"
    } else {
        "it does not begin as a store does"
    };
    Err(OpenError::Damaged {
        path: path.to_owned(),
        why: why.to_owned(),
    })
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

/// Makes the tables where there are none; gives the schema.
fn prepare(database: &Database) -> Result<u64, StoreError> {
    let read = database.begin_read().map_err(storage)?;
    let schema = match read.open_table(META) {
        Ok(meta) => meta
            .get("schema")
            .map_err(storage)?
            .map(|value| value.value()),
        Err(redb::TableError::TableDoesNotExist(_)) => None,
        Err(error) => return Err(storage(error)),
    };
    if let Some(schema) = schema {
        return Ok(schema);
    }
    let write = database.begin_write().map_err(storage)?;
    {
        let mut meta = write.open_table(META).map_err(storage)?;
        meta.insert("schema", SCHEMA).map_err(storage)?;
        meta.insert("revision", 0).map_err(storage)?;
        write.open_table(OBJECTS).map_err(storage)?;
        write.open_table(LOG).map_err(storage)?;
    }
    write.commit().map_err(storage)?;
    Ok(SCHEMA)
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
        let (sender, receiver) = mpsc::unbounded_channel();
        let oldest = log
            .first()
            .map_err(storage)?
            .map_or(now, |(first, _)| first.value() - 1);
        if from.0 < oldest {
            return Err(WatchError::Compacted {
                oldest: Revision(oldest),
            });
        }
        for entry in log.range(from.0 + 1..).map_err(storage)? {
            let (revision, changes) = entry.map_err(storage)?;
            let changes = decode("log", changes.value())?;
            // the receiver is in this function
            let _ = sender.send(Batch {
                revision: Revision(revision.value()),
                changes,
            });
        }
        watchers.push(sender);
        Ok(Watch { receiver })
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
mod tests {
    use model::{Claim, Key, Resource};
    use proptest::prelude::*;

    use super::*;

    fn claim(name: &str, owner: &str) -> Object {
        Object::Claim(Claim {
            resource: Resource::ServiceName(name.to_owned()),
            owner: owner.to_owned(),
            released: None,
        })
    }

    fn key(name: &str) -> Key {
        Key::Claim(Resource::ServiceName(name.to_owned()))
    }

    #[tokio::test]
    async fn what_was_committed_is_there_after_reopening() {
        let dir = tempfile::tempdir().unwrap();
        let mut tx = Transaction::default();
        tx.create(claim("vote", "a"));
        let store = Embedded::open(dir.path()).unwrap();
        assert_eq!(store.commit(tx.clone()).await.unwrap(), Revision(1));
        let again = store.commit(tx).await;
        assert!(matches!(again, Err(CommitError::Conflict { .. })));
        let before = store.load().await.unwrap();
        drop(store);
        let store = Embedded::open(dir.path()).unwrap();
        assert_eq!(store.load().await.unwrap(), before);
        assert_eq!(before.revision, Revision(1));
    }

    #[tokio::test]
    async fn a_watch_begins_where_it_is_told_and_loses_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let store = Embedded::open(dir.path()).unwrap();
        for n in 0..3 {
            let mut tx = Transaction::default();
            tx.create(claim(&format!("n{n}"), "a"));
            store.commit(tx).await.unwrap();
        }
        let mut watch = store.watch(Revision(1)).await.unwrap();
        let mut tx = Transaction::default();
        tx.delete(Revision(1), key("n0"));
        store.commit(tx).await.unwrap();
        for expected in 2..=4 {
            assert_eq!(watch.next().await.unwrap().revision, Revision(expected));
        }
    }

    #[tokio::test]
    async fn a_second_one_is_refused_naming_the_first() {
        let dir = tempfile::tempdir().unwrap();
        let _first = Embedded::open(dir.path()).unwrap();
        let error = Embedded::open(dir.path()).err().unwrap().to_string();
        assert!(error.contains("in use") && error.contains(&std::process::id().to_string()));
    }

    #[test]
    fn a_damaged_file_is_refused_and_left_alone() {
        for bytes in [&b""[..], b"nonsense", &[0; 5000], b"redb"] {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("store.redb");
            std::fs::write(&path, bytes).unwrap();
            let error = Embedded::open(dir.path())
                .err()
                .expect("refused")
                .to_string();
            assert!(error.contains("damaged"), "{error}");
            assert_eq!(std::fs::read(&path).unwrap(), bytes);
        }
    }

    #[tokio::test]
    async fn a_newer_schema_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let store = Embedded::open(dir.path()).unwrap();
        let write = store.shared.database.begin_write().unwrap();
        write
            .open_table(META)
            .unwrap()
            .insert("schema", SCHEMA + 1)
            .unwrap();
        write.commit().unwrap();
        drop(store);
        let error = Embedded::open(dir.path()).err().unwrap().to_string();
        assert!(error.contains("newer"), "{error}");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]
        /// The state that a watcher builds is the state that is loaded.
        #[test]
        fn watching_and_loading_agree(writes in proptest::collection::vec((0..6_u8, any::<bool>()), 1..30)) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(async {
                let dir = tempfile::tempdir().unwrap();
                let store = Embedded::open(dir.path()).unwrap();
                let mut watch = store.watch(Revision(0)).await.unwrap();
                let mut seen = State::default();
                for (n, put) in writes {
                    let name = format!("n{n}");
                    let version = seen.claims.get(&Resource::ServiceName(name.clone())).map(|c| c.version);
                    let mut tx = Transaction::default();
                    match (put, version) {
                        (true, None) => tx.create(claim(&name, "a")),
                        (true, Some(version)) => tx.replace(version, claim(&name, "b")),
                        (false, Some(version)) => tx.delete(version, key(&name)),
                        (false, None) => continue,
                    }
                    store.commit(tx).await.unwrap();
                    let batch = watch.next().await.unwrap();
                    seen.apply(batch.revision, batch.changes);
                }
                assert_eq!(store.load().await.unwrap(), seen);
            });
        }
    }
}
