//! One mesh, in which everything is as wanted, and what is found out about a probe when
//! one thing is not.

use std::{net::IpAddr, time::Duration};

use imbl::OrdSet;
use jiff::Timestamp;
use kernel::evidence::{Balanced, Counts, Holder, Listening, Rule, Sockets, Tracked};
use model::{
    EndpointMode, EndpointSpec, Mode, NetworkAttachment, NetworkId, NetworkSpec, Pools,
    ProcessSpec, PublishedPort, Revision, RuntimeSpec, ServiceSpec, TaskSpec, TaskStatus,
    Transaction,
};
use plan::{
    admit::{self, Context},
    datapath::Settings,
    orchestrate::Orchestrator,
};

use super::*;
use crate::trace::{
    evidence::{Counted, Probe, Responder, Silence},
    scene,
};

struct World {
    state: State,
    node: NodeId,
    instance: Instance,
    wanted: Places,
    seed: u8,
}

impl World {
    fn commit(&mut self, tx: Transaction) {
        self.state
            .apply(Revision(self.state.revision.0 + 1), tx.changes);
    }

    fn decide<T>(
        &mut self,
        decision: impl FnOnce(&State, &mut Context<'_>) -> Result<(T, Transaction), admit::Refusal>,
    ) -> T {
        let seed = &mut self.seed;
        let mut random = || {
            *seed += 1;
            [*seed; 16]
        };
        let mut context = Context {
            now: Timestamp::UNIX_EPOCH,
            random: &mut random,
            held: &[],
            routes: &[],
        };
        let (value, tx) = decision(&self.state, &mut context).unwrap();
        self.commit(tx);
        value
    }

    fn network(&mut self, name: &str) -> NetworkId {
        let spec = NetworkSpec {
            name: name.parse().unwrap(),
            labels: Default::default(),
            internal: false,
            ipv6: false,
            subnets: Vec::new(),
        };
        let raw = serde_json::Value::Null;
        self.decide(|state, context| admit::create_network(state, &spec, &raw, context))
    }

    fn service(&mut self, name: &str, network: &NetworkId, ports: &str) {
        let ports = ports.split_whitespace();
        let ports = ports.flat_map(|text| PublishedPort::parse(text).unwrap());
        let process = ProcessSpec {
            command: vec!["/bin/true".to_owned()],
            ..ProcessSpec::default()
        };
        let spec = ServiceSpec {
            name: name.parse().unwrap(),
            labels: Default::default(),
            mode: Mode::Replicated { replicas: 1 },
            task: TaskSpec {
                runtime: RuntimeSpec::Process(process),
                networks: vec![NetworkAttachment {
                    network: network.clone(),
                    aliases: Vec::new(),
                }],
                restart: Default::default(),
                force_update: 0,
            },
            placement: Default::default(),
            endpoint: EndpointSpec {
                mode: EndpointMode::Vip,
                ports: ports.collect(),
            },
            update: Default::default(),
            rollback: Default::default(),
            registry_auth: None,
        };
        let raw = serde_json::Value::Null;
        self.decide(|state, context| admit::create_service(state, spec, &raw, context));
    }

    fn new() -> Self {
        let node = NodeId::from_random([7; 16]);
        let mut world = Self {
            state: State::default(),
            node: node.clone(),
            instance: Instance::default(),
            wanted: Places::new(),
            seed: 0,
        };
        let now = Timestamp::UNIX_EPOCH;
        let pools = Pools::default();
        let tx = admit::init(&world.state, &node, "one", &pools, &[], now).unwrap();
        world.commit(tx);
        let (back, apart) = (world.network("back"), world.network("apart"));
        world.service("web", &back, "8080:80");
        world.service("client", &back, "");
        world.service("other", &apart, "");
        let mut seed = 100;
        let mut random = || {
            seed += 1;
            [seed; 16]
        };
        let plan = Orchestrator::default().look(&world.state, now, &mut random);
        world.commit(plan.tx);
        let ids: Vec<_> = world.state.tasks.keys().cloned().collect();
        for id in &ids {
            let mut status = TaskStatus::new(id.clone(), now);
            (status.state, status.attached) = (model::TaskState::Running, true);
            let put = model::Change::Put(model::Object::Status(status));
            world.state.apply(Revision(99), [put]);
        }
        world.want();
        world
    }

    fn want(&mut self) {
        let sandboxes: OrdSet<_> = self.state.tasks.keys().cloned().collect();
        let settings = Settings::default();
        self.wanted = plan::datapath::wanted(
            &self.state,
            &self.node,
            &self.instance,
            &sandboxes,
            &settings,
        );
    }

    fn task(&self, name: &str) -> &Task {
        self.state.find_task(name).unwrap()
    }

    fn address(&self, name: &str) -> IpAddr {
        self.task(name).addresses().next().unwrap()
    }

    fn vip(&self, service: &str) -> IpAddr {
        let service = self.state.find_service(service).unwrap();
        service.endpoint.vips[0].address
    }

    fn scene(&self, client: Client, to: SocketAddr) -> Scene<'_> {
        let own = [IpAddr::from([192, 0, 2, 1])];
        Scene {
            state: &self.state,
            node: &self.node,
            instance: &self.instance,
            wanted: &self.wanted,
            repairs: true,
            client,
            target: scene::target(&self.state, &own, to.ip(), Some(to.port()), Protocol::Tcp),
            at: Some(to),
            name: None,
            protocol: Protocol::Tcp,
        }
    }

