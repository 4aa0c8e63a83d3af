//! Forgets who had what, once it no longer matters.

use jiff::Timestamp;
use model::{Key, State, Transaction};

use crate::allocate::QUARANTINE;

/// Deletes tombstones that are past their quarantine.
pub fn sweep(state: &State, now: Timestamp) -> Transaction {
    let mut tx = Transaction::default();
    for claim in state.claims.values() {
        if claim
            .released
            .is_some_and(|released| now.duration_since(released) >= QUARANTINE)
        {
            tx.delete(claim.version, Key::Claim(claim.resource.clone()));
        }
    }
    tx
}
