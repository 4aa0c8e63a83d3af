//! The last events, for whoever asks what happened, and the next ones, for whoever waits.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use futures::{StreamExt as _, stream};
use jiff::Timestamp;
use model::{Event, EventKind, Happened, NodeId};
use tokio::sync::watch;

/// How many are remembered, in some 2 MB. Docker has 256.
const REMEMBERED: usize = 2048;

/// What happened since the daemon began, the last of it.
#[derive(Debug)]
pub(crate) struct Events {
    node: NodeId,
    last: Mutex<Last>,
    /// The number of the next one; told after it is there.
    next: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Last {
    /// The number of the next one.
    next: u64,
    events: VecDeque<Arc<Happened>>,
}

impl Last {
    /// Those from this number on, and how many of them are forgotten already.
    fn from(&self, first: u64) -> (Vec<Arc<Happened>>, u64) {
        let oldest = self.next - self.events.len() as u64;
        let skip = first.saturating_sub(oldest);
        let events = self.events.iter().skip(skip as usize).cloned();
        (events.collect(), oldest.saturating_sub(first))
    }
}

impl Events {
    /// Of this node, which nothing happened on yet.
    pub(crate) fn new(node: NodeId) -> Self {
        Self {
            node,
            last: Mutex::default(),
            next: watch::Sender::new(0),
        }
    }

    fn last(&self) -> MutexGuard<'_, Last> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An event on this node.
    pub(crate) fn here(&self, kind: EventKind, action: &'static str) -> Event {
        let mut event = Event::new(kind, action, &self.node);
        event.node = Some(self.node.clone());
        event
    }

    /// These have happened now.
    pub(crate) fn tell(&self, events: impl IntoIterator<Item = Event>) {
        let mut events = events.into_iter().peekable();
        if events.peek().is_none() {
            return;
        }
        let mut last = self.last();
        // none seems to be from before another one, though the clock be set back
        let before = last.events.back().map(|happened| happened.at);
        let at = before.map_or_else(Timestamp::now, |before| before.max(Timestamp::now()));
        for event in events {
            if last.events.len() == REMEMBERED {
                last.events.pop_front();
            }
            last.events.push_back(Arc::new(Happened { at, event }));
            last.next += 1;
        }
        self.next.send_replace(last.next);
    }

    /// Those that are remembered, and all that come.
    pub(crate) fn all(self: &Arc<Self>) -> api::Events {
        let last = self.last();
        let begin = (self.clone(), self.next.subscribe(), last.next);
        let coming = stream::unfold(begin, |(events, mut told, first)| async move {
            // the sender is in `events`
            let next = *told.wait_for(|next| *next > first).await.ok()?;
            let (mut new, lost) = events.last().from(first);
            if lost > 0 {
                let event = events.here(EventKind::Daemon, "lost").with("count", lost);
                let at = new.first().map_or_else(Timestamp::now, |event| event.at);
                new.insert(0, Arc::new(Happened { at, event }));
            }
            // what came in between is told once
            let next = next.max(first + lost + new.len() as u64 - u64::from(lost > 0));
            Some((stream::iter(new), (events, told, next)))
        });
        api::Events {
            past: last.from(0).0,
            coming: coming.flatten().boxed(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn events() -> Arc<Events> {
        Arc::new(Events::new(NodeId::from_random([1; 16])))
    }

    fn tell(events: &Events, count: u64) {
        let event = |number: u64| Event::new(EventKind::Task, "running", number);
        events.tell((0..count).map(event));
    }

    fn actors(events: &[Arc<Happened>]) -> Vec<&str> {
        events.iter().map(|one| one.event.actor.as_str()).collect()
    }

    #[tokio::test]
    async fn nothing_is_lost_or_told_twice_between_past_and_future() {
        let events = events();
        tell(&events, 2);
        let api::Events { past, mut coming } = events.all();
        assert_eq!(actors(&past), ["0", "1"]);
        tell(&events, 1);
        tell(&events, 3);
        let mut seen = Vec::new();
        for _ in 0..4 {
            seen.push(coming.next().await.unwrap());
        }
        assert_eq!(actors(&seen), ["0", "0", "1", "2"]);
        let later = tokio::spawn(async move { coming.next().await.unwrap() });
        tokio::task::yield_now().await;
        tell(&events, 1);
        assert_eq!(later.await.unwrap().event.actor, "0");
        assert!(past.windows(2).all(|two| two[0].at <= two[1].at));
    }

    #[tokio::test]
    async fn only_so_many_are_remembered_and_who_is_late_is_told_so() {
        let events = events();
        let mut coming = events.all().coming;
        tell(&events, REMEMBERED as u64 + 5);
        assert_eq!(events.all().past.len(), REMEMBERED);
        let first = coming.next().await.unwrap();
        assert_eq!(first.event.action, "lost");
        assert_eq!(first.event.attributes["count"], "5");
        assert_eq!(coming.next().await.unwrap().event.actor, "5");
        for _ in 1..REMEMBERED {
            coming.next().await.unwrap();
        }
        tell(&events, 1);
        assert_eq!(coming.next().await.unwrap().event.actor, "0");
    }
}