    fn by_vip(&self) -> Scene<'_> {
        let client = Client::Task(self.task("client.1").id.clone());
        self.scene(client, SocketAddr::new(self.vip("web"), 80))
    }

    fn by_port(&self, client: Client) -> Scene<'_> {
        self.scene(client, "192.0.2.1:8080".parse().unwrap())
    }

    fn chosen(&self, end: Option<End>) -> Chosen {
        let at = SocketAddr::new(self.address("web.1"), 80);
        let listening = Listening {
            at: "0.0.0.0:80".parse().unwrap(),
            waiting: 0,
            inode: 7,
        };
        Chosen {
            at,
            task: Some(self.task("web.1").id.clone()),
            sockets: Sockets {
                listening: vec![listening],
                end,
            },
            holder: Some(Holder {
                pid: 12,
                name: "whoami".to_owned(),
                state: 'S',
            }),
        }
    }

    fn balanced(&self) -> Balanced {
        Balanced {
            to: SocketAddr::new(self.address("web.1"), 80),
        }
    }

    /// Of a probe that arrived.
    fn arrived(&self) -> Evidence {
        Evidence {
            probe: Some(Probe {
                from: Some(SocketAddr::new(self.address("client.1"), 40000)),
                outcome: Outcome::Answered,
                took: Duration::from_millis(2),
            }),
            seen: self.wanted.clone(),
            balanced: Some(self.balanced()),
            chosen: Some(self.chosen(Some(End::Accepted))),
            ..Evidence::default()
        }
    }

    /// Of one that IPVS never saw.
    fn silent(&self) -> Evidence {
        let mut evidence = self.arrived();
        evidence.probe.as_mut().unwrap().outcome = Outcome::Silent;
        (evidence.balanced, evidence.chosen) = (None, None);
        evidence
    }

    /// Of one that IPVS sent on and no socket got.
    fn sent_on(&self) -> Evidence {
        Evidence {
            balanced: Some(self.balanced()),
            chosen: Some(self.chosen(None)),
            ..self.silent()
        }
    }

    /// Of one by a published port, which the host sent on.
    fn tracked(&self) -> Tracked {
        Tracked {
            to: "10.90.1.2:8080".parse().unwrap(),
            from: "10.90.1.1:40000".parse().unwrap(),
        }
    }
}

#[track_caller]
fn lost(scene: &Scene<'_>, evidence: &Evidence, at: &str, words: &[&str]) {
    let trace = explain(scene, evidence);
    let station = trace.lost().unwrap_or_else(|| panic!("{trace:#?}"));
    assert_eq!(station.station, at, "{trace:#?}");
    for word in words {
        assert!(station.what.contains(word), "{word} {trace:#?}");
    }
    assert!(!station.next.is_empty(), "{trace:#?}");
    assert!(!trace.arrived);
    // nothing is said of what it did not reach
    let after = trace.stations.iter().skip_while(|one| one.station != at);
    assert!(
        after
            .skip(1)
            .all(|one| one.verdict == Verdict::Unreached && one.what.is_empty())
    );
}

fn dropped(place: Place, rule: Rule) -> std::collections::BTreeMap<Place, Counted> {
    let before = Counts {
        rules: vec![Rule {
            packets: 0,
            ..rule.clone()
        }],
        ..Counts::default()
    };
    let after = Counts {
        rules: vec![rule],
        ..Counts::default()
    };
    [(place, Counted { before, after })].into()
}

fn rule(chain: &str) -> Rule {
    Rule {
        table: "filter".to_owned(),
        chain: chain.to_owned(),
        text: "-j DROP".to_owned(),
        behind: Vec::new(),
        packets: 2,
    }
}

