//! What Docker tells of our containers, for as long as there is a daemon; through
//! restarts of Docker.

use std::{sync::Arc, time::Duration};

use bollard::{models::EventMessage, query_parameters::EventsOptionsBuilder};
use futures::StreamExt as _;
use jiff::Timestamp;
use model::TaskId;
use tokio::time::sleep;

use super::{Inner, container::label};
use crate::RuntimeError;

/// How soon Docker is asked again after it went away.
const RETRY: Duration = Duration::from_secs(1);

/// The task that an event is about, if it can mean a change of it.
fn concerns(event: &EventMessage) -> Option<TaskId> {
    let action = event.action.as_deref()?;
    // "health_status: healthy"
    let action = action.split(':').next().unwrap_or(action);
    let matters = ["start", "die", "destroy", "health_status"].contains(&action);
    let attributes = event.actor.as_ref()?.attributes.as_ref()?;
    matters.then(|| attributes.get(label::TASK)?.parse().ok())?
}

/// Looks at each task that Docker says something of, and at all of them whenever
/// Docker was away.
pub(crate) async fn follow(inner: Arc<Inner>) {
    let mut away = false;
    loop {
        if let Err(error) = follow_once(&inner, &mut away).await
            && !away
        {
            tracing::warn!(
                %error,
                "tasks in containers are watched by their processes until Docker answers"
            );
            away = true;
        }
        // what ended meanwhile is told from its processes
        inner.tell_all().await;
        sleep(RETRY).await;
    }
}

async fn follow_once(inner: &Arc<Inner>, away: &mut bool) -> Result<(), RuntimeError> {
    let client = inner.engine.client().await?;
    // what happens from here on is told even if it happens before the stream begins
    let begin = Timestamp::now();
    client
        .ping()
        .await
        .map_err(|error| inner.engine.failed("be asked", "whether it lives", &error))?;
    if *away {
        tracing::info!("Docker answers again");
        *away = false;
    }
    inner.tell_all().await;
    let filters = [
        ("type", vec!["container".to_owned()]),
        (
            "label",
            vec![format!("{}={}", label::INSTANCE, inner.prefix)],
        ),
    ];
    let options = EventsOptionsBuilder::default()
        .since(&format!(
            "{}.{:09}",
            begin.as_second(),
            begin.subsec_nanosecond()
        ))
        .filters(&filters.into())
        .build();
    let mut events = client.events(Some(options)).boxed();
    while let Some(event) = events.next().await {
        let event = event.map_err(|error| inner.engine.failed("tell", "of events", &error))?;
        if let Some(task) = concerns(&event) {
            inner.tell(&task).await;
        }
    }
    Err(inner.engine.ended())
}

#[cfg(test)]
mod tests {
    use bollard::models::EventActor;

    use super::*;

    #[test]
    fn events_of_tasks_are_known() {
        let task = TaskId::from_random([9; 16]);
        let event = |action: &str, key: &str| EventMessage {
            action: Some(action.to_owned()),
            actor: Some(EventActor {
                attributes: Some([(key.to_owned(), task.to_string())].into()),
                ..EventActor::default()
            }),
            ..EventMessage::default()
        };
        for action in ["die", "start", "destroy", "health_status: healthy"] {
            assert_eq!(concerns(&event(action, label::TASK)), Some(task.clone()));
        }
        assert_eq!(concerns(&event("exec_create: sh", label::TASK)), None);
        assert_eq!(concerns(&event("die", "other")), None);
        assert_eq!(concerns(&EventMessage::default()), None);
    }
}
