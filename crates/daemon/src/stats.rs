//! What passes through services now, by task: the kernel's counters beside the state.

use std::{collections::HashMap, net::IpAddr};

use api::stats::{ServiceStats, Stats, TaskStats, Traffic};
use kernel::LiveDestination;
use model::{ServiceId, State};

/// The traffic of these destinations, by service and task. What goes to addresses that
/// are no task's is left out, and so are tasks that have ended.
pub(crate) fn stats<'a>(state: &State, live: impl Iterator<Item = &'a LiveDestination>) -> Stats {
    let mut traffic: HashMap<IpAddr, Traffic> = HashMap::new();
    for one in live {
        *traffic.entry(one.at.0).or_default() += Traffic {
            active: one.active.into(),
            inactive: one.inactive.into(),
            connections: one.traffic.connections,
            packets_in: one.traffic.packets_in,
            packets_out: one.traffic.packets_out,
            bytes_in: one.traffic.bytes_in,
            bytes_out: one.traffic.bytes_out,
        };
    }
    let mut tasks: HashMap<&ServiceId, Vec<TaskStats>> = HashMap::new();
    for task in state.tasks.values() {
        let status = state.status(&task.id);
        if status.is_some_and(|status| status.state.is_final()) {
            continue;
        }
        let mut sum = Traffic::default();
        for address in task.addresses() {
            sum += traffic.get(&address).copied().unwrap_or_default();
        }
        tasks.entry(&task.service).or_default().push(TaskStats {
            id: task.id.to_string(),
            name: task.name(),
            state: state.word(task).to_owned(),
            traffic: sum,
        });
    }
    let nodes = u32::try_from(state.nodes.len()).unwrap_or(u32::MAX);
    let services = state.services.values().map(|service| {
        let mut tasks = tasks.remove(&service.id).unwrap_or_default();
        tasks.sort_by(|a, b| a.name.cmp(&b.name));
        let running = tasks.iter().filter(|task| task.state == "running").count();
        ServiceStats {
            id: service.id.to_string(),
            name: service.spec.name.to_string(),
            running: u32::try_from(running).unwrap_or(u32::MAX),
            replicas: service.wanted_tasks(nodes),
            tasks,
        }
    });
    let mut services: Vec<_> = services.collect();
    services.sort_by(|a, b| a.name.cmp(&b.name));
    Stats { services }
}
