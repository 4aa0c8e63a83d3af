//! Events as they come.

use bytes::Bytes;
use hyper::{Method, body::Incoming};
use jiff::Timestamp;
use serde_json::Value;

use super::{Answer, Client, ClientError, Filters, more};

/// Which events are wanted.
#[derive(Clone, Debug, Default)]
pub struct EventQuery {
    /// Only these.
    pub filters: Filters,
    /// Those that are remembered from then on, before those that come.
    pub since: Option<Timestamp>,
    /// None after this moment; without it they come for ever.
    pub until: Option<Timestamp>,
}

impl Client {
    /// `GET /ipvsmesh/v1/events`
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn events(&self, query: &EventQuery) -> Answer<Events> {
        let mut path = format!("/ipvsmesh/v1/events?{}", query.filters.query());
        for (key, at) in [("since", query.since), ("until", query.until)] {
            if let Some(at) = at {
                let (seconds, rest) = (at.as_second(), at.subsec_nanosecond());
                path.push_str(&format!("&{key}={seconds}.{rest:09}"));
            }
        }
        let answer = self.send(Method::GET, &path, Bytes::new()).await?;
        Ok(Events {
            body: answer.into_body(),
            buffer: Vec::new(),
        })
    }
}

/// Docker's `EventMessage`s, one after the other.
#[derive(Debug)]
pub struct Events {
    body: Incoming,
    buffer: Vec<u8>,
}

impl Events {
    /// The next one; `None` after the last one.
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn next(&mut self) -> Answer<Option<Value>> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                let read = serde_json::from_slice(&line);
                return read.map(Some).map_err(|error| ClientError::Answer {
                    request: "GET /ipvsmesh/v1/events".to_owned(),
                    why: error.to_string(),
                });
            }
            if !more(&mut self.body, &mut self.buffer).await? {
                return Ok(None);
            }
        }
    }
}
