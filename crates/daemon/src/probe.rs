//! Asks tasks whether they serve: as their service's probe says, and where it has none,
//! whether they listen on its published port before they get connections. Asked is from
//! the ingress namespace, where the clients of published ports come from.

use std::{collections::BTreeMap, io, net::SocketAddr, sync::Arc, time::Duration};

use imbl::OrdMap;
use kernel::netns::Netns;
use model::{
    DesiredState, Event, EventKind, Health, Instance, Options, Probe, ProbeKind, Protocol, State,
    Task, TaskId, TaskState, label,
};
use store::Store;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
    sync::watch,
    task::{AbortHandle, JoinSet},
    time::Instant,
};

use crate::{events::Events, mesh::Mesh};

/// How soon a task that is starting is asked again, at first and at last: who waits
/// for it waits for that.
const SOONEST: Duration = Duration::from_millis(20);
const LATEST: Duration = Duration::from_millis(500);
/// How long a task of a service without a probe has until it listens.
const FIRST: Duration = Duration::from_secs(5);
/// Octets of an answer that are looked at: its first line.
const LINE: usize = 64;

/// What probes say of the tasks that have one.
pub(crate) type Healths = watch::Sender<OrdMap<TaskId, Health>>;

/// How healthy a task is: as its runtime says, or else as its service's probe says.
pub(crate) fn health(
    state: &State,
    healths: &OrdMap<TaskId, Health>,
    task: &Task,
    own: Health,
) -> Health {
    match own {
        Health::None if probe(state, task).is_some() => {
            healths.get(&task.id).copied().unwrap_or(Health::Starting)
        }
        own => own,
    }
}

/// What finds out whether a task serves: its service's probe; where nothing is said
/// of one, whether it listens on the first TCP port that is published.
fn probe(state: &State, task: &Task) -> Option<(Probe, Kind)> {
    let service = state.services.get(&task.service)?;
    if service.spec.labels.contains_key(label::PROBE) {
        let options = Options::of(&service.spec.labels).ok()?;
        let kind = match task.elsewhere {
            Some(_) => Kind::Always,
            None => Kind::Asked,
        };
        return Some((options.probe?, kind));
    }
    let mut ports = service.endpoint.ports.iter().map(|port| &port.port);
    let first = ports.find(|port| port.protocol == Protocol::Tcp)?;
    let probe = Probe {
        kind: ProbeKind::Tcp,
        port: first.target,
        interval: LATEST,
        timeout: FIRST,
        retries: 1,
        start_period: FIRST,
    };
    Some((probe, Kind::First))
}

/// For how long a task is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// As long as it runs.
    Asked,
    /// For ever: it is not ours to replace, and may come back.
    Always,
    /// Until it listens, or is given up on and taken for one that does.
    First,
}

/// Whom to ask, and what.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Question {
    at: SocketAddr,
    probe: Probe,
    kind: Kind,
}

/// Asks the tasks of one node.
pub(crate) struct Prober<S> {
    pub(crate) mesh: Arc<Mesh<S>>,
    pub(crate) instance: Instance,
    pub(crate) healths: Arc<Healths>,
    pub(crate) events: Arc<Events>,
}

impl<S: Store> Prober<S> {
    /// Runs until the daemon ends.
    pub(crate) async fn run(self) {
        let mut states = self.mesh.subscribe();
        let mut before = Arc::new(State::default());
        let mut asked: BTreeMap<TaskId, (Question, AbortHandle)> = BTreeMap::new();
        let mut asking = JoinSet::new();
        loop {
            let state = states.borrow_and_update().clone();
            for id in state.tasks_changed_since(&before) {
                let task = state.tasks.get(&id);
                let wanted = task.and_then(|task| self.question(&state, task));
                let is = asked.get(&id).map(|(question, _)| question);
                if is == wanted.as_ref() {
                    continue;
                }
                if let Some((_, asking)) = asked.remove(&id) {
                    asking.abort();
                    self.healths
                        .send_if_modified(|all| all.remove(&id).is_some());
                }
                if let Some(question) = wanted {
                    let netns = self.instance.ingress_netns();
                    let told = Told {
                        healths: self.healths.clone(),
                        events: self.events.clone(),
                        event: self.event(&state, &id),
                    };
                    let ask = watch_task(id.clone(), question.clone(), netns, told);
                    asked.insert(id, (question, asking.spawn(ask)));
                }
            }
            before = state;
            tokio::select! {
                changed = states.changed() => if changed.is_err() { return },
                // those that were given up on
                Some(_) = asking.join_next() => {}
            }
        }
    }

    /// What is told of a task, without what has happened to it.
    fn event(&self, state: &State, id: &TaskId) -> Event {
        let mut event = Event::new(EventKind::Task, "", id);
        event.node = Some(self.mesh.node.clone());
        if let Some(task) = state.tasks.get(id) {
            event.service = Some(task.service.clone());
            let node = state.nodes.get(&task.node);
            event = event
                .with("name", task.name())
                .with("service", &task.service_name)
                .with("node", node.map_or("", |node| &node.hostname));
        }
        event
    }

