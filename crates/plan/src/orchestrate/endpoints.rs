//! Tasks of static services: one for each server.

use std::{collections::BTreeSet, net::IpAddr};

use model::{
    Attachment, DesiredState, Elsewhere, Expect, Key, Object, Server, Service, Task, TaskId,
    Versioned,
};

use super::Planner;

/// The server that a task stands for.
fn server(task: &Task) -> Option<Server> {
    let elsewhere = task.elsewhere.as_ref()?;
    let ip = task.addresses().next()?;
    Some(Server {
        ip,
        port: elsewhere.port,
    })
}

/// A server's places on a service's networks: the same address on each.
pub(crate) fn attachments(service: &Service, addresses: &[IpAddr]) -> Vec<Attachment> {
    let networks = service.spec.task.networks.iter();
    let attach = |network: &model::NetworkAttachment| Attachment {
        network: network.network.clone(),
        addresses: addresses.to_vec(),
    };
    networks.map(attach).collect()
}

impl<'a> Planner<'a> {
    /// Makes those that are missing, and lets those go that are not wanted any more.
    pub(super) fn endpoints(
        &mut self,
        service: &'a Versioned<Service>,
        tasks: &[&'a Versioned<Task>],
    ) {
        // admitted ones can be read
        let wanted = Server::of_labels(&service.spec.labels).unwrap_or_default();
        let before = self.plan.tx.changes.len();
        let mut there = BTreeSet::new();
        let mut slots: BTreeSet<u32> = tasks.iter().map(|task| task.slot).collect();
        for task in tasks {
            let stays = task.desired == DesiredState::Running
                && task.spec == service.spec.task
                && server(task).is_some_and(|server| wanted.contains(&server));
            // one that is there twice is one too many
            if !stays || !server(task).is_some_and(|server| there.insert(server)) {
                self.retire(task, DesiredState::Remove);
            }
        }
        for server in wanted {
            if there.contains(&server) {
                continue;
            }
            let slot = (1..).find(|slot| slots.insert(*slot)).unwrap_or(u32::MAX);
            self.endpoint(service, server, slot);
        }
        if self.plan.tx.changes.len() > before {
            self.plan.tx.expect.push(Expect {
                key: Key::Service(service.id.clone()),
                version: Some(service.version),
            });
        }
    }

    fn endpoint(&mut self, service: &Service, server: Server, slot: u32) {
        let Some(node) = self.choose_node(service, slot) else {
            self.short = true;
            return;
        };
        let task = Task {
            id: TaskId::from_random((self.random)()),
            service: service.id.clone(),
            service_name: service.spec.name.clone(),
            slot,
            node,
            spec: service.spec.task.clone(),
            attachments: attachments(service, &[server.ip]),
            desired: DesiredState::Running,
            created: self.now,
            not_before: None,
            elsewhere: Some(Elsewhere {
                port: server.port,
                container: None,
            }),
        };
        self.plan.tx.create(Object::Task(Box::new(task)));
    }
}

#[cfg(test)]
mod tests;