#[test]
fn a_probe_that_arrives_passes_every_station() {
    let world = World::new();
    let trace = explain(&world.by_vip(), &world.arrived());
    assert!(trace.arrived && trace.sent, "{trace:#?}");
    let stations: Vec<_> = trace
        .stations
        .iter()
        .map(|one| (one.station.as_str(), one.verdict))
        .collect();
    let names = ["client", "gateway", "mark", "ipvs", "task", "reply"];
    assert_eq!(
        stations,
        names.map(|name| (name, Verdict::Ok)),
        "{trace:#?}"
    );
    assert_eq!(
        (trace.from.as_str(), trace.to.as_str()),
        ("client.1", "web:80/tcp")
    );
    assert!(trace.stations[3].what.contains("chose web.1"), "{trace:#?}");
    assert!(
        trace.stations[4].what.contains("whoami (pid 12)"),
        "{trace:#?}"
    );
}

#[test]
fn what_differs_and_was_passed_is_a_warning() {
    let world = World::new();
    let mut evidence = world.arrived();
    let router = evidence.seen.get_mut(&Place::Router).unwrap();
    router.sets["vips-tcp"].entries = Default::default();
    let trace = explain(&world.by_vip(), &evidence);
    assert!(trace.arrived);
    assert_eq!(trace.stations[2].verdict, Verdict::Warning, "{trace:#?}");
}

#[test]
fn each_thing_of_the_router_that_is_missing_is_named() {
    let world = World::new();
    let scene = world.by_vip();
    let (key, vip) = (scene.balancer().unwrap().1, world.vip("web").to_string());
    let broken = |what: &dyn Fn(&mut plan::netns::Netns)| {
        let mut evidence = world.silent();
        what(evidence.seen.get_mut(&Place::Router).unwrap());
        evidence
    };
    let evidence = broken(&|netns| netns.sets["vips-tcp"].entries = Default::default());
    lost(&scene, &evidence, "mark", &["vips-tcp has no entry", &vip]);
    let mangle = (Family::V4, plan::netns::Table::Mangle);
    let evidence = broken(&|netns| drop(netns.tables.remove(&mangle)));
    lost(&scene, &evidence, "mark", &["PREROUTING"]);
    let evidence = broken(&|netns| drop(netns.services.remove(&key)));
    lost(&scene, &evidence, "ipvs", &["missing"]);
    let evidence = broken(&|netns| netns.services[&key].destinations.clear());
    lost(&scene, &evidence, "ipvs", &["no destinations"]);
    let evidence = broken(&|netns| {
        let destinations = netns.services[&key].destinations.values_mut();
        destinations.for_each(|one| one.weight = 0);
    });
    lost(&scene, &evidence, "ipvs", &["weight 0"]);
    let link = world.task("client.1").link();
    let evidence = broken(&|netns| netns.links[&link].up = false);
    lost(&scene, &evidence, "gateway", &[&link, "down"]);
    let mut evidence = world.silent();
    evidence.seen.remove(&Place::Router);
    lost(&scene, &evidence, "gateway", &["namespace is gone"]);

    // behind IPVS what is before it is not in the way
    let link = world.task("web.1").link();
    let mut evidence = world.sent_on();
    let router = evidence.seen.get_mut(&Place::Router).unwrap();
    router.links[&link].up = false;
    router.sets["vips-tcp"].entries = Default::default();
    lost(&scene, &evidence, "task", &[&link, "down"]);
}

#[test]
fn another_tasks_troubles_are_not_in_the_way() {
    let world = World::new();
    let mut evidence = world.silent();
    let other = world.task("other.1").link();
    let router = evidence.seen.get_mut(&Place::Router).unwrap();
    router.links[&other].up = false;
    router.sets["vips-tcp"]
        .entries
        .remove(&plan::netns::Entry::Ip(world.vip("other")));
    lost(
        &world.by_vip(),
        &evidence,
        "ipvs",
        &["nothing of ours differs"],
    );
}

