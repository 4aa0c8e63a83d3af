//! The Docker Engine behind us: what is not of services goes to it as it came, so
//! that one socket is enough for `docker` and all that speaks its API.

use std::{convert::Infallible, io, path::PathBuf, time::Duration};

use axum::{
    body::Body,
    extract::Request,
    http::{HeaderMap, Method, StatusCode, Uri, header},
    response::{IntoResponse as _, Response},
};
use bytes::{Bytes, BytesMut};
use futures::{Stream, StreamExt as _};
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
pub(crate) enum EngineError {
    #[error("cannot reach the Docker Engine at {}: {reason}", socket.display())]
    Unreachable { socket: PathBuf, reason: io::Error },
    #[error("the connection to the Docker Engine broke: {0}")]
    Broken(String),
    #[error("the Docker Engine does not answer")]
    Late,
    /// It said no.
    #[error("{message}")]
    Refused { status: StatusCode, message: String },
}

impl From<EngineError> for ApiError {
    fn from(error: EngineError) -> Self {
        let kind = match &error {
            EngineError::Refused { status, .. } => match *status {
                StatusCode::BAD_REQUEST => ErrorKind::Invalid,
                StatusCode::NOT_FOUND => ErrorKind::NotFound,
                StatusCode::CONFLICT => ErrorKind::Conflict,
                _ => ErrorKind::Internal,
            },
            _ => ErrorKind::Unavailable,
        };
        let message = match error {
            EngineError::Unreachable { .. } => format!(
                "{error}; what is not of services, stacks and their networks is its work: \
                 is it installed and running? see: systemctl status docker"
            ),
            _ => error.to_string(),
        };
        Self { kind, message }
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

    /// Sends a request on a connection of its own.
    async fn send(&self, request: Request) -> Result<hyper::Response<Incoming>, EngineError> {
        let broken = |error: hyper::Error| EngineError::Broken(error.to_string());
        let stream =
            UnixStream::connect(&self.socket)
                .await
                .map_err(|reason| EngineError::Unreachable {
                    socket: self.socket.clone(),
                    reason,
                })?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(broken)?;
        // ends with the answer, or with what the connection becomes
        tokio::spawn(connection.with_upgrades());
        sender.send_request(request).await.map_err(broken)
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

    /// Asks for something without a body.
    pub(crate) async fn ask(
        &self,
        method: Method,
        path: &str,
    ) -> Result<hyper::Response<Incoming>, EngineError> {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "docker")
            .body(Body::empty())
            .map_err(|error| EngineError::Broken(error.to_string()))?;
        match timeout(PATIENCE, self.send(request)).await {
            Ok(answer) => answer,
            Err(_) => Err(EngineError::Late),
        }
    }

    /// What it answers to a `GET`.
    pub(crate) async fn get(&self, path: &str) -> Result<Value, EngineError> {
        let answer = self.ask(Method::GET, path).await?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), LONGEST).collect();
        let body = match timeout(PATIENCE, body).await {
            Ok(body) => body.map_err(|error| EngineError::Broken(error.to_string()))?,
            Err(_) => return Err(EngineError::Late),
        };
        let value: Value = serde_json::from_slice(&body.to_bytes())
            .map_err(|error| EngineError::Broken(error.to_string()))?;
        if status.is_success() {
            return Ok(value);
        }
        let message = value["message"].as_str().unwrap_or_default().to_owned();
        Err(EngineError::Refused { status, message })
    }

    /// The lines of a stream, each with its line feed, as long as it lasts; none where
    /// it does not answer.
    pub(crate) async fn lines(&self, path: &str) -> impl Stream<Item = Bytes> + use<> {
        let answer = self.ask(Method::GET, path).await.ok();
        let answer = answer.filter(|answer| answer.status().is_success());
        let chunks = answer.map(|answer| answer.into_body().into_data_stream());
        let chunks = futures::stream::iter(chunks).flatten();
        let mut left = BytesMut::new();
        chunks
            .map(move |chunk| {
                left.extend_from_slice(&chunk.unwrap_or_default());
                let mut lines = Vec::new();
                while let Some(end) = left.iter().position(|byte| *byte == b'\n') {
                    lines.push(Ok::<_, Infallible>(left.split_to(end + 1).freeze()));
                }
                if left.len() > LONGEST_LINE {
                    left.clear();
                }
                futures::stream::iter(lines)
            })
            .flatten()
            .filter_map(|line| std::future::ready(line.ok()))
    }
}
