//! The daemon's figures for Prometheus. What is costly is read when somebody asks: the
//! kernel is asked for IPVS's counters, and the responder for its own.

mod balanced;
mod families;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use api::ApiError;
use kernel::{Kernel, LiveServices};
use model::{DesiredState, Instance, State, TaskStatus};
use plan::netns::Place;
use prometheus::{HistogramOpts, HistogramVec, IntCounter};
use store::Store;
use tokio::sync::watch;

use crate::{datapath::Counters, mesh::Mesh, responder};
pub(crate) use balanced::fronts;
use balanced::{Balanced, Fronts};
use families::Family;

/// IPVS services that are read in one go: in between, the data plane may do its work.
const AT_ONCE: usize = 256;
/// How long the responder may take to say what it has counted.
const PATIENCE: Duration = Duration::from_secs(1);
/// Of passes, in seconds: 1 ms to half a minute.
const BUCKETS: [f64; 10] = [0.001, 0.0025, 0.01, 0.025, 0.1, 0.25, 1.0, 2.5, 10.0, 25.0];

/// What is counted as it happens.
#[derive(Clone, Debug)]
pub(crate) struct Timings {
    passes: HistogramVec,
    failures: IntCounter,
}

impl Timings {
    /// Of nothing yet.
    pub(crate) fn new() -> Result<Self, prometheus::Error> {
        let passes = HistogramOpts::new(
            "ipvsmesh_reconcile_duration_seconds",
            "How long it takes to make the kernel as it is wanted, by whether all of it was read.",
        );
        Ok(Self {
            passes: HistogramVec::new(passes.buckets(BUCKETS.to_vec()), &["kind"])?,
            failures: IntCounter::new(
                "ipvsmesh_reconcile_failures_total",
                "Passes that could not make the kernel as it is wanted.",
            )?,
        })
    }

    /// A pass took this long.
    pub(crate) fn pass(&self, full: bool, took: Duration, failed: bool) {
        let kind = if full { "full" } else { "changes" };
        self.passes
            .with_label_values(&[kind])
            .observe(took.as_secs_f64());
        self.failures.inc_by(failed.into());
    }
}

/// All figures of one daemon.
pub(crate) struct Metrics<S> {
    pub(crate) mesh: Arc<Mesh<S>>,
    pub(crate) kernel: Arc<Kernel>,
    pub(crate) instance: Instance,
    pub(crate) counters: watch::Receiver<Counters>,
    pub(crate) timings: Timings,
}

/// What the kernel counts of these, some at a time.
pub(crate) async fn live(
    kernel: &Kernel,
    fronts: &Fronts,
) -> Result<Vec<(Place, LiveServices)>, kernel::Error> {
    let mut all = Vec::new();
    for place in [Place::Router, Place::Ingress] {
        let keys = fronts.keys().filter(|(at, ..)| *at == place);
        let keys: Vec<_> = keys.map(|(_, family, mark)| (*family, *mark)).collect();
        for some in keys.chunks(AT_ONCE) {
            all.push((place.clone(), kernel.live(&place, some.to_vec()).await?));
        }
    }
    Ok(all)
}

impl<S: Store> api::Figures for Metrics<S> {
    async fn text(&self) -> Result<String, ApiError> {
        let state = self.mesh.state();
        let fronts = fronts(&state, &self.mesh.node, &self.instance);
        let mut balanced = Balanced::new(&state);
        let live = live(&self.kernel, &fronts).await;
        for (place, live) in live.map_err(|error| ApiError::internal(crate::chain(&error)))? {
            balanced.add(&place, &fronts, &live);
        }
        let mut all: Vec<Family> = balanced.families().collect();
        all.extend(tasks(&state));
        all.extend(self.own(&state));
        let status = dns::request(&responder::control(&self.instance), "status", PATIENCE).await;
        let status = status
            .ok()
            .and_then(|text| serde_json::from_str(&text).ok());
        all.extend(names(status));
        let text = families::text(all, &[&self.timings.passes, &self.timings.failures]);
        text.map_err(|error| ApiError::internal(error.to_string()))
    }
}

