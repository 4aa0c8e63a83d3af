//! Tasks that leave, and what is left of them.

use model::{DesiredState, Key, Object, Resource, Service, Task, Versioned};

use super::Planner;
use crate::{
    admit::ways_in,
    allocate::{give_back, release},
};

impl Planner<'_> {
    /// Wants less of a task than before.
    pub(super) fn retire(&mut self, task: &Versioned<Task>, desired: DesiredState) {
        if task.desired >= desired {
            return;
        }
        let mut value = Task::clone(task);
        value.desired = desired;
        let object = Object::Task(Box::new(value));
        self.plan.tx.replace(task.version, object);
    }

    /// Gives back what a removed service had kept for its last tasks.
    pub(super) fn forget(&mut self, service: &Versioned<Service>) {
        let tx = &mut self.plan.tx;
        tx.delete(service.version, Key::Leaving(service.id.clone()));
        let kept = ways_in(&service.endpoint);
        release(self.state, tx, service.id.as_str(), self.now, kept);
    }

    /// Of a task of which nothing is left on its node, gives back the addresses,
    /// and deletes it if it is not to be remembered.
    pub(super) fn clear(&mut self, task: &Versioned<Task>) {
        let Some(status) = self.state.statuses.get(&task.id) else {
            return;
        };
        if !status.state.is_final() || status.attached {
            return;
        }
        let tx = &mut self.plan.tx;
        if task.desired == DesiredState::Remove {
            tx.delete(task.version, Key::Task(task.id.clone()));
            tx.delete(status.version, Key::Status(task.id.clone()));
        }
        for address in task.attachments.iter().flat_map(|a| &a.addresses) {
            give_back(
                self.state,
                tx,
                &Resource::Address(*address),
                task.id.as_str(),
                self.now,
            );
        }
    }
}
