//! What is not as it should be, in words, with the next step.

use api::inspect::{Compared, Inspection, PortEntry, TaskEntry, Verdict};

/// What differs, and that it does not for long.
pub(super) fn drifted(what: &str, compared: &Compared) -> String {
    let say = |side: &Option<String>| side.clone().unwrap_or_else(|| "nothing".to_owned());
    let how = match compared.verdict {
        Verdict::Missing => format!("is missing: wanted {}", say(&compared.wanted)),
        Verdict::Foreign => format!("is not ours: {}", say(&compared.kernel)),
        _ => format!(
            "differs: wanted {}, the kernel has {}",
            say(&compared.wanted),
            say(&compared.kernel)
        ),
    };
    format!(
        "{what} {how}; ipvsmeshd repairs it within seconds: see ipvsmesh events --since 1m --filter event=repair, and its log (journalctl -u ipvsmeshd) if it stays so"
    )
}

/// Adds what is wrong with a service's way to what is known already.
pub(super) fn find(shown: &mut Inspection) {
    let mut found = std::mem::take(&mut shown.problems);
    let mut drift = |what: &str, compared: &Compared| {
        if !compared.agrees() {
            found.push(drifted(what, compared));
        }
    };
    for vip in &shown.vips {
        let what = format!("VIP {}/{}", vip.address, vip.protocol);
        drift(&format!("{what}: set entry"), &vip.entry);
        balanced(&what, &vip.service, &mut drift);
    }
    for port in &shown.ports {
        let what = format!("port {}", port.listener);
        drift(&format!("{what}: rule of the host"), &port.rule.rule);
        drift(&format!("{what}: entry on the host"), &port.host);
        drift(&format!("{what}: set entry"), &port.entry);
        balanced(&what, &port.service, &mut drift);
    }
    for task in &shown.tasks {
        drift(&format!("task {}: veth", task.name), &task.link);
        for part in task.routes.iter().chain(&task.inside) {
            drift(
                &format!("task {}: {}", task.name, part.what),
                &part.compared,
            );
        }
    }
    for port in &shown.ports {
        if !port.others.is_empty() {
            found.push(format!(
                "port {}: {} too, and gets none of its packets from other machines: stop it, or publish another port",
                port.listener,
                port.others.join(" and "),
            ));
        }
    }
    for task in &shown.tasks {
        found.extend(fares(&shown.name, task));
        found.extend(unheard(&shown.ports, &shown.name, task));
    }
    if shown.running < shown.replicas {
        found.push(format!(
            "{} of {} tasks run: see ipvsmesh service ps --no-trunc {}",
            shown.running, shown.replicas, shown.name
        ));
    }
    shown.problems = found;
}

fn balanced(
    what: &str,
    service: &api::inspect::ServiceEntry,
    drift: &mut impl FnMut(&str, &Compared),
) {
    drift(&format!("{what}: IPVS service"), &service.settings);
    for to in &service.destinations {
        drift(&format!("{what}: weight of {}", to.address), &to.weight);
    }
}

/// Why a task gets no new connections.
fn fares(service: &str, task: &TaskEntry) -> Option<String> {
    let name = &task.name;
    // only what is not ours is in no namespace of ours
    let elsewhere = task.netns.is_empty();
    match (task.state.as_str(), task.health.as_str()) {
        (_, "unhealthy") if elsewhere => Some(format!(
            "task {name} ({}) is unhealthy: it gets no new connections until it is well again; it is not the mesh's to replace: look at that server or container",
            task.addresses.join(", ")
        )),
        ("starting", _) if elsewhere => Some(format!(
            "task {name} ({}) is starting: it gets no connections before it is healthy, or listens: look at that server or container",
            task.addresses.join(", ")
        )),
        (_, "unhealthy") => Some(format!(
            "task {name} is unhealthy: it gets no new connections, and is replaced: see ipvsmesh service logs {service}"
        )),
        ("draining", _) => Some(format!(
            "task {name} is draining: it gets no new connections, and stops once its open ones have ended or the drain time-out is over (ipvsmesh service update --drain-timeout 5s {service} makes it sooner)"
        )),
        ("starting", _) => Some(format!(
            "task {name} is starting: it gets no connections before it is healthy, or listens: see ipvsmesh service logs {service}"
        )),
        _ if !task.error.is_empty() => Some(format!(
            "task {name} {}: {}: see ipvsmesh service logs {service}",
            task.state, task.error
        )),
        _ => None,
    }
}

/// Why what a task gets is refused: nothing listens there, or on loopback only.
fn unheard(ports: &[PortEntry], service: &str, task: &TaskEntry) -> Option<String> {
    let listens = task.listens.as_ref().filter(|_| task.state == "running")?;
    let name = &task.name;
    let mut ports = ports.iter().filter_map(|port| {
        let protocol = port.listener.split('/').nth(1)?.split(' ').next()?;
        let at = format!("{}/{protocol}", port.target);
        let words = listens.iter().filter_map(|held| held.split(' ').next());
        // on every address, or on one with a number
        let on: Vec<_> = words.filter(|word| **word == at || word.ends_with(&format!(":{at}"))).collect();
        let heard = |word: &&str| **word == at || task.addresses.iter().any(|own| {
            let own: Option<std::net::IpAddr> = own.parse().ok();
            own.is_some_and(|own| **word == format!("{}/{protocol}", std::net::SocketAddr::new(own, port.target)))
        });
        match on.first() {
            _ if on.iter().any(heard) => None,
            Some(only) => Some(format!(
                "task {name} is unreachable on port {at}: it listens on {only} only: let it listen on every address (0.0.0.0, ::)"
            )),
            None => Some(format!(
                "task {name} is unreachable on port {at}: nothing in it listens there: see ipvsmesh service logs {service}, or change the target of --publish"
            )),
        }
    });
    ports.next()
}

