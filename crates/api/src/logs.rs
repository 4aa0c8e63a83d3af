//! Logs as docker's multiplexed frames
//! (<https://docs.docker.com/reference/api/engine/> "ContainerAttach", stream format).

use std::{collections::BTreeMap, convert::Infallible, sync::Arc, time::Duration};

use axum::{
    body::{Body, Bytes},
    http::header,
    response::{IntoResponse as _, Response},
};
use jiff::Timestamp;
use model::{State, Task, TaskId};
use tokio::{sync::mpsc, time::Instant};

use crate::{ApiError, Backend, LogLine};

/// How often a followed log is looked at, at most.
const FOLLOW: Duration = Duration::from_millis(300);
/// Looking takes at most one part in so many of the time.
const SHARE: u32 = 10;

/// What the query parameters of a log request say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Wanted {
    follow: bool,
    details: bool,
    timestamps: bool,
    stdout: bool,
    stderr: bool,
    tail: Option<usize>,
    since: Option<Timestamp>,
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
        let wanted = Self {
            follow: on("follow"),
            details: on("details"),
            timestamps: on("timestamps"),
            stdout: on("stdout"),
            stderr: on("stderr"),
            tail,
            since: given("since")
                .filter(|text| *text != "0")
                .map(|text| since(text))
                .transpose()?,
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
fn since(text: &str) -> Result<Timestamp, ApiError> {
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let nanoseconds = format!("{fraction:0<9}");
    let parsed = seconds.parse().ok().zip(nanoseconds.parse().ok());
    parsed
        .and_then(|(seconds, nanoseconds)| Timestamp::new(seconds, nanoseconds).ok())
        .ok_or_else(|| ApiError::invalid(format!("since {text:?}: use seconds since 1970")))
}

/// Whose lines are wanted.
pub(crate) struct Source {
    /// These tasks',
    pub(crate) tasks: Vec<Task>,
    /// and there may be more lines or tasks later.
    pub(crate) more: bool,
}

/// How far a task's log was sent. Not a number of lines: a log that is rotated
/// loses lines at its beginning.
#[derive(Default)]
struct Sent {
    /// Time of the last line.
    last: Option<Timestamp>,
    /// Lines with that very time.
    same: usize,
}

impl Sent {
    /// The lines that were not sent yet.
    fn new_of(&mut self, lines: Vec<LogLine>) -> Vec<LogLine> {
        let mut skip = self.same;
        let new: Vec<_> = lines
            .into_iter()
            .filter(|line| {
                let known = Some(line.time) == self.last && skip > 0;
                skip -= usize::from(known);
                !known && self.last.is_none_or(|last| line.time >= last)
            })
            .collect();
        if let Some(last) = new.last().map(|line| line.time) {
            let again = if Some(last) == self.last {
                self.same
            } else {
                0
            };
            self.same = again + new.iter().filter(|line| line.time == last).count();
            self.last = Some(last);
        }
        new
    }
}

/// One frame: stream, three zeros, length (big endian), text.
fn frame(task: &Task, line: &LogLine, wanted: &Wanted) -> Bytes {
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
    frame.into()
}

/// The logs of the tasks that `of` names, until they end or nobody reads.
pub(crate) fn stream<B: Backend>(
    backend: Arc<B>,
    of: impl Fn(&State) -> Source + Send + 'static,
    wanted: Wanted,
) -> Response {
    let (frames, receiver) = mpsc::channel::<Bytes>(64);
    tokio::spawn(async move {
        let mut sent: BTreeMap<TaskId, Sent> = BTreeMap::new();
        loop {
            let begun = Instant::now();
            let source = of(&backend.state());
            let lines = new_lines(&*backend, &source.tasks, &wanted, &mut sent).await;
            for (task, line) in lines {
                if frames.send(frame(task, &line, &wanted)).await.is_err() {
                    return;
                }
            }
            if !(wanted.follow && source.more) {
                return;
            }
            tokio::select! {
                () = frames.closed() => return,
                () = tokio::time::sleep(FOLLOW.max(begun.elapsed() * SHARE)) => {}
            }
        }
    });
    let frames = futures::stream::unfold(receiver, |mut receiver| async move {
        let frame = receiver.recv().await?;
        Some((Ok::<_, Infallible>(frame), receiver))
    });
    let kind = "application/vnd.docker.multiplexed-stream";
    ([(header::CONTENT_TYPE, kind)], Body::from_stream(frames)).into_response()
}

async fn new_lines<'a, B: Backend>(
    backend: &B,
    tasks: &'a [Task],
    wanted: &Wanted,
    sent: &mut BTreeMap<TaskId, Sent>,
) -> Vec<(&'a Task, LogLine)> {
    let mut found = Vec::new();
    for task in tasks {
        let lines = match backend.logs(task.id.clone()).await {
            Ok(lines) => lines,
            Err(error) => {
                tracing::warn!(task = %task.id, %error, "a log cannot be read");
                continue;
            }
        };
        let first = !sent.contains_key(&task.id);
        let mut new = sent.entry(task.id.clone()).or_default().new_of(lines);
        new.retain(|line| {
            let stream = if line.stderr {
                wanted.stderr
            } else {
                wanted.stdout
            };
            stream && wanted.since.is_none_or(|since| line.time >= since)
        });
        if let (true, Some(tail)) = (first, wanted.tail) {
            new.drain(..new.len().saturating_sub(tail));
        }
        found.extend(new.into_iter().map(|line| (task, line)));
    }
    // stable: lines of one task stay in order
    found.sort_by_key(|(_, line)| line.time);
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(time: i64, text: &str) -> LogLine {
        LogLine {
            time: Timestamp::from_second(time).unwrap(),
            stderr: false,
            text: text.to_owned(),
        }
    }

    #[test]
    fn each_line_is_sent_once_even_if_the_log_rotates() {
        let mut sent = Sent::default();
        let mut texts = |lines: Vec<LogLine>| -> Vec<String> {
            sent.new_of(lines)
                .into_iter()
                .map(|line| line.text)
                .collect()
        };
        assert_eq!(texts(vec![line(1, "a"), line(2, "b")]), ["a", "b"]);
        assert!(texts(vec![line(1, "a"), line(2, "b")]).is_empty());
        // one more in the same moment
        assert_eq!(texts(vec![line(2, "b"), line(2, "c")]), ["c"]);
        assert_eq!(texts(vec![line(2, "b"), line(2, "c"), line(3, "d")]), ["d"]);
        // the beginning is gone
        assert_eq!(texts(vec![line(3, "d"), line(4, "e")]), ["e"]);
        assert!(texts(Vec::new()).is_empty());
    }

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
            follow: true,
            tail: Some(5),
            since: Some(Timestamp::new(1, 500_000_000).unwrap()),
            ..Wanted::default()
        };
        assert_eq!(wanted.unwrap(), expected);
        assert_eq!(
            query(&[("stderr", "1"), ("tail", "all")]).unwrap().tail,
            None
        );
        assert!(query(&[]).unwrap_err().message.contains("stream"));
        assert!(query(&[("stdout", "1"), ("tail", "-1")]).is_err());
        assert!(query(&[("stdout", "1"), ("since", "yesterday")]).is_err());
    }
}
