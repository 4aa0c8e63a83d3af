//! The control socket: a line asks, a line answers.

use std::{io, path::Path, sync::Arc, time::Duration};

use model::names::Update;
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader, Interest},
    net::{UnixListener, UnixStream},
    sync::{mpsc, oneshot},
    time::timeout,
};

use crate::{
    Error,
    names::Names,
    server::{Server, Tasks},
};

/// How long an answer may wait to be read.
const CONVERSATION: Duration = Duration::from_secs(30);
/// The longest command we read, in bytes: a part of an update may have a service with
/// thousands of tasks.
const LONGEST: u64 = 4 << 20;

/// How the responder is: the answer to `status`, as JSON. What is counted begins with 0
/// in each process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Status {
    /// Revision of the names it answers with; 0 while it has none.
    pub revision: u64,
    /// Its process.
    pub pid: u32,
    /// Seconds since it started.
    pub uptime: u64,
    /// The network namespace of its sockets, by its inode.
    pub place: u64,
    /// Packets it has got, whatever they were.
    pub queries: u64,
    /// Those of them that came by TCP.
    pub tcp: u64,
    /// Answered with records of ours.
    pub answered: u64,
    /// Answered with "no such name" or "nothing of that kind", which we know by ourselves.
    pub denied: u64,
    /// Refused: from strangers, or damaged.
    pub refused: u64,
    /// Asked of other servers.
    pub forwarded: u64,
    /// Of other servers' names, answered out of the cache.
    pub cached: u64,
    /// Those that no other server answered, or for which there was no room.
    pub failed: u64,
}

/// Tells the responder something and returns its answer, one line:
///
/// | line | answer |
/// |---|---|
/// | `update JSON` | `ok REVISION`, when new questions are answered with a [`model::names::Update`] taken in |
/// | `status` | a [`Status`] as JSON |
/// | `sockets` | `sockets PLACE`, and its sockets; see [`crate::Predecessor`] |
/// | `retire` | `ok`, when it reads no more questions; it ends once it has answered those that it has |
/// | `quit` | `ok`, when its sockets are closed |
///
/// The parts of one update come on one connection; see [`update`]. An answer `error TEXT`
/// becomes [`Error::Refused`]; a failed update leaves the old names in force.
pub async fn request(socket: &Path, line: &str, patience: Duration) -> Result<String, Error> {
    let answer = timeout(patience, converse(socket, line)).await;
    let answer = answer
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
        .map_err(|source| Error::Unreachable {
            socket: socket.to_owned(),
            source,
        })?;
    accepted(line, answer)
}

/// Sends an update, in all of its parts; returns when it is what is answered with.
///
/// # Errors
/// As [`request`], `patience` being for each part.
pub async fn update(
    socket: &Path,
    parts: impl Iterator<Item = Update>,
    patience: Duration,
) -> Result<(), Error> {
    let unreachable = |source| Error::Unreachable {
        socket: socket.to_owned(),
        source,
    };
    let stream = UnixStream::connect(socket).await.map_err(unreachable)?;
    let mut stream = BufReader::new(stream);
    for part in parts {
        let json = serde_json::to_string(&part).map_err(Error::Json)?;
        let answer = timeout(patience, ask(&mut stream, &format!("update {json}"))).await;
        let answer = answer
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
            .map_err(unreachable)?;
        accepted("update", answer)?;
    }
    Ok(())
}

fn accepted(command: &str, answer: String) -> Result<String, Error> {
    match answer.strip_prefix("error ") {
        Some(reason) => Err(Error::Refused {
            command: command.to_owned(),
            reason: reason.to_owned(),
        }),
        None => Ok(answer),
    }
}

async fn converse(socket: &Path, line: &str) -> io::Result<String> {
    let stream = UnixStream::connect(socket).await?;
    ask(&mut BufReader::new(stream), line).await
}

