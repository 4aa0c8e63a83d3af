//! A mesh in memory for the tests: a store's rules without a store.

use std::sync::Arc;

use ipnet::IpNet;
use jiff::{SignedDuration, Timestamp};
use model::{
    Change, EndpointMode, EndpointSpec, Mode, Name, NetworkAttachment, NetworkId, NetworkSpec,
    NodeId, Object, Pools, ProcessSpec, PublishedPort, Resource, RestartPolicy, Revision,
    RuntimeSpec, Service, ServiceId, ServiceSpec, State, Task, TaskId, TaskSpec, TaskState,
    TaskStatus, Transaction, Versioned,
};
use serde_json::Value;

use crate::{
    admit::{self, Context, HeldPort, Refusal},
    orchestrate::{Orchestrator, Plan},
    tombstones,
};

/// State, time and everything else that a decision is made from.
#[derive(Debug)]
pub(crate) struct Mesh {
    pub(crate) state: State,
    pub(crate) now: Timestamp,
    pub(crate) held: Vec<HeldPort>,
    pub(crate) routes: Vec<(IpNet, String)>,
    made: u64,
    orchestrator: Orchestrator,
}

pub(crate) fn name(text: &str) -> Name {
    text.parse().unwrap()
}

pub(crate) fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

pub(crate) fn node_id(n: u8) -> NodeId {
    NodeId::from_random([n; 16])
}

/// A service `vip` with so many replicas, on no network yet.
pub(crate) fn service(text: &str, replicas: u32) -> ServiceSpec {
    ServiceSpec {
        name: name(text),
        labels: Default::default(),
        mode: Mode::Replicated { replicas },
        task: TaskSpec {
            runtime: RuntimeSpec::Process(ProcessSpec {
                command: vec!["whoami".to_owned()],
                ..ProcessSpec::default()
            }),
            networks: Vec::new(),
            restart: RestartPolicy::default(),
            force_update: 0,
        },
        placement: Default::default(),
        endpoint: EndpointSpec::default(),
        update: Default::default(),
        rollback: Default::default(),
        registry_auth: None,
    }
}

/// What services are made of, in one expression.
pub(crate) trait With: Sized {
    fn on(self, networks: &[&NetworkId]) -> Self;
    fn port(self, text: &str) -> Self;
    fn dnsrr(self) -> Self;
    fn process(&mut self) -> &mut ProcessSpec;
}

impl With for ServiceSpec {
    fn on(mut self, networks: &[&NetworkId]) -> Self {
        let attach = |network: &&NetworkId| NetworkAttachment {
            network: (*network).clone(),
            aliases: Vec::new(),
        };
        self.task.networks = networks.iter().map(attach).collect();
        self
    }

    fn port(mut self, text: &str) -> Self {
        self.endpoint
            .ports
            .extend(PublishedPort::parse(text).unwrap());
        self
    }

    fn dnsrr(mut self) -> Self {
        self.endpoint.mode = EndpointMode::DnsRr;
        self
    }

    fn process(&mut self) -> &mut ProcessSpec {
        let RuntimeSpec::Process(process) = &mut self.task.runtime else {
            panic!("it is a process");
        };
        process
    }
}

impl Mesh {
    /// The default pools and this many nodes.
    pub(crate) fn new(nodes: u8) -> Self {
        Self::with_pools(&Pools::default(), nodes)
    }

    pub(crate) fn with_pools(pools: &Pools, nodes: u8) -> Self {
        let mut mesh = Self {
            state: State::default(),
            now: "2025-01-01T00:00:00Z".parse().unwrap(),
            held: Vec::new(),
            routes: Vec::new(),
            made: 0,
            orchestrator: Orchestrator::default(),
        };
        for n in 1..=nodes {
            let host = format!("host{n}");
            let pools = mesh.state.pools.as_ref().map_or(pools, |pools| &**pools);
            let tx = admit::init(&mesh.state, &node_id(n), &host, pools, &[], mesh.now).unwrap();
            mesh.commit(&tx);
        }
        mesh
    }

    /// Time goes by.
    pub(crate) fn wait(&mut self, seconds: i64) {
        self.now += SignedDuration::from_secs(seconds);
    }

    /// Whether a store would take it.
    pub(crate) fn takes(&self, tx: &Transaction) -> bool {
        tx.expect
            .iter()
            .all(|expect| version(&self.state, &expect.key) == expect.version)
    }

