//! From what was found out to what became of the packet: a pure function.
//!
//! A station was passed where a later one knows the connection. The packet was lost at
//! the first station behind those at which something is in its way.

use std::net::SocketAddr;

use api::trace::{Station, Trace, Verdict};
use kernel::evidence::End;
use model::{Instance, Mark, NodeId, Protocol, Service, State, Task, TaskId, Versioned};
use plan::{
    datapath::Way,
    netns::{Family, Place, Places},
};

use super::{
    differs::place_name,
    evidence::{Asked, Chosen, Evidence},
    facts::{fact, name_fact},
    names, obstacles,
    probe::Outcome,
    scene::{Client, Target},
};

/// The question.
pub(crate) struct Scene<'a> {
    pub(crate) state: &'a State,
    pub(crate) node: &'a NodeId,
    pub(crate) instance: &'a Instance,
    /// What is wanted of the kernel.
    pub(crate) wanted: &'a Places,
    /// What differs is repaired by itself.
    pub(crate) repairs: bool,
    pub(crate) client: Client,
    pub(crate) target: Target,
    /// Where the packet goes; `None`: the name has no address.
    pub(crate) at: Option<SocketAddr>,
    /// What was asked for by name.
    pub(crate) name: Option<String>,
    pub(crate) protocol: Protocol,
}

/// A station, in the order of every way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum At {
    Name,
    Client,
    Gateway,
    Host,
    Mark,
    Ipvs,
    Task,
    Reply,
}

impl At {
    fn as_str(self) -> &'static str {
        match self {
            Self::Name => "name",
            Self::Client => "client",
            Self::Gateway => "gateway",
            Self::Host => "host",
            Self::Mark => "mark",
            Self::Ipvs => "ipvs",
            Self::Task => "task",
            Self::Reply => "reply",
        }
    }
}

/// Something that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Obstacle {
    pub(crate) at: At,
    /// A packet can be lost by it.
    pub(crate) stops: bool,
    pub(crate) what: String,
    /// What to do about it.
    pub(crate) next: String,
}

