use model::{Change, Revision};
use tokio::sync::mpsc;

/// The changes of one transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// At this revision.
    pub revision: Revision,
    /// In their order.
    pub changes: Vec<Change>,
}

/// A stream of batches.
#[derive(Debug)]
pub struct Watch {
    pub(crate) receiver: mpsc::UnboundedReceiver<Batch>,
}

impl Watch {
    /// The next batch; `None` when the store is closed.
    pub async fn next(&mut self) -> Option<Batch> {
        self.receiver.recv().await
    }
}