    /// What a task is to be asked, if it is one of this node that is to be asked.
    fn question(&self, state: &State, task: &Task) -> Option<Question> {
        if task.node != self.mesh.node || task.desired != DesiredState::Running {
            return None;
        }
        let status = state.status(&task.id)?;
        let starts = status.state == TaskState::Starting;
        // one that is not ours drains while it is not well
        let draining = status.draining && task.elsewhere.is_none();
        if draining || !starts && status.state != TaskState::Running {
            return None;
        }
        let (probe, kind) = probe(state, task)?;
        // one that serves need not be asked whether it has begun to
        if kind == Kind::First && !starts {
            return None;
        }
        let ip = task.addresses().next()?;
        // a target is where packets come to
        let port = match kind {
            Kind::First => task.port(probe.port),
            Kind::Asked | Kind::Always => probe.port,
        };
        let at = SocketAddr::new(ip, port);
        Some(Question { at, probe, kind })
    }
}

/// Who is told of a task's health.
struct Told {
    healths: Arc<Healths>,
    events: Arc<Events>,
    /// Without what has happened.
    event: Event,
}

impl Told {
    /// Docker's words for it.
    fn event(&self, health: Health, why: &str) {
        let action = match health {
            Health::Healthy => "health_status: healthy",
            Health::Unhealthy => "health_status: unhealthy",
            Health::None | Health::Starting => return,
        };
        let event = Event {
            action,
            ..self.event.clone()
        };
        self.events.tell([event.with("reason", why)]);
    }
}

/// Asks one task until it is given up on.
async fn watch_task(task: TaskId, question: Question, netns: String, told: Told) {
    let Question { at, probe, kind } = question;
    let (begun, mut soon) = (Instant::now(), SOONEST);
    let (mut health, mut failures) = (Health::Starting, 0);
    loop {
        let answer = tokio::time::timeout(probe.timeout, ask(at, &probe.kind, &netns)).await;
        let answer = answer.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        let mut why = String::new();
        match answer {
            Ok(()) => (health, failures) = (Health::Healthy, 0),
            Err(_) if health == Health::Starting && begun.elapsed() < probe.start_period => {}
            Err(_) if kind == Kind::First => health = Health::Healthy,
            Err(error) => {
                failures = (failures + 1).min(probe.retries);
                if health != Health::Unhealthy {
                    tracing::info!(%task, %at, %error, failures, "a probe failed");
                }
                if failures >= probe.retries {
                    health = Health::Unhealthy;
                    why = format!("{failures} probes of {at} failed: {error}");
                }
            }
        }
        let other = |all: &mut OrdMap<_, _>| all.insert(task.clone(), health) != Some(health);
        // that it has begun to listen is what `running` says
        if told.healths.send_if_modified(other) && kind != Kind::First {
            told.event(health, &why);
        }
        let pause = match (health, kind) {
            (Health::Unhealthy, Kind::Asked) | (Health::Healthy, Kind::First) => return,
            (Health::Starting, _) => {
                soon = (soon * 2).min(LATEST);
                probe.interval.min(soon)
            }
            _ => probe.interval,
        };
        tokio::time::sleep(pause).await;
    }
}

/// Asks once.
async fn ask(at: SocketAddr, kind: &ProbeKind, netns: &str) -> io::Result<()> {
    let mut stream = connect(at, netns).await?;
    let ProbeKind::Http(path) = kind else {
        return Ok(());
    };
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {at}\r\nUser-Agent: ipvsmesh-probe\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await?;
    let mut line = Vec::new();
    while line.len() < LINE && !line.contains(&b'\n') {
        let mut part = [0; LINE];
        match stream.read(&mut part).await? {
            0 => break,
            read => line.extend_from_slice(part.get(..read).unwrap_or_default()),
        }
    }
    let line = String::from_utf8_lossy(&line);
    let status = line.split(' ').nth(1).and_then(|word| word.parse().ok());
    match status {
        Some(200..=399) => Ok(()),
        Some(status @ 100..=599) => Err(io::Error::other(format!("status {status}"))),
        _ => Err(io::Error::other("no HTTP")),
    }
}

/// Connects out of a namespace.
async fn connect(at: SocketAddr, netns: &str) -> io::Result<TcpStream> {
    let netns = netns.to_owned();
    let open = move || {
        let netns = Netns::open(&netns).map_err(io::Error::other)?;
        let socket = netns.run(|| match at {
            SocketAddr::V4(_) => TcpSocket::new_v4(),
            SocketAddr::V6(_) => TcpSocket::new_v6(),
        });
        socket.map_err(io::Error::other)?
    };
    let socket = tokio::task::spawn_blocking(open).await;
    socket.map_err(io::Error::other)??.connect(at).await
}
