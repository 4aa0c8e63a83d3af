//! Events as Docker sends them: a JSON object a line, as long as somebody reads
//! (<https://docs.docker.com/reference/api/engine/version/v1.44/#tag/System/operation/SystemEvents>).

use std::{collections::BTreeMap, convert::Infallible, future::ready, sync::Arc, time::Duration};

use axum::{
    body::{Body, Bytes},
    http::header,
    response::{IntoResponse as _, Response},
};
use futures::{
    FutureExt as _, Stream, StreamExt as _,
    stream::{iter, select},
};
use jiff::Timestamp;
use model::{Event, EventKind, Happened};
use serde_json::{Value, json};

use crate::{ApiError, Events, filters::Filters, logs::moment};

/// Docker's filters, and `task`. Those of what is the engine's alone let none of ours pass.
const FILTERS: [&str; 15] = [
    "type",
    "event",
    "scope",
    "service",
    "task",
    "network",
    "node",
    "container",
    "daemon",
    "config",
    "image",
    "label",
    "plugin",
    "secret",
    "volume",
];

/// How long it is waited for one more of the engine's past events.
const PAUSE: Duration = Duration::from_millis(300);

/// What the query parameters say.
#[derive(Debug)]
pub(crate) struct Wanted {
    since: Option<Timestamp>,
    until: Option<Timestamp>,
    filters: Filters,
}

impl Wanted {
    /// Reads the query.
    pub(crate) fn of(query: &BTreeMap<String, String>) -> Result<Self, ApiError> {
        let at = |key: &str| {
            let given = query
                .get(key)
                .filter(|text| !["", "0"].contains(&text.as_str()));
            given.map(|text| moment(key, text)).transpose()
        };
        let wanted = Self {
            since: at("since")?,
            until: at("until")?,
            filters: Filters::of(query, &FILTERS)?,
        };
        match (wanted.since, wanted.until) {
            (Some(since), Some(until)) if until < since => Err(ApiError::invalid(
                "`since` time must be before `until` time: exchange the two",
            )),
            _ => Ok(wanted),
        }
    }

    fn fits(&self, happened: &Happened) -> bool {
        let Happened { at, event } = happened;
        self.since.is_none_or(|since| *at >= since)
            && self.until.is_none_or(|until| *at <= until)
            && passes(&self.filters, event)
    }
}

/// Whether all filters let it pass: ids by their beginning, names as they are.
fn passes(filters: &Filters, event: &Event) -> bool {
    let attribute =
        |key: &str, value: &str| event.attributes.get(key).is_some_and(|has| has == value);
    let actor = |value: &str| event.actor.starts_with(value) || attribute("name", value);
    let kind = event.kind;
    filters.pass("type", |value| kind.as_str() == value)
        && filters.pass("scope", |value| kind.scope() == value)
        && filters.pass("event", |value| {
            let more = event.action.strip_prefix(value);
            // `health_status` is all of `health_status: healthy` and others
            more.is_some_and(|more| more.is_empty() || more.starts_with(':'))
        })
        && filters.pass("service", |value| match kind {
            EventKind::Service => actor(value),
            _ => {
                let id = event.service.as_ref().map_or("", |id| id.as_str());
                id.starts_with(value) || attribute("service", value)
            }
        })
        && filters.pass("node", |value| {
            let id = event.node.as_ref().map_or("", |id| id.as_str());
            id.starts_with(value)
                || attribute("node", value)
                || kind == EventKind::Node && actor(value)
        })
        && filters.pass("task", |value| {
            matches!(kind, EventKind::Task | EventKind::Destination) && actor(value)
        })
        && filters.pass("container", |value| attribute("container", value))
        && filters.pass("network", |value| {
            kind == EventKind::Network && actor(value)
        })
        && filters.pass("daemon", |value| kind == EventKind::Daemon && actor(value))
        && filters.pass("config", |value| kind == EventKind::Config && actor(value))
        && filters.pass("secret", |value| kind == EventKind::Secret && actor(value))
        && ["image", "label", "plugin", "volume"]
            .iter()
            .all(|key| filters.pass(key, |_| false))
}

/// `EventMessage` of the Engine API.
fn show(happened: &Happened) -> Value {
    let Happened { at, event } = happened;
    json!({
        "Type": event.kind.as_str(),
        "Action": event.action,
        "Actor": {"ID": event.actor, "Attributes": event.attributes},
        "scope": event.kind.scope(),
        "time": at.as_second(),
        "timeNano": i64::try_from(at.as_nanosecond()).unwrap_or(i64::MAX),
    })
}

fn line(happened: &Happened) -> Bytes {
    format!("{}\n", show(happened)).into()
}

