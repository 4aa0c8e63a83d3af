//! The client of the API that the `ipvsmesh` command is.

use std::{
    io,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{Method, Request, Response, StatusCode, body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::UnixStream;

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens.
    #[error("cannot reach ipvsmeshd at {}: is it running? start it (systemctl start ipvsmeshd), or name its socket with --host", socket.display())]
    Unreachable {
        /// The socket.
        socket: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The connection broke.
    #[error("the connection to ipvsmeshd broke")]
    Broken(#[source] hyper::Error),
    /// The daemon said no.
    #[error("Error response from daemon: {message}")]
    Refused {
        /// HTTP status.
        status: u16,
        /// What the daemon said.
        message: String,
    },
    /// The daemon's answer has no sense.
    #[error("cannot read ipvsmeshd's answer: {0}")]
    Answer(String),
}

/// A client of one daemon; makes a connection a request.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
}

impl Client {
    /// The client of the daemon with this socket.
    pub fn new(socket: &Path) -> Self {
        Self {
            socket: socket.to_owned(),
        }
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<Response<Incoming>, ClientError> {
        let stream =
            UnixStream::connect(&self.socket)
                .await
                .map_err(|source| ClientError::Unreachable {
                    socket: self.socket.clone(),
                    source,
                })?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(ClientError::Broken)?;
        tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(format!("/v{}{path}", crate::API_VERSION))
            .header("Host", "ipvsmesh")
            .header("Content-Type", "application/json")
            .body(Full::new(body))
            .map_err(|error| ClientError::Answer(error.to_string()))?;
        let answer = sender
            .send_request(request)
            .await
            .map_err(ClientError::Broken)?;
        if answer.status().is_success() {
            return Ok(answer);
        }
        let status = answer.status();
        let body = answer
            .into_body()
            .collect()
            .await
            .map_err(ClientError::Broken)?
            .to_bytes();
        let said: Value = serde_json::from_slice(&body).unwrap_or_default();
        let message = said["message"].as_str().map_or_else(
            || String::from_utf8_lossy(&body).into_owned(),
            str::to_owned,
        );
        Err(ClientError::Refused {
            status: status.as_u16(),
            message,
        })
    }

    async fn json(&self, method: Method, path: &str, body: Bytes) -> Result<Value, ClientError> {
        let answer = self.send(method, path, body).await?;
        if answer.status() == StatusCode::NO_CONTENT {
            return Ok(Value::Null);
        }
        let bytes = answer
            .into_body()
            .collect()
            .await
            .map_err(ClientError::Broken)?
            .to_bytes();
        if bytes.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&bytes).map_err(|error| ClientError::Answer(error.to_string()))
    }

    /// `GET path`
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn get(&self, path: &str) -> Result<Value, ClientError> {
        self.json(Method::GET, path, Bytes::new()).await
    }

    /// `POST path` with a JSON body.
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn post(&self, path: &str, body: &Value) -> Result<Value, ClientError> {
        self.json(Method::POST, path, body.to_string().into()).await
    }

    /// `DELETE path`
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn delete(&self, path: &str) -> Result<(), ClientError> {
        self.json(Method::DELETE, path, Bytes::new())
            .await
            .map(drop)
    }

    /// Reads docker's multiplexed frames: calls `each` with whether a line is of
    /// standard error, and the line.
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn frames(
        &self,
        path: &str,
        mut each: impl FnMut(bool, &[u8]),
    ) -> Result<(), ClientError> {
        let mut body = self
            .send(Method::GET, path, Bytes::new())
            .await?
            .into_body();
        let mut buffer = Vec::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(ClientError::Broken)?;
            buffer.extend(
                frame
                    .data_ref()
                    .map(|data| data.to_vec())
                    .unwrap_or_default(),
            );
            while let Some(head) = buffer.get(..8) {
                let length = u32::from_be_bytes([head[4], head[5], head[6], head[7]]) as usize;
                let Some(text) = buffer.get(8..8 + length) else {
                    break;
                };
                each(head[0] == 2, text);
                buffer.drain(..8 + length);
            }
        }
        Ok(())
    }
}

/// A path segment with what is special in URLs escaped.
pub fn escape(text: &str) -> String {
    text.bytes()
        .map(|b| match b {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                char::from(b).to_string()
            }
            other => format!("%{other:02X}"),
        })
        .collect()
}
