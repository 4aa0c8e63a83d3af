//! Which tasks there may be something to do about: those of which something changed, and
//! those whose time has come. The others are not looked at, however many there are.

use std::collections::{BTreeMap, BTreeSet};

use model::TaskId;
use tokio::time::Instant;

/// The tasks to look at.
#[derive(Debug, Default)]
pub(super) struct Due {
    now: BTreeSet<TaskId>,
    later: BTreeMap<TaskId, Instant>,
}

impl Due {
    /// They are looked at next.
    pub(super) fn now(&mut self, tasks: impl IntoIterator<Item = TaskId>) {
        self.now.extend(tasks);
    }

    /// It is looked at then, though nothing changes; the first such moment counts.
    pub(super) fn later(&mut self, task: &TaskId, at: Instant) {
        let earliest = self.later.entry(task.clone()).or_insert(at);
        *earliest = at.min(*earliest);
    }

    /// Those to look at at this moment; until something changes or the moments that are
    /// given for them again, they are not looked at any more.
    pub(super) fn take(&mut self, now: Instant) -> BTreeSet<TaskId> {
        let mut tasks = std::mem::take(&mut self.now);
        let due = self.later.iter().filter(|(_, at)| **at <= now);
        tasks.extend(due.map(|(task, _)| task.clone()));
        for task in &tasks {
            self.later.remove(task);
        }
        tasks
    }

    /// When the next one is due though nothing changes.
    pub(super) fn next(&self) -> Option<Instant> {
        self.later.values().min().copied()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn id(n: u8) -> TaskId {
        TaskId::from_random([n; 16])
    }

    #[test]
    fn a_task_is_due_once_for_each_change_and_at_its_time() {
        let begin = Instant::now();
        let at = |seconds| begin + Duration::from_secs(seconds);
        let mut due = Due::default();
        assert_eq!((due.take(at(0)), due.next()), (BTreeSet::new(), None));
        due.now([id(1), id(2)]);
        due.later(&id(2), at(5));
        due.later(&id(3), at(4));
        due.later(&id(3), at(9));
        assert_eq!(due.next(), Some(at(4)), "the earliest");
        // who is looked at says anew when again
        assert_eq!(due.take(at(1)), BTreeSet::from([id(1), id(2)]));
        assert_eq!(due.take(at(3)), BTreeSet::new());
        assert_eq!(due.take(at(4)), BTreeSet::from([id(3)]));
        assert_eq!((due.take(at(99)), due.next()), (BTreeSet::new(), None));
    }
}