impl Scene<'_> {
    pub(crate) fn family(&self) -> Family {
        self.at.map_or(Family::V4, |at| Family::from(at.ip()))
    }

    pub(crate) fn service(&self) -> Option<&Versioned<Service>> {
        self.state.services.get(self.target.service()?)
    }

    pub(crate) fn client_task(&self) -> Option<&Versioned<Task>> {
        match &self.client {
            Client::Task(id) => self.state.tasks.get(id),
            Client::Host | Client::Elsewhere(_) => None,
        }
    }

    /// The way to the published port that is asked for.
    pub(crate) fn way(&self) -> Option<Way<'_>> {
        let Target::Port { published, .. } = self.target else {
            return None;
        };
        let (service, at) = (self.service()?, self.at?);
        let ways = plan::datapath::ways(self.state, self.node, self.instance, service);
        let family = self.family();
        ways.into_iter().find(|way| {
            let listener = way.port.listener();
            let on = listener.host_ip.filter(|ip| !ip.is_unspecified());
            way.family == family
                && (listener.protocol, listener.port) == (self.protocol, published)
                && on.is_none_or(|ip| ip == at.ip())
        })
    }

    /// The IPVS service that balances it, and where.
    pub(crate) fn balancer(&self) -> Option<(Place, (Family, Mark))> {
        match &self.target {
            Target::Vip { mark, .. } => Some((Place::Router, (self.family(), *mark))),
            Target::Port { .. } => {
                let mark = self.way()?.port.mark;
                Some((Place::Ingress, (self.family(), mark)))
            }
            Target::Task(_) | Target::Outside => None,
        }
    }

    /// The node's own namespaces that it goes through.
    pub(crate) fn places(&self) -> Vec<Place> {
        let all = || vec![Place::Host, Place::Ingress, Place::Router];
        match (&self.client, &self.target) {
            (Client::Task(_), Target::Vip { .. } | Target::Task(_)) => vec![Place::Router],
            (_, Target::Port { .. }) | (Client::Task(_), Target::Outside) => all(),
            (Client::Host, Target::Vip { .. } | Target::Task(_)) => all(),
            (Client::Host, Target::Outside) | (Client::Elsewhere(_), _) => vec![Place::Host],
        }
    }

    /// The stations of the way; without the name, which may come before.
    fn stations(&self) -> Vec<At> {
        let mut stations = match (&self.client, &self.target) {
            (Client::Elsewhere(_), Target::Port { .. }) => vec![At::Host],
            (Client::Elsewhere(_), _) => return vec![At::Host],
            (Client::Host, Target::Port { .. }) => vec![At::Host],
            (Client::Host, Target::Outside) => vec![At::Client],
            (Client::Task(_), Target::Port { .. } | Target::Outside) => {
                vec![At::Client, At::Gateway, At::Host]
            }
            (Client::Task(_) | Client::Host, Target::Vip { .. } | Target::Task(_)) => {
                vec![At::Client, At::Gateway]
            }
        };
        if self.balancer().is_some() {
            stations.extend([At::Mark, At::Ipvs]);
        }
        if self.target != Target::Outside {
            stations.push(At::Task);
        }
        if !matches!(self.client, Client::Elsewhere(_)) {
            stations.push(At::Reply);
        }
        stations
    }

    fn client_name(&self) -> String {
        match &self.client {
            Client::Task(id) => self.task_name(id),
            Client::Host => "host".to_owned(),
            Client::Elsewhere(ip) => ip.to_string(),
        }
    }

    pub(crate) fn task_name(&self, id: &TaskId) -> String {
        let task = self.state.tasks.get(id);
        task.map_or_else(|| id.to_string(), |task| task.name())
    }

    /// Whether a task is in no namespace of ours.
    fn is_elsewhere(&self, id: &TaskId) -> bool {
        let task = self.state.tasks.get(id);
        task.is_some_and(|task| task.elsewhere.is_some())
    }

    fn target_name(&self) -> String {
        let name = match (&self.name, &self.target) {
            (Some(name), _) => Some(name.clone()),
            (None, Target::Task(id)) => Some(self.task_name(id)),
            (None, Target::Vip { .. } | Target::Port { .. }) => {
                self.service().map(|service| service.spec.name.to_string())
            }
            (None, Target::Outside) => None,
        };
        let protocol = self.protocol;
        match (name, self.at, &self.target) {
            // its number is the host's
            (Some(name), Some(at), Target::Port { .. }) => format!("{at}/{protocol} ({name})"),
            (Some(name), Some(at), _) => format!("{name}:{}/{protocol}", at.port()),
            (Some(name), None, _) => name,
            (None, Some(at), _) => format!("{at}/{protocol}"),
            (None, None, _) => String::new(),
        }
    }

    /// Where a station is.
    fn place(&self, at: At, evidence: &Evidence) -> String {
        let place = |place: &Place| place_name(self.instance, place);
        let client = match &self.client {
            Client::Task(id) => place(&Place::Task(id.clone())),
            Client::Host | Client::Elsewhere(_) => place(&Place::Host),
        };
        match at {
            At::Name => evidence
                .asked
                .as_ref()
                .map_or_else(String::new, |asked| asked.server.to_string()),
            At::Client | At::Reply => client,
            At::Gateway if self.client == Client::Host => place(&Place::Ingress),
            At::Gateway => place(&Place::Router),
            At::Host => place(&Place::Host),
            At::Mark | At::Ipvs => self
                .balancer()
                .map_or_else(String::new, |(at, _)| place(&at)),
            At::Task => {
                let chosen = evidence.chosen.as_ref();
                let task = chosen.and_then(|chosen| chosen.task.clone());
                let task = task.filter(|task| !self.is_elsewhere(task));
                task.map_or_else(|| "-".to_owned(), |task| place(&Place::Task(task)))
            }
        }
    }

    fn trace(&self, evidence: &Evidence, stations: Vec<Station>) -> Trace {
        let probe = evidence.probe.as_ref();
        let lost = stations.iter().any(|one| one.verdict == Verdict::Lost);
        Trace {
            from: self.client_name(),
            to: self.target_name(),
            source: probe.and_then(|probe| Some(probe.from?.to_string())),
            destination: self.at.map(|at| at.to_string()),
            sent: probe.is_some(),
            arrived: !lost,
            stations,
        }
    }
}