#[test]
fn what_the_task_does_is_told_apart() {
    let world = World::new();
    let scene = world.by_vip();
    let with = |change: &dyn Fn(&mut Chosen)| {
        let mut evidence = world.sent_on();
        change(evidence.chosen.as_mut().unwrap());
        evidence
    };
    let evidence = with(&|chosen| chosen.sockets.listening[0].at = "127.0.0.1:80".parse().unwrap());
    lost(&scene, &evidence, "task", &["listens on 127.0.0.1:80 only"]);
    let evidence = with(&|chosen| chosen.sockets.listening[0].at = "0.0.0.0:81".parse().unwrap());
    lost(
        &scene,
        &evidence,
        "task",
        &["nothing listens on port 80", "81"],
    );
    let evidence = with(&|chosen| chosen.sockets.listening.clear());
    lost(&scene, &evidence, "task", &["no port at all"]);
    let evidence = with(&|_| {});
    lost(&scene, &evidence, "task", &["no socket of the task"]);
    let evidence = with(&|chosen| chosen.sockets.end = Some(End::Answered));
    lost(
        &scene,
        &evidence,
        "reply",
        &["the answer did not come back"],
    );

    let mut evidence = world.arrived();
    let chosen = evidence.chosen.as_mut().unwrap();
    chosen.sockets.end = Some(End::Waiting);
    lost(&scene, &evidence, "task", &["whoami", "does not take it"]);
    evidence
        .chosen
        .as_mut()
        .unwrap()
        .holder
        .as_mut()
        .unwrap()
        .state = 'T';
    lost(&scene, &evidence, "task", &["is stopped"]);
}

#[test]
fn who_dropped_it_is_named_where_it_was() {
    let world = World::new();
    let scene = world.by_vip();
    let (client, web) = (world.task("client.1"), world.task("web.1"));
    let mut evidence = world.silent();
    evidence.counted = dropped(Place::Task(client.id.clone()), rule("OUTPUT"));
    lost(
        &scene,
        &evidence,
        "client",
        &["dropped 2 packets", "-A OUTPUT -j DROP"],
    );
    let mut evidence = world.sent_on();
    evidence.counted = dropped(Place::Task(web.id.clone()), rule("INPUT"));
    lost(&scene, &evidence, "task", &["-A INPUT -j DROP"]);
    // its answer was dropped
    evidence.chosen.as_mut().unwrap().sockets.end = Some(End::Answered);
    lost(&scene, &evidence, "reply", &["-A INPUT -j DROP"]);
    let mut evidence = world.silent();
    evidence.counted = [(Place::Router, Counted::default())].into();
    let router = evidence.counted.get_mut(&Place::Router).unwrap();
    router.after.reverse_path = 1;
    lost(
        &scene,
        &evidence,
        "gateway",
        &["rp_filter dropped 1 packet:"],
    );
    // what arrived was not dropped
    let mut evidence = world.arrived();
    evidence.counted = dropped(Place::Router, rule("FORWARD"));
    assert!(explain(&scene, &evidence).arrived);
}

#[test]
fn the_host_is_a_station_of_published_ports() {
    let world = World::new();
    let scene = world.by_port(Client::Host);
    let mut evidence = world.arrived();
    evidence.tracked = Some(world.tracked());
    let trace = explain(&scene, &evidence);
    assert!(trace.arrived, "{trace:#?}");
    let names: Vec<_> = trace
        .stations
        .iter()
        .map(|one| one.station.as_str())
        .collect();
    assert_eq!(names, ["host", "mark", "ipvs", "task", "reply"]);
    assert_eq!(trace.to, "192.0.2.1:8080/tcp (web)");
    assert!(
        trace.stations[0].what.contains("DNAT to 10.90.1.2:8080"),
        "{trace:#?}"
    );

    let mut evidence = world.silent();
    evidence.seen.get_mut(&Place::Host).unwrap().sets["ivm-tcp"].entries = Default::default();
    lost(&scene, &evidence, "host", &["ivm-tcp has no entry 8080"]);
    let mut evidence = world.silent();
    let nat = (Family::V4, plan::netns::Table::Nat);
    evidence
        .seen
        .get_mut(&Place::Host)
        .unwrap()
        .tables
        .remove(&nat);
    lost(&scene, &evidence, "host", &["nat"]);
    let mut evidence = world.silent();
    let mut counted = Counted::default();
    counted.after.untracked = 2;
    counted.after.tracked = Some((65536, 65536));
    evidence.counted = [(Place::Host, counted)].into();
    lost(
        &scene,
        &evidence,
        "host",
        &["connection tracking is full (65536 of 65536)"],
    );
    let mut evidence = world.silent();
    evidence.tracked = Some(world.tracked());
    evidence.seen.get_mut(&Place::Ingress).unwrap().sets["ports"].entries = Default::default();
    lost(&scene, &evidence, "mark", &["ports has no entry"]);

    // tracked, and not translated: it stays on the host
    let mut evidence = world.silent();
    evidence.tracked = Some(Tracked {
        to: "192.0.2.1:8080".parse().unwrap(),
        ..world.tracked()
    });
    evidence
        .seen
        .get_mut(&Place::Host)
        .unwrap()
        .tables
        .remove(&nat);
    lost(&scene, &evidence, "host", &["nat"]);

    let client = Client::Task(world.task("client.1").id.clone());
    let mut evidence = world.silent();
    evidence.counted = dropped(Place::Host, rule("FORWARD"));
    lost(
        &world.by_port(client),
        &evidence,
        "host",
        &["-A FORWARD -j DROP"],
    );
}