async fn ask(stream: &mut BufReader<UnixStream>, line: &str) -> io::Result<String> {
    let line = format!("{line}\n");
    stream.get_mut().write_all(line.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_line(&mut answer).await?;
    if !answer.ends_with('\n') {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    answer.truncate(answer.trim_end().len());
    Ok(answer)
}

/// How an end is asked for.
pub(crate) enum End {
    /// Told as soon as no more questions are read.
    Retire(UnixStream),
    /// Told when all sockets are closed.
    Quit(UnixStream),
}

/// What the loop of the responder is told by its control socket.
pub(crate) struct Orders {
    /// There are names: begin, and say so.
    pub(crate) begin: mpsc::Sender<oneshot::Sender<()>>,
    pub(crate) end: mpsc::Sender<End>,
}

/// Takes connections until it is dropped.
pub(crate) async fn listen(
    server: Arc<Server>,
    listener: UnixListener,
    tasks: Tasks,
    orders: Orders,
) {
    let orders = Arc::new(orders);
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let (server, orders) = (server.clone(), orders.clone());
                let of_connection = tasks.clone();
                tasks.spawn(async move {
                    let conversation = obey(server, stream, orders);
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

async fn obey(server: Arc<Server>, stream: UnixStream, orders: Arc<Orders>) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    // an update from nothing, until it is whole
    let mut growing = None;
    loop {
        let mut line = String::new();
        let limited = &mut (&mut stream).take(LONGEST);
        // one that takes over from us waits with this until it has names
        if limited.read_line(&mut line).await? == 0 {
            return Ok(());
        }
        let (command, rest) = line
            .trim()
            .split_once(' ')
            .unwrap_or_else(|| (line.trim(), ""));
        let answer = match (command, rest) {
            ("update", json) => update_names(&server, &orders, &mut growing, json).await,
            ("status", "") => serde_json::to_string(&server.status())?,
            ("sockets", "") => {
                let stream = stream.get_ref();
                let send = || server.sockets.send(stream);
                stream.async_io(Interest::WRITABLE, send).await?;
                continue;
            }
            ("retire", "") => {
                // full: somebody said it already
                let _ = orders.end.try_send(End::Retire(stream.into_inner()));
                return Ok(());
            }
            ("quit", "") => {
                let _ = orders.end.try_send(End::Quit(stream.into_inner()));
                return Ok(());
            }
            _ => {
                let start: String = command.chars().take(32).collect();
                format!(
                    "error unknown command {start:?}: say update, status, sockets, retire or quit"
                )
            }
        };
        let answer = format!("{answer}\n");
        timeout(CONVERSATION, stream.get_mut().write_all(answer.as_bytes())).await??;
    }
}

async fn update_names(
    server: &Server,
    orders: &Orders,
    growing: &mut Option<Names>,
    json: &str,
) -> String {
    let update: Update = match serde_json::from_str(json) {
        Ok(update) => update,
        Err(error) => {
            let reason = error.to_string().replace('\n', " ");
            tracing::warn!(error = reason, "keeping the old names");
            return format!("error not an update: {reason}");
        }
    };
    let (revision, whole) = (update.revision, !update.more);
    let taken = match update.since {
        // whoever asks meanwhile is answered from the old names
        None => {
            let names = growing.get_or_insert_default();
            names.apply(update).inspect(|()| {
                if whole {
                    server.replace(std::mem::take(growing).unwrap_or_default());
                }
            })
        }
        Some(_) => server.apply(update),
    };
    if let Err(behind) = taken {
        return format!("error the names are those of revision {}", behind.at);
    }
    if whole {
        let (begun, wait) = oneshot::channel();
        // no longer listened to: it has begun
        if orders.begin.send(begun).await.is_ok() {
            let _ = wait.await;
        }
    }
    format!("ok {revision}")
}

pub(crate) async fn say_ok(mut stream: UnixStream) {
    // whoever asked may be gone
    let _ = timeout(Duration::from_secs(1), stream.write_all(b"ok\n")).await;
}