/// Those that are wanted: of the past only where a time was given, and those that come
/// until the one that was given is there; the engine's (`theirs`, a JSON object a line)
/// among ours.
pub(crate) async fn stream(
    events: Events,
    wanted: Wanted,
    theirs: impl Stream<Item = Bytes> + Send + 'static,
) -> Response {
    let Events { past, coming } = events;
    let mut theirs = theirs.fuse().boxed();
    let mut before = Vec::new();
    if wanted.since.is_some() || wanted.until.is_some() {
        let fitting = past.iter().filter(|happened| wanted.fits(happened));
        before.extend(fitting.map(|happened| (happened.at.as_nanosecond(), line(happened))));
        while let Ok(Some(line)) = tokio::time::timeout(PAUSE, theirs.next()).await {
            before.push((time_of(&line), line));
        }
        before.sort_by_key(|(at, _)| *at);
    }
    let left = wanted.until.map(|until| {
        let left = until.duration_since(Timestamp::now());
        Duration::try_from(left).unwrap_or_default()
    });
    let end = async move {
        match left {
            Some(left) => tokio::time::sleep(left).await,
            None => std::future::pending().await,
        }
    };
    let fits = move |happened: &Arc<Happened>| ready(wanted.fits(happened));
    let coming = coming.filter(fits).map(|happened| line(&happened));
    let coming = select(coming, theirs).take_until(end.boxed());
    let lines = iter(before.into_iter().map(|(_, line)| line)).chain(coming);
    let body = Body::from_stream(lines.map(Ok::<_, Infallible>));
    ([(header::CONTENT_TYPE, "application/json")], body).into_response()
}

/// When an event of the engine happened, nanoseconds since 1970.
fn time_of(line: &[u8]) -> i128 {
    let read: Option<Value> = serde_json::from_slice(line).ok();
    read.and_then(|event| event["timeNano"].as_i64())
        .map_or(i128::MAX, i128::from)
}

#[cfg(test)]
mod tests {
    use model::{NodeId, ServiceId, TaskId};

    use super::*;

    fn query(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        let pairs = pairs.iter();
        pairs
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect()
    }

    fn a_task() -> Happened {
        let mut event = Event::new(EventKind::Task, "failed", TaskId::from_random([1; 16]))
            .with("name", "vote.1")
            .with("service", "vote")
            .with("node", "one")
            .with("exitCode", 7);
        event.service = Some(ServiceId::from_random([2; 16]));
        event.node = Some(NodeId::from_random([3; 16]));
        Happened {
            at: "2026-01-01T00:00:00.5Z".parse().unwrap(),
            event,
        }
    }

    #[test]
    fn events_have_dockers_form() {
        let mut shown = show(&a_task());
        assert_eq!(shown["Type"], "task");
        // the model has only Docker's own types, where its command prints any
        shown["Type"] = json!("container");
        let read: bollard::models::EventMessage = serde_json::from_value(shown.clone()).unwrap();
        assert_eq!(read.action.as_deref(), Some("failed"));
        assert_eq!(read.time_nano, Some(1_767_225_600_500_000_000));
        assert_eq!(read.time, Some(1_767_225_600));
        let actor = read.actor.unwrap();
        assert_eq!(actor.attributes.unwrap()["exitCode"], "7");
        assert_eq!(shown["scope"], "swarm");
    }

    #[test]
    fn filters_choose() {
        let fits = |filters: &str| {
            let wanted = Wanted::of(&query(&[("filters", filters)])).unwrap();
            wanted.fits(&a_task())
        };
        let (task, service) = (
            TaskId::from_random([1; 16]),
            ServiceId::from_random([2; 16]),
        );
        for yes in [
            r#"{"type":["task"],"event":["failed","running"]}"#,
            r#"{"service":["vote"]}"#,
            r#"{"node":["one"]}"#,
            r#"{"task":["vote.1"]}"#,
            r#"{"scope":["swarm"]}"#,
            &format!(
                r#"{{"task":["{}"],"service":["{}"]}}"#,
                task.short(),
                service
            ),
        ] {
            assert!(fits(yes), "{yes}");
        }
        for no in [
            r#"{"type":["service"]}"#,
            r#"{"event":["fail"]}"#,
            r#"{"service":["vot"]}"#,
            r#"{"task":["vote.1"],"event":["running"]}"#,
            r#"{"network":["vote.1"]}"#,
            r#"{"container":["vote.1"]}"#,
        ] {
            assert!(!fits(no), "{no}");
        }
        let refused = Wanted::of(&query(&[("filters", r#"{"color":["red"]}"#)]));
        assert!(refused.unwrap_err().message.contains("service, task"));
    }

    #[test]
    fn times_are_dockers() {
        let fits = |pairs: &[(&str, &str)]| Wanted::of(&query(pairs)).unwrap().fits(&a_task());
        assert!(fits(&[("since", "1767225600.5"), ("until", "1767225601")]));
        assert!(fits(&[("since", "0"), ("until", "")]));
        assert!(!fits(&[("since", "1767225600.500000001")]));
        assert!(!fits(&[("until", "1767225600")]));
        let wrong = |pairs: &[(&str, &str)]| Wanted::of(&query(pairs)).unwrap_err().message;
        assert!(wrong(&[("since", "2"), ("until", "1")]).contains("before"));
        assert!(wrong(&[("until", "tomorrow")]).contains("until"));
    }
}