#[test]
fn nothing_is_sent_from_elsewhere_and_all_is_looked_at() {
    let world = World::new();
    let client = Client::Elsewhere([198, 51, 100, 9].into());
    let scene = world.by_port(client.clone());
    let mut evidence = Evidence {
        probe: None,
        balanced: None,
        ..world.sent_on()
    };
    let trace = explain(&scene, &evidence);
    assert!(trace.arrived && !trace.sent, "{trace:#?}");
    let router = evidence.seen.get_mut(&Place::Router).unwrap();
    router.routes = Default::default();
    lost(&scene, &evidence, "task", &["route"]);
    evidence.counted = dropped(Place::Host, rule("FORWARD"));
    lost(&scene, &evidence, "host", &["before ours"]);
    let ours = Rule {
        behind: vec!["IPVSMESH-FWD".to_owned()],
        ..rule("FORWARD")
    };
    evidence.counted = dropped(Place::Host, ours);
    lost(&scene, &evidence, "task", &["route"]);

    let vip = SocketAddr::new(world.vip("web"), 80);
    lost(
        &world.scene(client, vip),
        &evidence,
        "host",
        &["VIPs are for tasks"],
    );
}

#[test]
fn isolation_and_idle_services_are_the_states_word() {
    let mut world = World::new();
    let client = Client::Task(world.task("client.1").id.clone());
    let mut evidence = world.silent();
    evidence.probe.as_mut().unwrap().outcome = Outcome::Refused;
    let vip = SocketAddr::new(world.vip("other"), 80);
    lost(
        &world.scene(client, vip),
        &evidence,
        "gateway",
        &["isolated", "back", "apart"],
    );

    let id = world.task("web.1").id.clone();
    let mut status = TaskStatus::clone(world.state.status(&id).unwrap());
    (status.state, status.error) = (model::TaskState::Failed, "it broke".to_owned());
    let put = model::Change::Put(model::Object::Status(status));
    world.state.apply(Revision(100), [put]);
    world.want();
    evidence.seen = world.wanted.clone();
    lost(
        &world.by_vip(),
        &evidence,
        "ipvs",
        &["web.1 has ended (it broke)"],
    );
}

#[test]
fn names_are_lost_for_one_reason_each() {
    let world = World::new();
    let at = |name: &str, said: Result<dns::Said, Silence>, responder: Responder| {
        let mut scene = world.by_vip();
        (scene.at, scene.target) = (None, Target::Outside);
        let asked = Asked {
            name: name.to_owned(),
            server: "10.100.0.1:53".parse().unwrap(),
            said,
            responder: Some(responder),
            upstreams: Vec::new(),
        };
        let trace = unresolved(&scene, Some(&asked));
        assert!(!trace.arrived && !trace.sent);
        assert_eq!(trace.stations.len(), 1);
        trace.stations[0].what.clone()
    };
    let said = |code, authoritative| {
        Ok(dns::Said {
            addresses: Vec::new(),
            code,
            authoritative,
            took: Duration::ZERO,
        })
    };
    let silent = || Err(Silence::Silent(Duration::from_secs(1)));
    let stuck = Responder::Stuck { pid: 9, state: 'T' };
    assert!(at("web", silent(), stuck).contains("(pid 9) is stopped"));
    assert!(at("web", Err(Silence::Refused), Responder::Gone).contains("does not run"));
    assert!(at("web", silent(), Responder::Well).contains("within 1000 ms"));
    let hidden = at("other", said(dns::Code::NoSuchName, false), Responder::Well);
    assert!(
        hidden.contains("not visible: service other is on network apart, the client on back"),
        "{hidden}"
    );
    let nobody = at("nobody", said(dns::Code::NoSuchName, true), Responder::Well);
    assert!(nobody.contains("no such name"), "{nobody}");
    let failed = at(
        "example.com",
        said(dns::Code::Failed, false),
        Responder::Well,
    );
    assert!(failed.contains("names no server"), "{failed}");
    // asked for elsewhere, since it is not to be seen
    for name in ["other", "other.1", "tasks.other", "other.apart.ipvsmesh"] {
        let hidden = at(name, said(dns::Code::Failed, false), Responder::Well);
        assert!(hidden.contains("not visible"), "{hidden}");
    }
    let not_ours = at(
        "other.example.com",
        said(dns::Code::Failed, false),
        Responder::Well,
    );
    assert!(not_ours.contains("no name of the mesh"), "{not_ours}");
}