/// A name that has no address for the client.
pub(crate) fn unresolved(scene: &Scene<'_>, asked: Option<&Asked>) -> Trace {
    let evidence = Evidence {
        asked: asked.cloned(),
        ..Evidence::default()
    };
    let Some(asked) = asked else {
        return scene.trace(&evidence, Vec::new());
    };
    let obstacle = names::name(scene, asked);
    let lost = Station {
        station: At::Name.as_str().to_owned(),
        place: scene.place(At::Name, &evidence),
        verdict: Verdict::Lost,
        what: obstacle.what,
        next: obstacle.next,
    };
    scene.trace(&evidence, vec![lost])
}

/// A name outside of the mesh, of which nothing more was asked.
pub(crate) fn resolved(scene: &Scene<'_>, asked: &Asked) -> Trace {
    let evidence = Evidence {
        asked: Some(asked.clone()),
        ..Evidence::default()
    };
    let station = Station {
        station: At::Name.as_str().to_owned(),
        place: scene.place(At::Name, &evidence),
        verdict: Verdict::Ok,
        what: name_fact(asked),
        next: "give --port to trace the way to it, too".to_owned(),
    };
    scene.trace(&evidence, vec![station])
}

/// What became of the probe, or would become of one.
pub(crate) fn explain(scene: &Scene<'_>, evidence: &Evidence) -> Trace {
    let path = scene.stations();
    let obstacles = obstacles::all(scene, evidence);
    let lost = match arrived(scene, evidence) {
        Some(true) => None,
        Some(false) => Some(lost(scene, &path, evidence, &obstacles)),
        // nothing was sent: the first one that would stop it
        None => path.iter().copied().find(|at| stops(&obstacles, *at)),
    };
    let mut stations = Vec::new();
    if let Some(asked) = &evidence.asked {
        stations.push(Station {
            station: At::Name.as_str().to_owned(),
            place: scene.place(At::Name, evidence),
            verdict: Verdict::Ok,
            what: name_fact(asked),
            next: String::new(),
        });
    }
    for at in path {
        let mut here: Vec<_> = obstacles.iter().filter(|one| one.at == at).collect();
        let verdict = match lost {
            Some(lost) if at > lost => Verdict::Unreached,
            Some(lost) if at == lost => Verdict::Lost,
            _ if here.is_empty() => Verdict::Ok,
            _ => Verdict::Warning,
        };
        if verdict == Verdict::Lost && stops(&obstacles, at) {
            here.retain(|one| one.stops);
        }
        let generic = obstacles::unknown(scene, evidence, at);
        let way_back: Vec<_> = obstacles.iter().filter(|one| one.stops).collect();
        let said = match (verdict, &here[..]) {
            (Verdict::Unreached, _) => None,
            (Verdict::Lost, []) if at == At::Reply && !way_back.is_empty() => Some(way_back),
            (Verdict::Lost, []) => Some(vec![&generic]),
            (_, here) => Some(here.to_vec()),
        };
        let fact = || fact(scene, evidence, at);
        let (what, next) = match said {
            None => (String::new(), String::new()),
            Some(said) if said.is_empty() => (fact(), String::new()),
            Some(said) => {
                let place = format!("{}: ", scene.place(at, evidence));
                let what = said.iter().map(|one| &*one.what);
                let what = what.map(|what| what.strip_prefix(&place).unwrap_or(what));
                let what: Vec<_> = what.collect();
                let next = said.first().map(|one| one.next.clone());
                (what.join("; "), next.unwrap_or_default())
            }
        };
        stations.push(Station {
            station: at.as_str().to_owned(),
            place: scene.place(at, evidence),
            verdict,
            what,
            next,
        });
    }
    scene.trace(evidence, stations)
}

