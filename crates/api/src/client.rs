//! The client of the API that the `ipvsmesh` command is. Docker's objects are
//! given as Docker's JSON, so that no field is lost between reading a spec and
//! sending it back; ours are typed.

mod blobs;
mod events;

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{Method, Request, Response, body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use model::RegistryAuth;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::net::UnixStream;

pub use events::{EventQuery, Events};

use crate::{
    SandboxRef,
    inspect::{Inspected, Inspection},
    registry_auth,
    stats::Stats,
    trace::{Trace, TraceRequest},
};

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens.
    #[error("cannot reach ipvsmeshd at {}: {}", socket.display(), advice(reason))]
    Unreachable {
        /// The socket.
        socket: PathBuf,
        /// Why; its words are part of the message.
        reason: io::Error,
    },
    /// The connection broke.
    #[error("the connection to ipvsmeshd broke; see what it says: journalctl -u ipvsmeshd")]
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
    #[error(
        "cannot read ipvsmeshd's answer to {request}: {why}; are the command and the daemon of one version? see: ipvsmesh version"
    )]
    Answer {
        /// Method and path.
        request: String,
        /// What is wrong with it.
        why: String,
    },
}

impl ClientError {
    /// Whether the daemon said that there is no such thing.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Refused { status: 404, .. })
    }
}

/// The reason and the next step for a socket that cannot be connected to.
fn advice(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => {
            "no such file; is it running? start it: systemctl start ipvsmeshd".to_owned()
        }
        io::ErrorKind::ConnectionRefused => {
            "nobody listens; is it running? start it: systemctl start ipvsmeshd".to_owned()
        }
        io::ErrorKind::PermissionDenied => {
            "permission denied; the socket is root's: try sudo".to_owned()
        }
        _ => error.to_string(),
    }
}

/// Docker's `filters` of a list: values of one key are alternatives (labels:
/// all must fit), keys must fit together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filters(BTreeMap<String, BTreeMap<String, bool>>);

impl Filters {
    /// One filter.
    pub fn one(key: &str, value: &str) -> Self {
        let mut filters = Self::default();
        filters.add(key, value);
        filters
    }

    /// One more filter.
    pub fn add(&mut self, key: &str, value: &str) {
        let values = self.0.entry(key.to_owned()).or_default();
        values.insert(value.to_owned(), true);
    }

    fn query(&self) -> String {
        if self.0.is_empty() {
            return String::new();
        }
        format!("filters={}", escape(&json!(self.0).to_string()))
    }
}

/// Which log lines are wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogQuery {
    /// Wait for more.
    pub follow: bool,
    /// The time before each line.
    pub timestamps: bool,
    /// Node, service and task before each line.
    pub details: bool,
    /// Only so many last lines of each task.
    pub tail: Option<u64>,
}

/// A client of one daemon; makes a connection a request.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
    registry_auth: Option<RegistryAuth>,
}

impl Client {
    /// The client of the daemon with this socket.
    pub fn new(socket: &Path) -> Self {
        Self {
            socket: socket.to_owned(),
            registry_auth: None,
        }
    }

    /// The same one, whose requests say with what images are fetched.
    #[must_use]
    pub fn with_registry_auth(&self, auth: RegistryAuth) -> Self {
        Self {
            registry_auth: Some(auth),
            ..self.clone()
        }
    }

    /// Which socket it is.
    pub fn socket(&self) -> &Path {
        &self.socket
    }
}

type Answer<T> = Result<T, ClientError>;

// === requests ===

