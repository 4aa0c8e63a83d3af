//! Logs as docker's multiplexed frames
//! (<https://docs.docker.com/reference/api/engine/> "ContainerAttach", stream format).

use std::{
    collections::{BTreeMap, BTreeSet},
    convert::Infallible,
    future::ready,
    sync::Arc,
};

use axum::{
    body::{Body, Bytes},
    http::header,
    response::{IntoResponse as _, Response},
};
use futures::{
    StreamExt as _,
    stream::{iter, once, unfold},
};
use jiff::Timestamp;
use model::{State, Task, TaskState, TaskStatus};

use crate::{ApiError, Backend, LogLine, LogOptions};

/// What the query parameters of a log request say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Wanted {
    details: bool,
    timestamps: bool,
    stdout: bool,
    stderr: bool,
    options: LogOptions,
}

impl Wanted {
    /// Reads the query.
    pub(crate) fn of(query: &BTreeMap<String, String>) -> Result<Self, ApiError> {
        let on = |key: &str| {
            let value = query.get(key).map(|value| value.to_ascii_lowercase());
            value.is_some_and(|value| !["", "0", "no", "false", "none"].contains(&value.as_str()))
        };
        let given = |key: &str| query.get(key).filter(|value| !value.is_empty());
        let tail = match given("tail").map(String::as_str) {
            None | Some("all") => None,
            Some(number) => Some(number.parse().map_err(|_| {
                ApiError::invalid(format!("tail {number:?}: use a number of lines, or all"))
            })?),
        };
        let options = LogOptions {
            tail,
            follow: on("follow"),
            since: given("since")
                .filter(|text| *text != "0")
                .map(|text| moment("since", text))
                .transpose()?,
        };
        let wanted = Self {
            details: on("details"),
            timestamps: on("timestamps"),
            stdout: on("stdout"),
            stderr: on("stderr"),
            options,
        };
        if !wanted.stdout && !wanted.stderr {
            return Err(ApiError::invalid(
                "you must choose at least one stream: add stdout=1 or stderr=1",
            ));
        }
        Ok(wanted)
    }
}

/// `SECONDS[.NANOSECONDS]` since 1970, as docker sends times.
pub(crate) fn moment(key: &str, text: &str) -> Result<Timestamp, ApiError> {
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let nanoseconds = format!("{fraction:0<9}");
    let parsed = seconds.parse().ok().zip(nanoseconds.parse().ok());
    parsed
        .and_then(|(seconds, nanoseconds)| Timestamp::new(seconds, nanoseconds).ok())
        .ok_or_else(|| ApiError::invalid(format!("{key} {text:?}: use seconds since 1970")))
}

/// Whose lines are wanted.
pub(crate) struct Source {
    /// These tasks',
    pub(crate) tasks: Vec<Task>,
    /// and there may be more tasks later.
    pub(crate) more: bool,
}

/// The time of a line that is wanted, and its frame: stream, three zeros, length
/// (big endian), text.
fn read(
    task: &Task,
    line: Result<LogLine, ApiError>,
    wanted: &Wanted,
) -> Option<(Timestamp, Bytes)> {
    let warn = |error: &ApiError| tracing::warn!(task = %task.id, %error, "a log cannot be read");
    let chosen = |line: &LogLine| line.stderr && wanted.stderr || !line.stderr && wanted.stdout;
    let line = line.inspect_err(warn).ok().filter(chosen)?;
    let mut text = String::new();
    if wanted.timestamps {
        text.push_str(&format!("{:.9} ", line.time));
    }
    if wanted.details {
        let (node, service, id) = (&task.node, &task.service, &task.id);
        text.push_str(&format!(
            "com.docker.swarm.node.id={node},com.docker.swarm.service.id={service},com.docker.swarm.task.id={id} "
        ));
    }
    text.push_str(&line.text);
    let mut frame = vec![if line.stderr { 2 } else { 1 }, 0, 0, 0];
    // the runtime cuts lines long before 4 GiB
    frame.extend(u32::try_from(text.len()).unwrap_or(u32::MAX).to_be_bytes());
    frame.extend(text.as_bytes());
    Some((line.time, frame.into()))
}

/// The logs of the tasks that `of` names, until they end or nobody reads.
pub(crate) fn stream<B: Backend>(
    backend: Arc<B>,
    of: impl Fn(&State) -> Source + Send + 'static,
    wanted: Wanted,
) -> Response {
    let options = wanted.options;
    let mut states = backend.states();
    states.mark_changed();
    let begin = (backend, of, states, BTreeSet::new(), options);
    // at each change the logs of tasks that are new
    let logs = unfold(Some(begin), move |at| async move {
        let (backend, of, mut states, known, mut options) = at?;
        states.changed().await.ok()?;
        let state = states.borrow_and_update().clone();
        let Source { mut tasks, more } = of(&state);
        // until a task begins, its log seems to have ended
        let begun = |status: &TaskStatus| status.state >= TaskState::Running;
        tasks.retain(|task| !options.follow || state.status(&task.id).is_some_and(begun));
        let ids: BTreeSet<_> = tasks.iter().map(|task| task.id.clone()).collect();
        tasks.retain(|task| !known.contains(&task.id));
        let open = |task: Task| {
            let lines = backend.logs(&task.id, options);
            let frames = lines.filter_map(move |line| ready(read(&task, line, &wanted)));
            frames.boxed()
        };
        let new: Vec<_> = tasks.into_iter().map(open).collect();
        // of who comes later, everything
        options.tail = None;
        let next = (backend, of, states, ids, options);
        Some((iter(new), (more && options.follow).then_some(next)))
    });
    let mut frames = logs.flatten().flatten_unordered(None).boxed();
    if !options.follow {
        let sorted = async {
            let mut all: Vec<_> = frames.collect().await;
            // stable: lines of one task stay in order
            all.sort_by_key(|(time, _)| *time);
            iter(all)
        };
        frames = once(sorted).flatten().boxed();
    }
    let body = Body::from_stream(frames.map(|(_, frame)| Ok::<_, Infallible>(frame)));
    let kind = "application/vnd.docker.multiplexed-stream";
    ([(header::CONTENT_TYPE, kind)], body).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_read() {
        let query = |pairs: &[(&str, &str)]| {
            let pairs = pairs
                .iter()
                .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
            Wanted::of(&pairs.collect())
        };
        let wanted = query(&[
            ("stdout", "1"),
            ("follow", "true"),
            ("tail", "5"),
            ("since", "1.5"),
        ]);
        let expected = Wanted {
            stdout: true,
            options: LogOptions {
                follow: true,
                tail: Some(5),
                since: Some(Timestamp::new(1, 500_000_000).unwrap()),
            },
            ..Wanted::default()
        };
        assert_eq!(wanted.unwrap(), expected);
        assert_eq!(
            query(&[("stderr", "1"), ("tail", "all")]).unwrap().options,
            LogOptions::default()
        );
        assert!(query(&[]).unwrap_err().message.contains("stream"));
        assert!(query(&[("stdout", "1"), ("tail", "-1")]).is_err());
        assert!(query(&[("stdout", "1"), ("since", "yesterday")]).is_err());
    }
}
