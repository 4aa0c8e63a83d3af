//! The responder's control socket: a line in, a line out.

use std::{io, path::Path, sync::atomic::Ordering, time::Duration};

use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::{UnixListener, UnixStream},
};

use crate::{Config, server::Server};

/// Answers `reload` (`ok REVISION` or `error WHY`), `status` (JSON) and `quit`,
/// upon which it returns.
pub(crate) async fn serve(server: &Server, config: &Config, listener: UnixListener) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            continue;
        };
        let mut stream = BufReader::new(stream);
        let mut line = String::new();
        let read = tokio::time::timeout(Duration::from_secs(2), stream.read_line(&mut line));
        if !matches!(read.await, Ok(Ok(_))) {
            continue;
        }
        let answer = match line.trim() {
            "reload" => match server.names.reload(&config.snapshot) {
                Ok(revision) => format!("ok {revision}\n"),
                Err(error) => format!("error {error}\n"),
            },
            "status" => status(server),
            "quit" => {
                let _ = stream.write_all(b"ok\n").await;
                return;
            }
            other => format!("error {other:?} is not known: reload, status, quit\n"),
        };
        let _ = stream.write_all(answer.as_bytes()).await;
    }
}

fn status(server: &Server) -> String {
    let status = serde_json::json!({
        "pid": std::process::id(),
        "revision": server.names.revision(),
        "queries": server.asked.load(Ordering::Relaxed),
        "forwarded": server.forwarded.load(Ordering::Relaxed),
        "uptime_seconds": server.started.elapsed().as_secs(),
    });
    format!("{status}\n")
}

/// Asks a responder by its control socket.
///
/// # Errors
/// There is none, it does not answer in time, or it says why not.
pub async fn request(socket: &Path, line: &str, patience: Duration) -> io::Result<String> {
    let talk = async {
        let mut stream = UnixStream::connect(socket).await?;
        stream.write_all(format!("{line}\n").as_bytes()).await?;
        let mut answer = String::new();
        BufReader::new(stream).read_line(&mut answer).await?;
        Ok::<_, io::Error>(answer)
    };
    let answer = tokio::time::timeout(patience, talk).await??;
    match answer.trim().strip_prefix("error ") {
        Some(why) => Err(io::Error::other(why.to_owned())),
        None if answer.is_empty() => Err(io::ErrorKind::UnexpectedEof.into()),
        None => Ok(answer.trim().to_owned()),
    }
}