impl Client {
    async fn send(&self, method: Method, path: &str, body: Bytes) -> Answer<Response<Incoming>> {
        let stream =
            UnixStream::connect(&self.socket)
                .await
                .map_err(|reason| ClientError::Unreachable {
                    socket: self.socket.clone(),
                    reason,
                })?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(ClientError::Broken)?;
        // ends with the answer's body
        tokio::spawn(connection);
        let mut request = Request::builder()
            .method(&method)
            .uri(format!("/v{}{path}", crate::API_VERSION))
            .header("Host", "ipvsmesh")
            .header("Content-Type", "application/json");
        if let Some(auth) = &self.registry_auth {
            request = request.header(registry_auth::HEADER, registry_auth::header(auth));
        }
        let request = request
            .body(Full::new(body))
            .map_err(|error| ClientError::Answer {
                request: format!("{method} {path}"),
                why: error.to_string(),
            })?;
        let answer = sender
            .send_request(request)
            .await
            .map_err(ClientError::Broken)?;
        if answer.status().is_success() {
            return Ok(answer);
        }
        let status = answer.status().as_u16();
        let body = collect(answer).await?;
        let said: Value = serde_json::from_slice(&body).unwrap_or_default();
        let message = said["message"].as_str().map_or_else(
            || String::from_utf8_lossy(&body).into_owned(),
            str::to_owned,
        );
        Err(ClientError::Refused { status, message })
    }

    async fn json<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Answer<T> {
        let answer = self.send(method.clone(), path, body).await?;
        let bytes = collect(answer).await?;
        serde_json::from_slice(&bytes).map_err(|error| ClientError::Answer {
            request: format!("{method} {path}"),
            why: error.to_string(),
        })
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Answer<T> {
        self.json(Method::GET, path, Bytes::new()).await
    }

    async fn post(&self, path: &str, body: &Value) -> Answer<Value> {
        self.json(Method::POST, path, body.to_string().into()).await
    }

    /// The same, of which nothing is answered.
    async fn post_in_silence(&self, path: &str, body: &Value) -> Answer<()> {
        let answer = self.send(Method::POST, path, body.to_string().into());
        collect(answer.await?).await.map(drop)
    }

    async fn delete(&self, path: &str) -> Answer<()> {
        let answer = self.send(Method::DELETE, path, Bytes::new()).await?;
        collect(answer).await.map(drop)
    }
}

async fn collect(answer: Response<Incoming>) -> Answer<Bytes> {
    let body = answer.into_body().collect().await;
    Ok(body.map_err(ClientError::Broken)?.to_bytes())
}

// === calls ===

impl Client {
    /// `GET /services` with how many tasks run.
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn services(&self, filters: &Filters) -> Answer<Vec<Value>> {
        self.get(&format!("/services?status=true&{}", filters.query()))
            .await
    }

    /// `GET /services/NAME`
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn service(&self, name: &str) -> Answer<Value> {
        self.get(&format!("/services/{}", escape(name))).await
    }

    /// `POST /services/create`; gives the id.
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn create_service(&self, spec: &Value) -> Answer<String> {
        let made = self.post("/services/create", spec).await?;
        id(&made, "ID", "POST /services/create")
    }

    /// `POST /services/ID/update` of the version that was looked at.
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn update_service(&self, id: &str, version: u64, spec: &Value) -> Answer<()> {
        let path = format!("/services/{}/update?version={version}", escape(id));
        let answer = self.send(Method::POST, &path, spec.to_string().into());
        collect(answer.await?).await.map(drop)
    }

    /// `POST /services/ID/update?rollback=previous`
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn rollback_service(&self, id: &str, version: u64, spec: &Value) -> Answer<()> {
        let id = escape(id);
        let path = format!("/services/{id}/update?version={version}&rollback=previous");
        let answer = self.send(Method::POST, &path, spec.to_string().into());
        collect(answer.await?).await.map(drop)
    }

    /// `DELETE /services/NAME`
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn remove_service(&self, name: &str) -> Answer<()> {
        self.delete(&format!("/services/{}", escape(name))).await
    }

    /// `GET /tasks`
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn tasks(&self, filters: &Filters) -> Answer<Vec<Value>> {
        self.get(&format!("/tasks?{}", filters.query())).await
    }

    /// `GET /tasks/NAME`
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn task(&self, name: &str) -> Answer<Value> {
        self.get(&format!("/tasks/{}", escape(name))).await
    }

    /// `GET /nodes`
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn nodes(&self, filters: &Filters) -> Answer<Vec<Value>> {
        self.get(&format!("/nodes?{}", filters.query())).await
    }

    /// `GET /nodes/NAME`; `self` is the node that answers.
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn node(&self, name: &str) -> Answer<Value> {
        self.get(&format!("/nodes/{}", escape(name))).await
    }

