//! What specs say of time, as moments are reckoned with.

use std::time::Duration;

use jiff::SignedDuration;

/// The same time; what is longer than any moment is far is the longest.
pub(crate) fn signed(duration: Duration) -> SignedDuration {
    SignedDuration::try_from(duration).unwrap_or(SignedDuration::MAX)
}
