//! The Docker Engine behind us: what is not of services goes to it as it came, so
//! that one socket is enough for `docker` and all that speaks its API.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use axum::{
    body::Body,
    extract::Request,
    http::{HeaderMap, Method, StatusCode, Uri, header},
    response::{IntoResponse as _, Response},
};
use bytes::{Bytes, BytesMut};
use futures::{Stream, StreamExt as _, stream::iter};
use http_body_util::{BodyExt as _, Limited};
use hyper::{body::Incoming, client::conn::http1, upgrade};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::{io::copy_bidirectional, net::UnixStream, time::timeout};

use crate::{ApiError, ErrorKind};

/// How long it may take to say something of itself; a question of ours is answered
/// without it then.
const PATIENCE: Duration = Duration::from_secs(5);
/// The longest answer that is read whole, octets.
const LONGEST: usize = 64 << 20;
/// The longest line of its events, octets.
const LONGEST_LINE: usize = 1 << 20;

/// A Docker Engine at a unix socket; it need not be there.
#[derive(Clone, Debug)]
pub struct Engine {
    socket: PathBuf,
}

/// Why it did not answer.
#[derive(Debug, thiserror::Error)]
enum EngineError {
    #[error(
        "cannot reach the Docker Engine at {}: {reason}; what is not of services, stacks and their \
         networks is its work: is it installed and running? see: systemctl status docker",
        socket.display()
    )]
    Unreachable { socket: PathBuf, reason: io::Error },
    #[error("the connection to the Docker Engine broke: {0}")]
    Broken(#[from] hyper::Error),
}

impl From<EngineError> for ApiError {
    fn from(error: EngineError) -> Self {
        Self {
            kind: ErrorKind::Unavailable,
            message: error.to_string(),
        }
    }
}

/// What is said between two neighbours, and not passed on (RFC 9110, 7.6.1). A
/// connection that becomes another protocol's keeps its words.
fn pass_headers(headers: &mut HeaderMap) {
    if !headers.contains_key(header::UPGRADE) {
        headers.remove(header::CONNECTION);
    }
    for name in [header::EXPECT, header::TE, header::PROXY_AUTHORIZATION] {
        headers.remove(name);
    }
}

impl Engine {
    /// The one at this socket.
    pub fn new(socket: PathBuf) -> Self {
        Self { socket }
    }

    /// Where it listens.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Sends a request on a connection of its own.
    async fn send(&self, request: Request) -> Result<hyper::Response<Incoming>, EngineError> {
        let stream =
            UnixStream::connect(&self.socket)
                .await
                .map_err(|reason| EngineError::Unreachable {
                    socket: self.socket.clone(),
                    reason,
                })?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        // ends with the answer, or with what the connection becomes
        tokio::spawn(connection.with_upgrades());
        Ok(sender.send_request(request).await?)
    }

    /// Passes a request on, and its answer back: bodies as they come, and connections
    /// that become streams (attach, exec, build) in both directions.
    pub(crate) async fn forward(&self, mut request: Request) -> Response {
        let ours = upgrade::on(&mut request);
        pass_headers(request.headers_mut());
        // the path alone: there is no host to a unix socket, but HTTP wants one
        let path = request.uri().path_and_query().cloned();
        *request.uri_mut() = path.map(Uri::from).unwrap_or_default();
        request
            .headers_mut()
            .entry(header::HOST)
            .or_insert(header::HeaderValue::from_static("docker"));
        let mut answer = match self.send(request).await {
            Ok(answer) => answer,
            Err(error) => return ApiError::from(error).into_response(),
        };
        if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
            let theirs = upgrade::on(&mut answer);
            tokio::spawn(async move {
                if let (Ok(ours), Ok(theirs)) = (ours.await, theirs.await) {
                    // either side may go at any time
                    let _ = copy_bidirectional(&mut TokioIo::new(ours), &mut TokioIo::new(theirs))
                        .await;
                }
            });
        } else {
            pass_headers(answer.headers_mut());
        }
        answer.map(Body::new)
    }

    /// Asks for something without a body; `None`: it does not answer.
    pub(crate) async fn ask(
        &self,
        method: Method,
        path: &str,
    ) -> Option<hyper::Response<Incoming>> {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "docker")
            .body(Body::empty())
            .ok()?;
        timeout(PATIENCE, self.send(request)).await.ok()?.ok()
    }

    /// The same of a `GET` that it answers with what was asked for.
    async fn ask_for(&self, path: &str) -> Option<Incoming> {
        let answer = self.ask(Method::GET, path).await?;
        let status = answer.status();
        status.is_success().then(|| answer.into_body())
    }

    /// What it answers to a `GET`; `None`: it does not answer, or says no.
    pub(crate) async fn get(&self, path: &str) -> Option<Value> {
        let body = Limited::new(self.ask_for(path).await?, LONGEST).collect();
        let body = timeout(PATIENCE, body).await.ok()?.ok()?;
        serde_json::from_slice(&body.to_bytes()).ok()
    }

    /// The lines of a stream, each with its line feed, as long as it lasts; none where
    /// it does not answer.
    pub(crate) async fn lines(&self, path: &str) -> impl Stream<Item = Bytes> + use<> {
        let body = self.ask_for(path).await;
        let chunks = iter(body.map(Incoming::into_data_stream)).flatten();
        let mut left = BytesMut::new();
        chunks.flat_map(move |chunk| {
            left.extend_from_slice(&chunk.unwrap_or_default());
            let mut lines = Vec::new();
            while let Some(end) = left.iter().position(|byte| *byte == b'\n') {
                lines.push(left.split_to(end + 1).freeze());
            }
            if left.len() > LONGEST_LINE {
                left.clear();
            }
            iter(lines)
        })
    }
}