    /// `POST /nodes/ID/update`, for a node that still has this version.
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn update_node(&self, id: &str, version: u64, spec: &Value) -> Answer<()> {
        let path = format!("/nodes/{}/update?version={version}", escape(id));
        let answer = self.send(Method::POST, &path, spec.to_string().into());
        collect(answer.await?).await.map(drop)
    }

    /// `GET /ipvsmesh/v1/networks`: Docker's own are not among them.
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn networks(&self, filters: &Filters) -> Answer<Vec<Value>> {
        self.get(&format!("/ipvsmesh/v1/networks?{}", filters.query()))
            .await
    }

    /// `GET /ipvsmesh/v1/networks/NAME`
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn network(&self, name: &str) -> Answer<Value> {
        self.get(&format!("/ipvsmesh/v1/networks/{}", escape(name)))
            .await
    }

    /// `POST /networks/create`; gives the id.
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn create_network(&self, spec: &Value) -> Answer<String> {
        let made = self.post("/networks/create", spec).await?;
        id(&made, "Id", "POST /networks/create")
    }

    /// `DELETE /ipvsmesh/v1/networks/NAME`
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn remove_network(&self, name: &str) -> Answer<()> {
        self.delete(&format!("/ipvsmesh/v1/networks/{}", escape(name)))
            .await
    }

    /// `GET /services/NAME/logs`
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn service_logs(&self, name: &str, query: &LogQuery) -> Answer<Logs> {
        self.logs("services", name, query).await
    }

    /// `GET /tasks/NAME/logs`
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn task_logs(&self, name: &str, query: &LogQuery) -> Answer<Logs> {
        self.logs("tasks", name, query).await
    }

    async fn logs(&self, kind: &str, name: &str, query: &LogQuery) -> Answer<Logs> {
        let tail = query
            .tail
            .map_or_else(|| "all".to_owned(), |tail| tail.to_string());
        let path = format!(
            "/{kind}/{}/logs?stdout=1&stderr=1&follow={}&timestamps={}&details={}&tail={tail}",
            escape(name),
            u8::from(query.follow),
            u8::from(query.timestamps),
            u8::from(query.details),
        );
        let answer = self.send(Method::GET, &path, Bytes::new()).await?;
        Ok(Logs {
            body: answer.into_body(),
            buffer: Vec::new(),
        })
    }

    /// `GET /version`
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn version(&self) -> Answer<Value> {
        self.get("/version").await
    }

    /// `GET /info`
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn info(&self) -> Answer<Value> {
        self.get("/info").await
    }

    /// `GET /ipvsmesh/v1/inspect/TARGET` of a service or a task.
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn inspect(&self, target: &str) -> Answer<Inspection> {
        self.get(&format!("/ipvsmesh/v1/inspect/{}", escape(target)))
            .await
    }

    /// `GET /ipvsmesh/v1/stats`
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn stats(&self) -> Answer<Stats> {
        self.get("/ipvsmesh/v1/stats").await
    }

    /// `GET /ipvsmesh/v1/inspect/TARGET` of anything; `kind` says what it is, where that
    /// is not clear.
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn inspected(&self, target: &str, kind: Option<&str>) -> Answer<Inspected> {
        let (target, kind) = (escape(target), escape(kind.unwrap_or_default()));
        self.get(&format!("/ipvsmesh/v1/inspect/{target}?type={kind}"))
            .await
    }

    /// `POST /ipvsmesh/v1/trace`
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn trace(&self, request: &TraceRequest) -> Answer<Trace> {
        let body = json!(request).to_string();
        self.json(Method::POST, "/ipvsmesh/v1/trace", body.into())
            .await
    }

    /// `GET /ipvsmesh/v1/tasks/NAME/sandbox`
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn sandbox(&self, task: &str) -> Answer<SandboxRef> {
        self.get(&format!("/ipvsmesh/v1/tasks/{}/sandbox", escape(task)))
            .await
    }

