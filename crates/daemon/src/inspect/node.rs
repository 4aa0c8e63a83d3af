//! A node: its namespaces, processes and counters, and what all services share.

use std::collections::{BTreeMap, BTreeSet};

use api::inspect::{Compared, NamespaceEntry, NodeInspection, ProcessEntry};
use model::{Node, Pools};
use plan::{
    datapath::NodeAddresses,
    netns::{Netns, Place},
};

use api::ApiError;

use super::{Inspector, common, problems, tasks};

impl Inspector<'_> {
    /// Of another node only what is stored is known.
    pub(super) async fn node(&self, node: &Node) -> Result<NodeInspection, ApiError> {
        let mut shown = NodeInspection {
            id: node.id.to_string(),
            name: node.hostname.clone(),
            number: node.number,
            addresses: addresses(self.state.pools.as_deref(), node.number),
            ..NodeInspection::default()
        };
        if node.id != *self.node {
            let why = format!(
                "{} is another node: ask its own daemon for more",
                node.hostname
            );
            shown.problems.push(why);
            return Ok(shown);
        }
        shown.instance = self.instance.to_string();
        shown.version = env!("CARGO_PKG_VERSION").to_owned();
        shown.counters = self.counted();
        shown.namespaces = self.namespaces();
        shown.processes = self.processes();
        let places = [Place::Host, Place::Ingress, Place::Router];
        let (wanted, seen) = self.look(places.clone()).await?;
        let others = tasks::links(self.state);
        for place in places {
            let nothing = Netns::default();
            let (wanted, seen) = (
                wanted.get(&place).unwrap_or(&nothing),
                seen.places.get(&place).unwrap_or(&nothing),
            );
            let parts = common::Parts::of(wanted, seen, &others);
            shown.parts.extend(parts.shown(common::named(&place)));
        }
        let missing = shown.namespaces.iter().filter(|one| !one.present.agrees());
        let missing = missing.map(|one| {
            (
                format!("{}: namespace {}", one.place, one.name),
                &one.present,
            )
        });
        let drifted = shown.parts.iter().filter(|part| !part.compared.agrees());
        let drifted =
            drifted.map(|part| (format!("{}: {}", part.place, part.what), &part.compared));
        let all = missing
            .chain(drifted)
            .map(|(what, compared)| problems::drifted(&what, compared));
        shown.problems = all.collect();
        if self.responder.pid == 0 || kernel::host::process(self.responder.pid).is_none() {
            shown.problems.push("the DNS responder does not run: ipvsmeshd starts another one within seconds; see its log (journalctl -u ipvsmeshd)".to_owned());
        }
        Ok(shown)
    }

    fn namespaces(&self) -> Vec<NamespaceEntry> {
        let instance = self.instance;
        let entry = |place: String, name: String| {
            let inode = kernel::netns::inode(&name).unwrap_or_default();
            let present = (inode > 0).then(|| "present".to_owned());
            NamespaceEntry {
                place,
                name,
                inode,
                present: Compared::new(Some("present".to_owned()), present),
            }
        };
        let mut all = vec![
            entry("ingress".to_owned(), instance.ingress_netns()),
            entry("router".to_owned(), instance.router_netns()),
        ];
        let tasks = self.sandboxes.iter();
        let tasks = tasks.filter_map(|id| self.state.tasks.get(id));
        let tasks = tasks.map(|task| entry(task.name(), instance.task_netns(&task.id)));
        let mut tasks: Vec<_> = tasks.collect();
        tasks.sort_by(|one, other| (&one.place, &one.name).cmp(&(&other.place, &other.name)));
        all.append(&mut tasks);
        all
    }

    fn processes(&self) -> Vec<ProcessEntry> {
        let mut all = vec![("daemon".to_owned(), std::process::id())];
        if self.responder.pid > 0 {
            all.push(("responder".to_owned(), self.responder.pid));
        }
        let tasks = self.state.tasks.values();
        let tasks = tasks.filter(|task| task.node == *self.node);
        let tasks = tasks.filter_map(|task| {
            let process = self.state.status(&task.id)?.process.as_ref()?;
            Some((format!("task {}", task.name()), process.pid))
        });
        let mut tasks: Vec<_> = tasks.collect();
        tasks.sort();
        all.append(&mut tasks);
        let entry = |(what, pid)| {
            let facts = kernel::host::process(pid)?;
            Some(ProcessEntry {
                what,
                pid,
                memory: facts.memory,
                uptime: facts.uptime,
            })
        };
        all.into_iter().filter_map(entry).collect()
    }

    fn counted(&self) -> BTreeMap<String, u64> {
        let (passes, kernel, names) = (self.counters, self.kernel.counters(), self.responder);
        let all = [
            ("passes", passes.passes),
            ("full passes", passes.full_passes),
            ("writes", passes.writes),
            ("drift repairs", passes.repairs),
            ("writes of links", kernel.links),
            ("writes of addresses and routes", kernel.routes),
            ("writes of sysctls", kernel.sysctls),
            ("writes of sets", kernel.sets),
            ("writes of rules", kernel.rules),
            ("writes of IPVS", kernel.ipvs),
            ("processes started", kernel.processes),
            ("DNS questions", names.queries),
            ("DNS answers of the mesh", names.answered),
            ("DNS questions forwarded", names.forwarded),
            ("DNS questions refused", names.refused),
            ("DNS questions failed", names.failed),
        ];
        all.into_iter()
            .map(|(what, count)| (what.to_owned(), count))
            .collect()
    }
}

/// What the node has for itself, of each family.
fn addresses(pools: Option<&Pools>, number: u8) -> BTreeMap<String, String> {
    let mut by_use: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for ranges in pools.into_iter().flat_map(Pools::ranges) {
        let own = NodeAddresses::new(&ranges, number);
        for (what, address) in [
            ("host, towards the mesh", own.host()),
            ("ingress", own.ingress(model::ANY_INGRESS)),
            (
                "hairpin: seen by a task that is balanced to itself",
                own.hairpin(),
            ),
            ("DNS for the host", ranges.stub()),
        ] {
            by_use.entry(what).or_default().insert(address.to_string());
        }
    }
    let words = by_use.into_iter().map(|(what, all)| {
        let all: Vec<_> = all.into_iter().collect();
        (what.to_owned(), all.join(", "))
    });
    words.collect()
}
