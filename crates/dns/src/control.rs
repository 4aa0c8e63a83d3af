//! The control socket: a line asks, a line answers.

use std::{io, path::Path, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{UnixListener, UnixStream},
    sync::mpsc,
    time::timeout,
};

use crate::{
    Error,
    server::{Server, Tasks},
};

/// How long a connection may last.
const CONVERSATION: Duration = Duration::from_secs(30);
/// The longest command we read, in bytes.
const LONGEST: u64 = 256;

/// How the responder is: the answer to `status`, as JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Revision of the names it answers with.
    pub revision: u64,
    /// Packets it has got, whatever they were.
    pub queries: u64,
    /// Those of them that went to other servers.
    pub forwarded: u64,
    /// Its process.
    pub pid: u32,
    /// Seconds since it started.
    pub uptime: u64,
}

/// Tells the responder something and returns its answer, one line:
///
/// | line | answer |
/// |---|---|
/// | `reload` | `ok REVISION`, when new questions are answered from the new snapshot |
/// | `status` | a [`Status`] as JSON |
/// | `quit` | `ok`, when its sockets are closed |
///
/// An answer `error TEXT` becomes [`Error::Refused`]; a failed `reload` leaves
/// the old names in force.
pub async fn request(socket: &Path, line: &str, patience: Duration) -> Result<String, Error> {
    let answer = timeout(patience, converse(socket, line)).await;
    let answer = answer
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
        .map_err(|source| Error::Unreachable {
            socket: socket.to_owned(),
            source,
        })?;
    match answer.strip_prefix("error ") {
        Some(reason) => Err(Error::Refused {
            command: line.to_owned(),
            reason: reason.to_owned(),
        }),
        None => Ok(answer),
    }
}

async fn converse(socket: &Path, line: &str) -> io::Result<String> {
    let mut stream = UnixStream::connect(socket).await?;
    stream.write_all(format!("{line}\n").as_bytes()).await?;
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer).await?;
    if !answer.ends_with('\n') {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    answer.truncate(answer.trim_end().len());
    Ok(answer)
}

/// Takes connections until it is dropped. One that says `quit` is handed over.
pub(crate) async fn listen(
    server: Arc<Server>,
    listener: UnixListener,
    tasks: Tasks,
    quit: mpsc::Sender<UnixStream>,
) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let (server, quit) = (server.clone(), quit.clone());
                let of_connection = tasks.clone();
                tasks.spawn(async move {
                    let conversation = timeout(CONVERSATION, obey(server, stream, quit));
                    of_connection.unless_stopping(conversation).await;
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a control connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn obey(
    server: Arc<Server>,
    stream: UnixStream,
    quit: mpsc::Sender<UnixStream>,
) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    loop {
        let mut line = String::new();
        if (&mut stream).take(LONGEST).read_line(&mut line).await? == 0 {
            return Ok(());
        }
        let answer = match line.trim() {
            "reload" => reload(&server).await,
            "status" => serde_json::to_string(&server.status())?,
            "quit" => {
                // full: somebody said it already, and is told when it is done
                let _ = quit.try_send(stream.into_inner());
                return Ok(());
            }
            other => format!("error unknown command {other:?}: say reload, status or quit"),
        };
        stream.write_all(format!("{answer}\n").as_bytes()).await?;
    }
}

async fn reload(server: &Arc<Server>) -> String {
    let server = server.clone();
    // on a thread of its own: questions do not wait for a large file
    match tokio::task::spawn_blocking(move || server.reload()).await {
        Ok(Ok(revision)) => format!("ok {revision}"),
        Ok(Err(error)) => {
            let reason = chain(&error);
            tracing::warn!(error = reason, "keeping the old names");
            format!("error {reason}")
        }
        Err(error) => format!("error {error}"),
    }
}

/// An error and its causes, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    let text = causes
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(": ");
    text.replace('\n', " ")
}

pub(crate) async fn say_goodbye(mut stream: UnixStream) {
    // whoever asked may be gone
    let _ = timeout(Duration::from_secs(1), stream.write_all(b"ok\n")).await;
}