impl<S: Store> Metrics<S> {
    /// The daemon's own.
    fn own(&self, state: &State) -> Vec<Family> {
        let counters = *self.counters.borrow();
        let kernel = self.kernel.counters();
        let mut version = Family::gauge("build_info", "Which version this is; always 1.");
        version.add(&[("version", env!("CARGO_PKG_VERSION"))], 1);
        let mut writes = Family::counter(
            "kernel_writes_total",
            "Writes to the kernel that it took, by what was written.",
        );
        for (kind, value) in [
            ("links", kernel.links),
            ("routes", kernel.routes),
            ("sysctls", kernel.sysctls),
            ("sets", kernel.sets),
            ("rules", kernel.rules),
            ("ipvs", kernel.ipvs),
        ] {
            writes.add(&[("kind", kind)], value);
        }
        let mut passes = Family::counter(
            "reconcile_passes_total",
            "Passes that compared what is wanted with the kernel, by whether all of it was read.",
        );
        passes.add(&[("kind", "full")], counters.full_passes);
        passes.add(
            &[("kind", "changes")],
            counters.passes - counters.full_passes,
        );
        vec![
            version,
            Family::gauge("store_revision", "Revision of the state.").of(state.revision.0),
            passes,
            Family::counter(
                "drift_repairs_total",
                "Writes that repaired what others had changed in the kernel.",
            )
            .of(counters.repairs),
            writes,
            Family::counter(
                "processes_started_total",
                "Processes that were started to read and write rules.",
            )
            .of(kernel.processes),
        ]
    }
}

/// What services have of tasks, and which of these serve.
fn tasks(state: &State) -> [Family; 3] {
    let mut desired = Family::gauge("service_desired_tasks", "Tasks that are wanted.");
    let mut by_state = Family::gauge(
        "service_tasks",
        "Tasks by how far they are; those that ended and are not wanted are left out.",
    );
    let mut up = Family::gauge(
        "task_up",
        "Whether a task that is wanted takes connections: it runs, is healthy and not leaving.",
    );
    let nodes = u32::try_from(state.nodes.len()).unwrap_or(u32::MAX);
    for service in state.services.values() {
        let name = [("service", service.spec.name.as_str())];
        desired.add(&name, service.wanted_tasks(nodes).into());
    }
    let mut counts: BTreeMap<(&str, &str), u64> = BTreeMap::new();
    for task in state.tasks.values() {
        let status = state.status(&task.id);
        let wanted = task.desired == DesiredState::Running;
        if !wanted && status.is_some_and(|status| status.state.is_final()) {
            continue;
        }
        let word = state.word(task);
        let service = task.service_name.as_str();
        *counts.entry((service, word)).or_default() += 1;
        if wanted && status.is_none_or(|status| !status.state.is_final()) {
            let node = state.nodes.get(&task.node);
            let node = node.map_or("", |node| node.hostname.as_str());
            let labels = [
                ("service", service),
                ("task", &*task.name()),
                ("node", node),
            ];
            up.add(&labels, status.is_some_and(TaskStatus::serves).into());
        }
    }
    for ((service, word), count) in counts {
        by_state.add(&[("service", service), ("state", word)], count);
    }
    [desired, by_state, up]
}

/// What the responder has counted; that it did not answer, where it did not.
fn names(status: Option<dns::Status>) -> Vec<Family> {
    let up = Family::gauge("dns_up", "Whether the DNS responder answers.");
    let Some(status) = status else {
        return vec![up.of(0)];
    };
    let mut answers = Family::counter(
        "dns_answers_total",
        "Questions by what became of them: answered and denied by the mesh itself, refused, \
         forwarded to other servers, cached answers of theirs, and failed.",
    );
    for (kind, value) in [
        ("answered", status.answered),
        ("denied", status.denied),
        ("refused", status.refused),
        ("forwarded", status.forwarded),
        ("cached", status.cached),
        ("failed", status.failed),
    ] {
        answers.add(&[("kind", kind)], value);
    }
    let mut queries = Family::counter("dns_queries_total", "Packets that the responder got.");
    queries.add(&[("protocol", "tcp")], status.tcp);
    queries.add(
        &[("protocol", "udp")],
        status.queries.saturating_sub(status.tcp),
    );
    vec![
        up.of(1),
        answers,
        queries,
        Family::gauge("dns_revision", "Revision of the names that are answered.")
            .of(status.revision),
        Family::gauge("dns_uptime_seconds", "Since the responder started.").of(status.uptime),
    ]
}