#[cfg(test)]
mod tests {
    use api::inspect::{DestinationEntry, ServiceEntry};

    use super::*;

    fn same(value: &str) -> Compared {
        Compared::new(Some(value.to_owned()), Some(value.to_owned()))
    }

    fn way() -> Inspection {
        Inspection {
            name: "vote".to_owned(),
            running: 1,
            replicas: 1,
            ports: vec![PortEntry {
                listener: "8080/tcp".to_owned(),
                target: 80,
                host: same("present"),
                entry: same("mark 0x102"),
                service: ServiceEntry {
                    settings: same("rr"),
                    destinations: vec![DestinationEntry {
                        address: "10.100.0.2:80".to_owned(),
                        weight: same("1"),
                        ..DestinationEntry::default()
                    }],
                    ..ServiceEntry::default()
                },
                ..PortEntry::default()
            }],
            tasks: vec![TaskEntry {
                name: "vote.1".to_owned(),
                state: "running".to_owned(),
                netns: "ipvsmesh-x".to_owned(),
                addresses: vec!["10.100.0.2".to_owned()],
                listens: Some(vec!["80/tcp whoami (pid 7)".to_owned()]),
                ..TaskEntry::default()
            }],
            ..Inspection::default()
        }
    }

    fn problems(change: impl FnOnce(&mut Inspection)) -> Vec<String> {
        let mut shown = way();
        change(&mut shown);
        find(&mut shown);
        shown.problems
    }

    #[test]
    fn what_is_right_is_no_problem() {
        assert_eq!(problems(|_| ()), Vec::<String>::new());
    }

    #[test]
    fn each_problem_is_named_with_the_next_step() {
        type Change = fn(&mut Inspection);
        let cases: [(Change, &[&str]); 10] = [
            (
                |shown| shown.ports[0].entry = Compared::new(Some("mark 0x102".to_owned()), None),
                &["port 8080/tcp: set entry is missing", "event=repair"],
            ),
            (
                |shown| {
                    let to = &mut shown.ports[0].service.destinations[0];
                    to.weight = Compared::new(Some("1".to_owned()), Some("0".to_owned()));
                },
                &["weight of 10.100.0.2:80 differs: wanted 1, the kernel has 0"],
            ),
            (
                |shown| shown.tasks[0].health = "unhealthy".to_owned(),
                &["vote.1 is unhealthy", "service logs vote"],
            ),
            (
                |shown| {
                    let task = &mut shown.tasks[0];
                    (task.netns, task.health) = (String::new(), "unhealthy".to_owned());
                },
                &[
                    "vote.1 (10.100.0.2) is unhealthy",
                    "look at that server or container",
                ],
            ),
            (
                |shown| shown.tasks[0].state = "draining".to_owned(),
                &["vote.1 is draining", "--drain-timeout"],
            ),
            (
                |shown| shown.tasks[0].state = "starting".to_owned(),
                &["vote.1 is starting", "service logs vote"],
            ),
            (
                |shown| shown.tasks[0].listens = Some(Vec::new()),
                &[
                    "vote.1 is unreachable on port 80/tcp: nothing in it listens there",
                    "--publish",
                ],
            ),
            (
                |shown| shown.tasks[0].listens = Some(vec!["127.0.0.1:80/tcp whoami".to_owned()]),
                &[
                    "vote.1 is unreachable on port 80/tcp: it listens on 127.0.0.1:80/tcp only",
                    "0.0.0.0",
                ],
            ),
            (
                |shown| shown.ports[0].others = vec!["8080/tcp nginx (pid 7)".to_owned()],
                &["8080/tcp nginx (pid 7) too", "publish another port"],
            ),
            (
                |shown| shown.running = 0,
                &["0 of 1 tasks run", "service ps"],
            ),
        ];
        for (change, words) in cases {
            let found = problems(change);
            assert_eq!(found.len(), 1, "{found:?}");
            for word in words {
                assert!(found[0].contains(word), "{word:?} is not in {}", found[0]);
            }
        }
    }

    #[test]
    fn who_listens_on_its_own_address_is_heard() {
        let listens = |at: &str| Some(vec![format!("{at} whoami (pid 7)")]);
        for at in ["80/tcp", "10.100.0.2:80/tcp"] {
            assert_eq!(
                problems(|shown| shown.tasks[0].listens = listens(at)).len(),
                0,
                "{at}"
            );
        }
        for at in ["8080/tcp", "80/udp", "10.100.0.3:80/tcp"] {
            assert_eq!(
                problems(|shown| shown.tasks[0].listens = listens(at)).len(),
                1,
                "{at}"
            );
        }
        // one that was not looked into may listen
        assert_eq!(problems(|shown| shown.tasks[0].listens = None).len(), 0);
    }
}
