use std::{io, path::PathBuf};

/// What can go wrong with the responder or in talking to it. Questions that
/// fail are not here: their askers are told, by DNS.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A socket that was handed over cannot be used.
    #[error("cannot serve on a socket of the DNS responder")]
    Socket(#[source] io::Error),
    /// An update cannot be written as JSON.
    #[error("cannot write names as JSON")]
    Json(#[source] serde_json::Error),
    /// A loop of the responder ended, which none does by itself.
    #[error("a part of the DNS responder broke")]
    Broken(#[source] Option<tokio::task::JoinError>),
    /// The responder's control socket does not work: most likely it does not run.
    #[error("cannot reach the DNS responder at {}", socket.display())]
    Unreachable {
        /// The control socket.
        socket: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The responder could not do what it was told.
    #[error("the DNS responder refused {command:?}: {reason}")]
    Refused {
        /// What it was told.
        command: String,
        /// What it answered.
        reason: String,
    },
}