fn stops(obstacles: &[Obstacle], at: At) -> bool {
    obstacles.iter().any(|one| one.at == at && one.stops)
}

/// Whether it was answered well; `None` where nothing was sent.
pub(crate) fn arrived(scene: &Scene<'_>, evidence: &Evidence) -> Option<bool> {
    let probe = evidence.probe.as_ref()?;
    let chosen = evidence.chosen.as_ref();
    Some(match (&probe.outcome, scene.protocol) {
        (Outcome::Answered, Protocol::Udp) => true,
        // the kernel answers for a program that does not
        (Outcome::Answered, _) => {
            chosen.is_none_or(|chosen| chosen.sockets.end != Some(End::Waiting))
        }
        (Outcome::Silent, Protocol::Udp) => was_read(evidence),
        _ => false,
    })
}

/// Whether a program has read a datagram meanwhile: it need not answer.
pub(crate) fn was_read(evidence: &Evidence) -> bool {
    let task = evidence.chosen.as_ref().and_then(|one| one.task.as_ref());
    let counted = task.and_then(|task| evidence.counted.get(&Place::Task(task.clone())));
    counted.is_some_and(|counted| counted.after.datagrams > counted.before.datagrams)
}

/// The last station that is known to have been passed.
pub(crate) fn passed(scene: &Scene<'_>, evidence: &Evidence) -> Option<At> {
    let chosen = evidence.chosen.as_ref();
    let end = chosen.and_then(|chosen| chosen.sockets.end);
    match end {
        Some(End::Answered | End::Accepted | End::Closing) => return Some(At::Task),
        // taken by the kernel, not by the program
        Some(End::Waiting) => return Some(At::Ipvs),
        None => {}
    }
    if evidence.balanced.is_some() {
        return Some(At::Ipvs);
    }
    // a published port is translated; what is not stays on the host
    let port = matches!(scene.target, Target::Port { .. });
    let tracked = evidence.tracked?;
    (!port || Some(tracked.to) != scene.at).then_some(At::Host)
}

/// The station where a probe that did not arrive was lost.
fn lost(scene: &Scene<'_>, path: &[At], evidence: &Evidence, obstacles: &[Obstacle]) -> At {
    let passed = passed(scene, evidence);
    let behind = path.iter().copied().filter(|at| Some(*at) > passed);
    let mut stopping = behind.clone().filter(|at| stops(obstacles, *at));
    // with nothing in the way: the first station that would know the connection
    let knows = [At::Host, At::Ipvs, At::Task, At::Reply];
    let mut unknown = behind.clone().filter(|at| knows.contains(at));
    let lost = stopping.next().or_else(|| match scene.target {
        Target::Outside => Some(At::Reply),
        _ => unknown.next(),
    });
    lost.unwrap_or(At::Reply)
}

/// The set and the entry that give packets their mark.
pub(crate) fn mark_entry(scene: &Scene<'_>) -> Option<(String, plan::netns::Entry)> {
    match &scene.target {
        Target::Vip { .. } => {
            let suffix = match scene.family() {
                Family::V4 => "",
                Family::V6 => "6",
            };
            let entry = plan::netns::Entry::Ip(scene.at?.ip());
            Some((format!("vips-{}{suffix}", scene.protocol), entry))
        }
        Target::Port { .. } => Some(scene.way()?.ingress),
        Target::Task(_) | Target::Outside => None,
    }
}

/// Who was chosen, for words.
pub(crate) fn chosen_name(scene: &Scene<'_>, chosen: &Chosen) -> String {
    match &chosen.task {
        Some(task) => format!("task {}", scene.task_name(task)),
        None => chosen.at.to_string(),
    }
}

#[cfg(test)]
mod tests;
