//! The store: everything that is wanted and known, behind a trait that etcd can
//! fill as well. One global revision; an object's version is the revision of its
//! last write; transactions happen whole or not at all; watches lose nothing.
#![forbid(unsafe_code)]

mod embedded;
mod watch;

use std::future::Future;

use model::{Key, Revision, State, Transaction};

pub use embedded::{Embedded, OpenError};
pub use watch::{Batch, Watch};

/// A store.
pub trait Store: Send + Sync + 'static {
    /// Everything, with versions.
    fn load(&self) -> impl Future<Output = Result<State, StoreError>> + Send;

    /// Writes a transaction durably; gives the revision at which it is seen. An
    /// empty one writes nothing and gives the current revision.
    fn commit(
        &self,
        transaction: Transaction,
    ) -> impl Future<Output = Result<Revision, CommitError>> + Send;

    /// Every batch after this revision, in order, none left out, then new ones.
    fn watch(&self, from: Revision) -> impl Future<Output = Result<Watch, WatchError>> + Send;
}

/// The store itself failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file cannot be read or written.
    #[error("the store's file failed")]
    Storage(#[source] redb::Error),
    /// What is stored has no sense.
    #[error("the store holds what cannot be read at {key}: {why}")]
    Value {
        /// Where.
        key: String,
        /// What is wrong with it.
        why: String,
    },
}

/// Why a transaction was not written.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// An expectation does not hold; look at the state again.
    #[error("{key} was changed by somebody else")]
    Conflict {
        /// Which.
        key: Key,
    },
    /// The store itself failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why a watch cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// The history does not go back so far: load everything instead.
    #[error("history begins at revision {oldest}")]
    Compacted {
        /// The oldest revision after which a watch can begin.
        oldest: Revision,
    },
    /// The store itself failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}