    /// Writes as a store does, with the rules that every transaction keeps to:
    /// each key is written once, and only knowingly.
    pub(crate) fn commit(&mut self, tx: &Transaction) {
        assert!(self.takes(tx), "conflict: {:?}", tx.expect);
        let mut keys: Vec<_> = tx.changes.iter().map(Change::key).collect();
        keys.sort();
        let unique = keys.len();
        keys.dedup();
        assert_eq!(keys.len(), unique, "a key is written twice: {tx:?}");
        for key in &keys {
            assert!(
                tx.expect.iter().any(|expect| expect.key == *key),
                "{key} is written blindly"
            );
        }
        if !tx.is_empty() {
            let revision = Revision(self.state.revision.0 + 1);
            self.state.apply(revision, tx.changes.clone());
        }
    }

    /// Decides with all that the mesh has to decide from.
    pub(crate) fn decide<T>(
        &mut self,
        decision: impl FnOnce(&State, &mut Context<'_>) -> Result<T, Refusal>,
    ) -> Result<T, Refusal> {
        let made = &mut self.made;
        let mut random = || {
            *made += 1;
            random(*made)
        };
        let mut context = Context {
            now: self.now,
            random: &mut random,
            held: &self.held,
            routes: &self.routes,
        };
        decision(&self.state, &mut context)
    }

    pub(crate) fn try_network(
        &mut self,
        text: &str,
        subnets: &[&str],
    ) -> Result<NetworkId, Refusal> {
        let spec = NetworkSpec {
            name: name(text),
            labels: Default::default(),
            internal: false,
            ipv6: false,
            subnets: subnets.iter().map(|subnet| net(subnet)).collect(),
        };
        self.make_network(&spec)
    }

    pub(crate) fn make_network(&mut self, spec: &NetworkSpec) -> Result<NetworkId, Refusal> {
        let decided =
            self.decide(|state, context| admit::create_network(state, spec, &Value::Null, context));
        let (id, tx) = decided?;
        self.commit(&tx);
        Ok(id)
    }

    pub(crate) fn network(&mut self, text: &str) -> NetworkId {
        self.try_network(text, &[]).unwrap()
    }

    pub(crate) fn create(&mut self, spec: &ServiceSpec) -> Result<ServiceId, Refusal> {
        let decided = self.decide(|state, context| {
            admit::create_service(state, spec.clone(), &Value::Null, context)
        });
        let (id, tx) = decided?;
        self.commit(&tx);
        Ok(id)
    }

    pub(crate) fn update(&mut self, id: &ServiceId, spec: &ServiceSpec) -> Result<(), Refusal> {
        let version = self.state.services[id].version;
        let tx = self.decide(|state, context| {
            admit::update_service(state, id, version, spec.clone(), &Value::Null, context)
        })?;
        self.commit(&tx);
        Ok(())
    }

    pub(crate) fn remove(&mut self, id: &ServiceId) {
        let tx = admit::remove_service(&self.state, id, self.now).unwrap();
        self.commit(&tx);
    }

    pub(crate) fn remove_network(&mut self, id: &NetworkId) -> Result<(), Refusal> {
        let tx = admit::remove_network(&self.state, id, self.now)?;
        self.commit(&tx);
        Ok(())
    }

    /// Changes a task past the store's rules.
    pub(crate) fn task_mut(&mut self, id: &TaskId) -> &mut Task {
        Arc::make_mut(&mut self.state.tasks.get_mut(id).unwrap().value)
    }

    /// Changes a task's status past the store's rules.
    pub(crate) fn status_mut(&mut self, id: &TaskId) -> &mut TaskStatus {
        Arc::make_mut(&mut self.state.statuses.get_mut(id).unwrap().value)
    }

    pub(crate) fn get(&self, id: &ServiceId) -> &Versioned<Service> {
        &self.state.services[id]
    }

    /// Addresses, names, marks, blocks and ports that are held, as text.
    pub(crate) fn claimed(&self) -> Vec<String> {
        let held = self
            .state
            .claims
            .values()
            .filter(|claim| claim.released.is_none());
        held.map(|claim| claim.resource.to_string()).collect()
    }

    pub(crate) fn holder(&self, resource: &Resource) -> Option<&str> {
        let claim = self.state.claims.get(resource)?;
        claim
            .released
            .is_none()
            .then_some(claim.value.owner.as_str())
    }

    /// One look of the orchestrator, which decides what one does that has not seen the
    /// state before; gives back when it would look again.
    pub(crate) fn orchestrate(&mut self) -> Option<Timestamp> {
        let (anew, _) = self.look(&mut Orchestrator::default());
        let mut orchestrator = std::mem::take(&mut self.orchestrator);
        let (plan, made) = self.look(&mut orchestrator);
        assert_eq!(plan, anew, "{orchestrator:#?}");
        (self.orchestrator, self.made) = (orchestrator, made);
        self.commit(&plan.tx);
        for failed in plan.rollbacks {
            let tx = self.decide(|state, context| {
                let (id, message) = (&failed.service, failed.message.clone());
                admit::rollback_failed(state, id, failed.version, message, context)
            });
            self.commit(&tx.unwrap());
        }
        plan.wake
    }

    /// What an orchestrator decides now, and how much of chance is used up then.
    fn look(&self, orchestrator: &mut Orchestrator) -> (Plan, u64) {
        let mut made = self.made;
        let mut fresh = || {
            made += 1;
            random(made)
        };
        let plan = orchestrator.look(&self.state, self.now, &mut fresh);
        (plan, made)
    }

    /// What the orchestrator would write now.
    pub(crate) fn plan(&self) -> Transaction {
        self.look(&mut Orchestrator::default()).0.tx
    }

    pub(crate) fn sweep(&mut self) {
        let tx = tombstones::sweep(&self.state, self.now);
        self.commit(&tx);
    }

    /// A task's node says how it fares.
    pub(crate) fn report(&mut self, task: &TaskId, state: TaskState, attached: bool) {
        let before = self.state.status(task).and_then(|status| status.started);
        let status = TaskStatus {
            state,
            attached,
            started: before.or_else(|| (state == TaskState::Running).then_some(self.now)),
            ..TaskStatus::new(task.clone(), self.now)
        };
        let mut tx = Transaction::default();
        match self.state.statuses.get(task) {
            Some(before) => tx.replace(before.version, Object::Status(status)),
            None => tx.create(Object::Status(status)),
        }
        self.commit(&tx);
    }

    pub(crate) fn tasks(&self, service: &ServiceId) -> Vec<Task> {
        let tasks = self.state.tasks_of(service);
        tasks.into_iter().map(|task| Task::clone(task)).collect()
    }

    /// The orchestrator and a node on which all goes well, until nothing is left to do.
    pub(crate) fn settle(&mut self) {
        for _ in 0..1_000 {
            self.orchestrate();
            let before = self.state.revision;
            for task in self.state.tasks.clone().values() {
                let wanted = task.desired == model::DesiredState::Running;
                let status = self.state.status(&task.id);
                let state = status.map_or(TaskState::New, |status| status.state);
                let attached = status.is_some_and(|status| status.attached);
                match (wanted, state) {
                    (true, state)
                        if state < TaskState::Running
                            && task.not_before.is_none_or(|at| at <= self.now) =>
                    {
                        self.report(&task.id, TaskState::Running, true);
                    }
                    (false, state) if !state.is_final() => {
                        self.report(&task.id, TaskState::Shutdown, true);
                    }
                    (_, state) if state.is_final() && attached => {
                        self.report(&task.id, state, false);
                    }
                    _ => {}
                }
            }
            if self.state.revision == before && self.plan().is_empty() {
                return;
            }
        }
        panic!("does not settle");
    }
}

fn version(state: &State, key: &model::Key) -> Option<Revision> {
    use model::Key;
    match key {
        Key::Pools => state.pools.as_ref().map(|v| v.version),
        Key::Node(id) => state.nodes.get(id).map(|v| v.version),
        Key::Network(id) => state.networks.get(id).map(|v| v.version),
        Key::Lease(network, node) => state
            .leases
            .get(&(network.clone(), node.clone()))
            .map(|v| v.version),
        Key::Service(id) => state.services.get(id).map(|v| v.version),
        Key::Task(id) => state.tasks.get(id).map(|v| v.version),
        Key::Status(id) => state.statuses.get(id).map(|v| v.version),
        Key::Leaving(id) => state.leaving.get(id).map(|v| v.version),
        Key::Blob(id) => state.blobs.get(id).map(|v| v.version),
        Key::Claim(resource) => state.claims.get(resource).map(|v| v.version),
    }
}

/// Different bits for each number, in no order.
fn random(number: u64) -> [u8; 16] {
    let mixed = number.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&mixed.to_be_bytes());
    bytes[8..].copy_from_slice(&number.to_be_bytes());
    bytes
}
