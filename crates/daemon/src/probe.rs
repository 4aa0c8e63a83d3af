//! Asks tasks whether they serve, where their service has a probe: from the ingress
//! namespace, which is where the clients of published ports come from.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use imbl::OrdMap;
use kernel::netns::Netns;
use model::{
    DesiredState, Health, Instance, Options, Probe, ProbeKind, State, Task, TaskId, TaskState,
    label,
};
use store::Store;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
    sync::watch,
    task::{AbortHandle, JoinSet},
    time::Instant,
};

use crate::mesh::Mesh;

/// How soon a task that is starting is asked again: who waits for it waits for that.
const SOON: Duration = Duration::from_millis(500);
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

/// The probe of a task's service.
fn probe(state: &State, task: &Task) -> Option<Probe> {
    let labels = &state.services.get(&task.service)?.spec.labels;
    // most have none, and need not be read for that
    labels.get(label::PROBE)?;
    Options::of(labels).ok()?.probe
}

/// Whom to ask, and what.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Question {
    at: SocketAddr,
    probe: Probe,
}

/// Asks the tasks of one node.
pub(crate) struct Prober<S> {
    pub(crate) mesh: Arc<Mesh<S>>,
    pub(crate) instance: Instance,
    pub(crate) healths: Arc<Healths>,
}

impl<S: Store> Prober<S> {
    /// Runs until the daemon ends.
    pub(crate) async fn run(self) {
        let mut state = self.mesh.subscribe();
        let mut asked: BTreeMap<TaskId, (Question, AbortHandle)> = BTreeMap::new();
        let mut asking = JoinSet::new();
        loop {
            let wanted = self.questions(&state.borrow_and_update().clone());
            asked.retain(|task, (question, asking)| {
                let goes_on = wanted.get(task) == Some(question);
                if !goes_on {
                    asking.abort();
                    self.healths
                        .send_if_modified(|all| all.remove(task).is_some());
                }
                goes_on
            });
            for (task, question) in wanted {
                if asked.contains_key(&task) {
                    continue;
                }
                let netns = self.instance.ingress_netns();
                let ask = watch_task(task.clone(), question.clone(), netns, self.healths.clone());
                asked.insert(task, (question, asking.spawn(ask)));
            }
            tokio::select! {
                changed = state.changed() => if changed.is_err() { return },
                // those that were given up on
                Some(_) = asking.join_next() => {}
            }
        }
    }

    /// The tasks of this node that are to be asked.
    fn questions(&self, state: &State) -> BTreeMap<TaskId, Question> {
        let services = state.services.values();
        let probed = services.filter(|service| service.spec.labels.contains_key(label::PROBE));
        let probed: BTreeSet<_> = probed.map(|service| &service.id).collect();
        if probed.is_empty() {
            return BTreeMap::new();
        }
        let tasks = state.tasks.values().filter(|task| {
            task.node == self.mesh.node
                && task.desired == DesiredState::Running
                && probed.contains(&task.service)
                && state.status(&task.id).is_some_and(|status| {
                    let runs = matches!(status.state, TaskState::Starting | TaskState::Running);
                    runs && !status.draining
                })
        });
        let question = |task: &Task| {
            let probe = probe(state, task)?;
            let ip = task.addresses().next()?;
            let at = SocketAddr::new(ip, probe.port);
            Some((task.id.clone(), Question { at, probe }))
        };
        tasks.filter_map(|task| question(task)).collect()
    }
}

/// Asks one task until it is given up on.
async fn watch_task(task: TaskId, question: Question, netns: String, healths: Arc<Healths>) {
    let Question { at, probe } = question;
    let begun = Instant::now();
    let (mut health, mut failures) = (Health::Starting, 0);
    loop {
        let answer = tokio::time::timeout(probe.timeout, ask(at, &probe.kind, &netns)).await;
        let answer = answer.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        match answer {
            Ok(()) => (health, failures) = (Health::Healthy, 0),
            Err(_) if health == Health::Starting && begun.elapsed() < probe.start_period => {}
            Err(error) => {
                failures += 1;
                tracing::info!(%task, %at, %error, failures, "a probe failed");
                if failures >= probe.retries {
                    health = Health::Unhealthy;
                }
            }
        }
        healths.send_if_modified(|all| all.insert(task.clone(), health) != Some(health));
        let pause = match health {
            Health::Unhealthy => return,
            Health::Starting => probe.interval.min(SOON),
            Health::None | Health::Healthy => probe.interval,
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
