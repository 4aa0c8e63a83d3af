//! The state that every controller looks at, and the only way to change it.

use std::sync::Arc;

use ipnet::IpNet;
use jiff::Timestamp;
use model::{Key, NodeId, Revision, State, Transaction};
use plan::admit::{Context, HeldPort, Refusal};
use store::{CommitError, Store};
use tokio::sync::watch;

use crate::events::Events;

/// How often a decision is made anew when somebody else was faster.
const TRIES: usize = 32;

/// The store with the latest state beside it.
pub(crate) struct Mesh<S> {
    store: S,
    state: watch::Sender<Arc<State>>,
    /// Told of each change.
    events: Arc<Events>,
    /// Held while somebody decides: two decisions at once would choose the same
    /// address, and one of them be in vain.
    deciding: tokio::sync::Mutex<()>,
    /// This node.
    pub(crate) node: NodeId,
}

/// A decision could not be made or written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DecideError<R> {
    /// The decision itself is no.
    #[error(transparent)]
    Refused(R),
    /// The store does not take it.
    #[error("cannot write to the store")]
    Store(#[source] CommitError),
    /// Others kept changing the same thing.
    #[error("gave up after {TRIES} tries: {0} kept changing")]
    Busy(Key),
}

impl<S: Store> Mesh<S> {
    /// Loads the state. [`Self::follow`] must run for it to stay the latest.
    pub(crate) async fn open(
        store: S,
        node: NodeId,
        events: Arc<Events>,
    ) -> Result<Self, store::StoreError> {
        let state = store.load().await?;
        Ok(Self {
            store,
            events,
            state: watch::Sender::new(Arc::new(state)),
            deciding: tokio::sync::Mutex::default(),
            node,
        })
    }

    /// The latest state.
    pub(crate) fn state(&self) -> Arc<State> {
        self.state.borrow().clone()
    }

    /// A receiver that wakes at each change.
    pub(crate) fn subscribe(&self) -> watch::Receiver<Arc<State>> {
        self.state.subscribe()
    }

    /// Writes, and returns once [`Self::state`] shows it.
    pub(crate) async fn commit(&self, tx: Transaction) -> Result<Revision, CommitError> {
        let revision = self.store.commit(tx).await?;
        let mut seen = self.subscribe();
        // `follow` ends only with the daemon
        let _ = seen.wait_for(|state| state.revision >= revision).await;
        Ok(revision)
    }

    /// Decides from the latest state and writes the decision; decides again
    /// where the state changed in between.
    pub(crate) async fn decide<R>(
        &self,
        mut decision: impl FnMut(&State) -> Result<Transaction, R>,
    ) -> Result<Revision, DecideError<R>> {
        let _alone = self.deciding.lock().await;
        let mut last = Key::Pools;
        for _ in 0..TRIES {
            let state = self.state();
            let tx = decision(&state).map_err(DecideError::Refused)?;
            if tx.is_empty() {
                return Ok(state.revision);
            }
            match self.commit(tx).await {
                Ok(revision) => return Ok(revision),
                Err(CommitError::Conflict { key }) => {
                    last = key;
                    // what we lost to may not have reached us yet
                    tokio::task::yield_now().await;
                }
                Err(other) => return Err(DecideError::Store(other)),
            }
        }
        Err(DecideError::Busy(last))
    }

    /// Decides on what somebody asked for, with all that this needs from outside.
    pub(crate) async fn admit(
        &self,
        held: &[HeldPort],
        routes: &[(IpNet, String)],
        mut decision: impl FnMut(&State, &mut Context<'_>) -> Result<Transaction, Refusal>,
    ) -> Result<Revision, DecideError<Refusal>> {
        self.decide(|state| {
            let mut context = Context {
                now: Timestamp::now(),
                random: &mut crate::random,
                held,
                routes,
            };
            decision(state, &mut context)
        })
        .await
    }

    /// Keeps the state the latest, for ever.
    pub(crate) async fn follow(&self) -> Result<(), store::StoreError> {
        loop {
            let from = self.state().revision;
            let mut watch = match self.store.watch(from).await {
                Ok(watch) => watch,
                Err(store::WatchError::Compacted { .. }) => {
                    self.take_in(self.store.load().await?);
                    continue;
                }
                Err(store::WatchError::Store(error)) => return Err(error),
            };
            while let Some(batch) = watch.next().await {
                // shares with the one before what did not change
                let mut state = State::clone(&self.state());
                state.apply(batch.revision, batch.changes);
                self.take_in(state);
            }
        }
    }

    fn take_in(&self, state: State) {
        let state = Arc::new(state);
        let before = self.state.send_replace(state.clone());
        self.events.tell(plan::events::between(&before, &state));
    }
}
