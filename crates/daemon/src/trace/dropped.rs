//! What dropped packets while the probe was under way.

use kernel::evidence::{Dropped, Rule};
use plan::netns::Place;

use super::{
    differs::place_name,
    evidence::Evidence,
    explain::{At, Obstacle, Scene, passed},
    obstacles::obstacle,
    scene::{Client, Target},
};

pub(crate) fn counted(scene: &Scene<'_>, evidence: &Evidence) -> Vec<Obstacle> {
    let mut found = Vec::new();
    for (place, counted) in &evidence.counted {
        let Some(at) = dropping(scene, evidence, place) else {
            continue;
        };
        let netns = place_name(scene.instance, place);
        for dropped in counted.after.since(&counted.before) {
            found.extend(dropped_here(
                place,
                &netns,
                at,
                &dropped,
                counted.after.tracked,
            ));
        }
    }
    found
}

/// The station that drops of a namespace count for.
fn dropping(scene: &Scene<'_>, evidence: &Evidence, place: &Place) -> Option<At> {
    let balanced = passed(scene, evidence) >= Some(At::Ipvs);
    let port = matches!(scene.target, Target::Port { .. });
    match place {
        Place::Task(id) if scene.client == Client::Task(id.clone()) => Some(At::Client),
        Place::Task(id) => {
            let chosen = evidence.chosen.as_ref()?;
            (chosen.task.as_ref() == Some(id)).then_some(At::Task)
        }
        Place::Host => match (&scene.target, &scene.client) {
            (Target::Port { .. }, _) | (Target::Outside, Client::Task(_)) => Some(At::Host),
            (_, Client::Host) => Some(At::Client),
            _ => None,
        },
        Place::Ingress => match (port, &scene.client) {
            (true, _) => Some(if balanced { At::Task } else { At::Mark }),
            (false, Client::Host) => Some(At::Gateway),
            (false, _) => (scene.target == Target::Outside).then_some(At::Gateway),
        },
        Place::Router => Some(if balanced { At::Task } else { At::Gateway }),
    }
}

fn dropped_here(
    place: &Place,
    netns: &str,
    at: At,
    dropped: &Dropped,
    tracked: Option<(u64, u64)>,
) -> Option<Obstacle> {
    match dropped {
        Dropped::Rule(rule) => {
            // consequences: of a mark that is missing, of a task that calls itself
            let ours = matches!(place, Place::Ingress | Place::Router);
            if ours
                && (rule.chain == "HAIRPIN"
                    || rule.text.contains("--mark 0x0")
                    || rule.text.contains("--match-set same"))
            {
                return None;
            }
            Some(obstacle(
                at,
                format!(
                    "{netns}: a rule of table {} dropped {}: {}",
                    rule.table,
                    packets(rule.packets),
                    shown(rule)
                ),
                mend_rule(place, netns, rule),
            ))
        }
        Dropped::ReversePath(number) => Some(obstacle(
            at,
            format!(
                "{netns}: rp_filter dropped {}: the way back to their source is not the one that they came by",
                packets(*number)
            ),
            format!("look at it: {}ip route get SOURCE", inside(place, netns)),
        )),
        Dropped::Untracked(number) => {
            let (count, most) = tracked.unwrap_or_default();
            Some(obstacle(
                at,
                format!(
                    "{netns}: the table of connection tracking is full ({count} of {most}): {} dropped",
                    packets(*number)
                ),
                format!(
                    "make it larger: sysctl -w net.netfilter.nf_conntrack_max={}; see who fills it: conntrack -L",
                    most.max(1) * 2
                ),
            ))
        }
        Dropped::ListenOverflow(number) if at == At::Task => Some(obstacle(
            at,
            format!(
                "{netns}: the program's queue of connections that it has not taken yet is full: {} dropped",
                packets(*number)
            ),
            "the program is too slow, or hangs; see its log: ipvsmesh service logs",
        )),
        Dropped::ListenOverflow(_) => None,
    }
}

fn packets(number: u64) -> String {
    match number {
        1 => "1 packet".to_owned(),
        number => format!("{number} packets"),
    }
}

/// A rule as it would be typed.
fn shown(rule: &Rule) -> String {
    match rule.text.as_str() {
        "policy DROP" => format!("-P {} DROP", rule.chain),
        text => format!("-A {} {text}", rule.chain),
    }
}

fn inside(place: &Place, netns: &str) -> String {
    match place {
        Place::Host => String::new(),
        _ => format!("ip netns exec {netns} "),
    }
}

fn mend_rule(place: &Place, netns: &str, rule: &Rule) -> String {
    let iptables = format!("{}iptables -t {}", inside(place, netns), rule.table);
    match rule.text.as_str() {
        "policy DROP" => format!(
            "accept what shall pass before that: {iptables} -I {} ...",
            rule.chain
        ),
        text => format!("if it is not meant: {iptables} -D {} {text}", rule.chain),
    }
}

/// Foreign rules before ours on the host, which a packet from elsewhere meets first.
pub(crate) fn before_ours(scene: &Scene<'_>, evidence: &Evidence) -> Vec<Obstacle> {
    let (Client::Elsewhere(_), Target::Port { .. }) = (&scene.client, &scene.target) else {
        return Vec::new();
    };
    let own = format!("{}-", scene.instance.chain_prefix());
    let rules = evidence.counted.get(&Place::Host);
    let rules = rules.iter().flat_map(|counted| &counted.after.rules);
    let first = rules.filter(|rule| {
        rule.table == "filter"
            && rule.chain == "FORWARD"
            && rule.text != "policy DROP"
            && !rule.behind.iter().any(|chain| chain.starts_with(&own))
    });
    let found = first.map(|rule| Obstacle {
        at: At::Host,
        // one that asks for nothing takes everything
        stops: rule.text.starts_with("-j "),
        what: format!("host: a foreign rule stands before ours: {}", shown(rule)),
        next: mend_rule(&Place::Host, "host", rule),
    });
    found.collect()
}
