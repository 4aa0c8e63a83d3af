//! The connection to the Docker Engine. It may be absent, and come and go.

use std::{
    io,
    path::PathBuf,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use bollard::{API_DEFAULT_VERSION, Docker as Client, errors::Error};
use tokio::time::{Instant, sleep};

use crate::RuntimeError;

/// How long one call may take; pulling an image is not one. On a machine that has
/// much to do Docker takes minutes, and to ask again would only give it more to do.
const CALL_SECONDS: u64 = 600;
/// How long an engine that is being restarted is waited for.
const PATIENCE: Duration = Duration::from_secs(15);
/// How often it is tried meanwhile.
const RETRY: Duration = Duration::from_millis(500);

/// The engine behind a socket.
pub(crate) struct Engine {
    socket: PathBuf,
    /// One that has agreed on a version of the API.
    client: Mutex<Option<Client>>,
}

/// What Docker answered, if it answered: status code and message.
pub(crate) fn refusal(error: &Error) -> Option<(u16, &str)> {
    match error {
        Error::DockerResponseServerError {
            status_code,
            message,
        } => Some((*status_code, message)),
        _ => None,
    }
}

/// Whether there is no such thing.
pub(crate) fn is_missing(error: &Error) -> bool {
    refusal(error).is_some_and(|(code, _)| code == 404)
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        // hyper says it all in the outer one already
        if !text.contains(&more) {
            text.push_str(&format!(": {more}"));
        }
        cause = error.source();
    }
    text
}

impl Engine {
    pub(crate) fn new(socket: PathBuf) -> Self {
        Self {
            socket,
            client: Mutex::new(None),
        }
    }

    /// A client; nothing is asked of an engine whose version is known.
    pub(crate) async fn client(&self) -> Result<Client, RuntimeError> {
        let known = || self.client.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = known().clone() {
            return Ok(client);
        }
        let path = self.socket.display().to_string();
        let client = Client::connect_with_unix(&path, CALL_SECONDS, API_DEFAULT_VERSION)
            .map_err(|error| self.failed("say", "its version", &error))?;
        let client = client
            .negotiate_version()
            .await
            .map_err(|error| self.failed("say", "its version", &error))?;
        *known() = Some(client.clone());
        Ok(client)
    }

    /// A client, though the engine be just starting.
    pub(crate) async fn await_client(&self) -> Result<Client, RuntimeError> {
        let end = Instant::now() + PATIENCE;
        loop {
            match self.client().await {
                Err(RuntimeError::Unavailable { .. }) if Instant::now() < end => sleep(RETRY).await,
                done => return done,
            }
        }
    }

    /// What went wrong when Docker was to do something with something.
    pub(crate) fn failed(&self, action: &'static str, on: &str, error: &Error) -> RuntimeError {
        match refusal(error) {
            Some((code, message)) => RuntimeError::Engine {
                action,
                on: on.to_owned(),
                code,
                message: message.trim().to_owned(),
            },
            None => {
                // it may be another version when it is back
                *self.client.lock().unwrap_or_else(PoisonError::into_inner) = None;
                let why = match error {
                    Error::SocketNotFoundError(path) => format!("there is no {path}"),
                    other => chain(other),
                };
                RuntimeError::Unavailable {
                    socket: self.socket.clone(),
                    why,
                }
            }
        }
    }

    /// It closed a connection that it had kept open.
    pub(crate) fn ended(&self) -> RuntimeError {
        let error = io::Error::from(io::ErrorKind::ConnectionReset);
        self.failed("tell", "of events", &error.into())
    }
}
