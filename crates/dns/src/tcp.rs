//! Questions by TCP (RFC 7766).

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    time::timeout,
};

use crate::{
    server::{Next, Server, Tasks},
    wire::Transport,
};

/// Takes connections until it is dropped.
pub(crate) async fn listen(server: Arc<Server>, listener: TcpListener, tasks: Tasks) {
    loop {
        // those beyond the limit wait in the kernel's queue
        let Ok(permit) = server.connections.clone().acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok((stream, peer)) => {
                let connection = serve(server.clone(), stream, peer, tasks.clone());
                tasks.spawn(async move {
                    let _permit = permit;
                    if let Err(error) = connection.await {
                        tracing::debug!(%peer, %error, "a connection broke");
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                // out of files, most likely: it passes, but not at once
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// Answers the questions of one connection, one after the other.
async fn serve(
    server: Arc<Server>,
    mut stream: TcpStream,
    peer: SocketAddr,
    tasks: Tasks,
) -> io::Result<()> {
    let idle = server.limits.idle;
    loop {
        let next = timeout(idle, read_message(&mut stream));
        let Some(Ok(read)) = tasks.unless_stopping(next).await else {
            return Ok(());
        };
        let Some(packet) = read? else {
            return Ok(());
        };
        let reply = match server.take(&packet, peer.ip(), Transport::Tcp) {
            Next::Silence => None,
            Next::Reply(reply) => Some(reply),
            Next::Forward(forward) => forward.run().await,
        };
        if let Some(reply) = reply {
            timeout(idle, write_message(&mut stream, &reply)).await??;
        }
    }
}

/// Reads one message with its length before it (RFC 1035 §4.2.2); `None` where
/// the stream ends instead.
pub(crate) async fn read_message(
    stream: &mut (impl AsyncRead + Unpin),
) -> io::Result<Option<Vec<u8>>> {
    let length = match stream.read_u16().await {
        Ok(length) => length,
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut message = vec![0; length.into()];
    stream.read_exact(&mut message).await?;
    Ok(Some(message))
}

/// Writes one message with its length before it, in one piece (RFC 7766 §8).
pub(crate) async fn write_message(
    stream: &mut (impl AsyncWrite + Unpin),
    message: &[u8],
) -> io::Result<()> {
    let length = u16::try_from(message.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let mut framed = Vec::with_capacity(2 + message.len());
    framed.extend(length.to_be_bytes());
    framed.extend(message);
    stream.write_all(&framed).await
}