    /// `GET /ipvsmesh/v1/settled`: returns once traffic and names go as was asked.
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn settled(&self) -> Answer<()> {
        let answer = self.send(Method::GET, "/ipvsmesh/v1/settled", Bytes::new());
        collect(answer.await?).await.map(drop)
    }

    /// `GET /ipvsmesh/v1/status`
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn status(&self) -> Answer<Value> {
        self.get("/ipvsmesh/v1/status").await
    }
}

fn id(made: &Value, key: &str, request: &str) -> Answer<String> {
    let id = made[key].as_str().map(str::to_owned);
    id.ok_or_else(|| ClientError::Answer {
        request: request.to_owned(),
        why: format!("it has no {key}"),
    })
}

// === logs ===

/// Log lines as they come.
#[derive(Debug)]
pub struct Logs {
    body: Incoming,
    buffer: Vec<u8>,
}

/// A line of a log, with what was asked for before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Of standard error rather than output.
    pub stderr: bool,
    /// The bytes, with the line feed.
    pub text: Vec<u8>,
}

impl Logs {
    /// The next line; `None` after the last one.
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn next(&mut self) -> Answer<Option<Frame>> {
        loop {
            if let Some(frame) = take_frame(&mut self.buffer) {
                return Ok(Some(frame));
            }
            if !more(&mut self.body, &mut self.buffer).await? {
                return Ok(None);
            }
        }
    }
}

/// Waits for more of an answer that comes in parts; `false` after its end.
async fn more(body: &mut Incoming, buffer: &mut Vec<u8>) -> Answer<bool> {
    match body.frame().await {
        Some(Ok(frame)) => {
            buffer.extend_from_slice(&frame.into_data().unwrap_or_default());
            Ok(true)
        }
        Some(Err(error)) => Err(ClientError::Broken(error)),
        None => Ok(false),
    }
}

/// Takes one of docker's frames off the front of the buffer: stream, three
/// zeros, length (big endian), text.
fn take_frame(buffer: &mut Vec<u8>) -> Option<Frame> {
    let &[stream, _, _, _, a, b, c, d] = buffer.first_chunk::<8>()?;
    let end = 8 + u32::from_be_bytes([a, b, c, d]) as usize;
    let text = buffer.get(8..end)?.to_vec();
    buffer.drain(..end);
    Some(Frame {
        stderr: stream == 2,
        text,
    })
}

/// A path segment or query value with what is special in URLs escaped.
fn escape(text: &str) -> String {
    text.bytes()
        .map(|b| match b {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                char::from(b).to_string()
            }
            other => format!("%{other:02X}"),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_cut_where_they_end() {
        let mut buffer = vec![1, 0, 0, 0, 0, 0, 0, 2, b'a', b'\n', 2, 0, 0, 0, 0, 0, 0];
        let frame = take_frame(&mut buffer).unwrap();
        assert_eq!((frame.stderr, frame.text.as_slice()), (false, &b"a\n"[..]));
        assert_eq!(take_frame(&mut buffer), None);
        buffer.extend([1, b'b']);
        let frame = take_frame(&mut buffer).unwrap();
        assert_eq!((frame.stderr, frame.text.as_slice()), (true, &b"b"[..]));
        assert!(buffer.is_empty());
    }

    #[test]
    fn what_is_special_in_paths_is_escaped() {
        assert_eq!(escape("vote.1"), "vote.1");
        assert_eq!(escape("a/b?c=ü"), "a%2Fb%3Fc%3D%C3%BC");
        assert_eq!(
            Filters::one("name", "v").query(),
            "filters=%7B%22name%22%3A%7B%22v%22%3Atrue%7D%7D"
        );
        assert_eq!(Filters::default().query(), "");
    }

    #[test]
    fn a_daemon_that_is_away_is_named_with_the_next_step() {
        let error = ClientError::Unreachable {
            socket: "/run/ipvsmesh/ipvsmesh.sock".into(),
            reason: io::ErrorKind::NotFound.into(),
        };
        assert_eq!(
            error.to_string(),
            "cannot reach ipvsmeshd at /run/ipvsmesh/ipvsmesh.sock: no such file; is it running? start it: systemctl start ipvsmeshd"
        );
    }
}
