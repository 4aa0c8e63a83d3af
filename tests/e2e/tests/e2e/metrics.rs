//! Prometheus' figures: the format to the letter, and the values as other tools have them.

use std::collections::{BTreeMap, BTreeSet};

use e2e::{HOST_IP, Node, sh, until};

const DASHBOARD: &str = include_str!("../../../../docs/grafana-dashboard.json");

/// A metric with its values by their labels, as they stand in the text.
#[derive(Debug, Default)]
struct Family {
    kind: String,
    samples: BTreeMap<String, f64>,
}

/// Reads Prometheus' text format 0.0.4 with all that `promtool check metrics` minds.
fn parse(text: &str) -> BTreeMap<String, Family> {
    let mut families: BTreeMap<String, Family> = BTreeMap::new();
    let (mut helped, mut current) = (String::new(), String::new());
    assert!(text.ends_with('\n'), "the last line ends");
    for line in text.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (name, help) = help.split_once(' ').expect("a help has a text");
            assert!(
                !help.trim().is_empty() && !families.contains_key(name),
                "{line}"
            );
            helped = name.to_owned();
        } else if let Some(kind) = line.strip_prefix("# TYPE ") {
            let (name, kind) = kind.split_once(' ').expect("a type has a word");
            assert_eq!(name, helped, "a type comes behind its help");
            check_name(name, kind);
            current = name.to_owned();
            let family = families.entry(current.clone()).or_default();
            assert!(family.kind.is_empty(), "{name} is there twice");
            family.kind = kind.to_owned();
        } else {
            let (series, value) = line.rsplit_once(' ').expect("a sample has a value");
            let value: f64 = value.parse().unwrap_or_else(|_| panic!("{line}"));
            let name = series.split('{').next().expect("it begins with its name");
            let family = families
                .get_mut(&current)
                .expect("a sample comes behind its type");
            let suffixes: &[&str] = match family.kind.as_str() {
                "histogram" => &["_bucket", "_sum", "_count"],
                _ => &[""],
            };
            let own = suffixes
                .iter()
                .any(|suffix| name == format!("{current}{suffix}"));
            assert!(own, "{line} is not of {current}");
            if let Some(labels) = series
                .strip_prefix(name)
                .filter(|labels| !labels.is_empty())
            {
                check_labels(labels);
            }
            assert!(value >= 0.0, "{line}");
            let before = family.samples.insert(series.to_owned(), value);
            assert_eq!(before, None, "{series} is there twice");
        }
    }
    for (name, family) in &families {
        assert!(!family.samples.is_empty(), "{name} has no value");
        if family.kind == "histogram" {
            check_histogram(name, family);
        }
    }
    families
}

/// <https://prometheus.io/docs/practices/naming/>, as promlint has it.
fn check_name(name: &str, kind: &str) {
    let valid = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    assert!(
        name.starts_with("ipvsmesh_") && name.chars().all(valid),
        "{name}"
    );
    assert!(
        ["counter", "gauge", "histogram"].contains(&kind),
        "{name}: {kind}"
    );
    assert_eq!(
        name.ends_with("_total"),
        kind == "counter",
        "{name} is a {kind}"
    );
    for wrong in [
        "counter",
        "gauge",
        "histogram",
        "milliseconds",
        "_ms",
        "kilobytes",
        "minutes",
    ] {
        assert!(!name.contains(wrong), "{name}");
    }
}

/// `{a="b",c="d"}` with nothing unescaped.
fn check_labels(labels: &str) {
    let mut rest = labels.strip_prefix('{').expect("labels are in braces");
    let mut seen = BTreeSet::new();
    loop {
        let (name, after) = rest.split_once("=\"").unwrap_or_else(|| panic!("{labels}"));
        let valid = |c: char| c.is_ascii_lowercase() || c == '_';
        assert!(name.chars().all(valid) && seen.insert(name), "{labels}");
        let mut chars = after.char_indices();
        let end = loop {
            match chars.next() {
                Some((_, '\\')) => {
                    let (_, escaped) = chars.next().expect("something is escaped");
                    assert!(['\\', '"', 'n'].contains(&escaped), "{labels}");
                }
                Some((at, '"')) => break at,
                Some(_) => {}
                None => panic!("{labels} does not end"),
            }
        };
        assert!(end > 0, "an empty label is as good as none: {labels}");
        rest = &after[end + 1..];
        match rest.strip_prefix(',') {
            Some(more) => rest = more,
            None => return assert_eq!(rest, "}", "{labels}"),
        }
    }
}

fn check_histogram(name: &str, family: &Family) {
    let count = |suffix: &str| {
        let of = format!("{name}{suffix}");
        let all = family
            .samples
            .iter()
            .filter(|(series, _)| series.starts_with(&of));
        all.count()
    };
    let infinite = family
        .samples
        .keys()
        .filter(|series| series.contains("le=\"+Inf\""))
        .count();
    assert!(
        infinite > 0 && count("_sum") == infinite && count("_count") == infinite,
        "{name}"
    );
}

fn scrape(node: &Node) -> String {
    node.on_host("curl -sSf --max-time 20 http://127.0.0.1:9323/metrics")
        .ok()
        + "\n"
}

/// The sum of all values of a metric whose labels have all of these.
fn sum(families: &BTreeMap<String, Family>, name: &str, labels: &[&str]) -> f64 {
    let family = families.get(name).unwrap_or_else(|| panic!("no {name}"));
    let fits = |series: &str| labels.iter().all(|label| series.contains(label));
    let fitting = family.samples.iter().filter(|(series, _)| fits(series));
    fitting.map(|(_, value)| value).sum()
}

#[test]
fn figures_are_prometheus_and_as_other_tools_count() {
    let mut node = Node::new();
    node.arguments = vec!["--metrics".into(), "127.0.0.1:9323".into()];
    node.start();
    let begun = parse(&scrape(&node));
    assert_eq!(sum(&begun, "ipvsmesh_build_info", &["version="]), 1.0);
    node.whoami("vote", "--replicas 2 --publish 8080:80");
    node.wait_running("vote", 2);
    let answers = node.answers(
        |line| node.from_outside(line),
        &format!("http://{HOST_IP}:8080/"),
        10,
    );
    assert_eq!(answers.failed, 0);
    node.in_task("vote.1", "curl -s http://vote/").ok();
    node.in_task("vote.1", "dig +short +tries=1 +time=3 vote.9")
        .ok();
    // somebody meddles
    node.in_ingress("ipset flush ports").ok();
    let families = until("the repair is counted", 30, || {
        let families = parse(&scrape(&node));
        (sum(&families, "ipvsmesh_drift_repairs_total", &[]) > 0.0).then_some(families)
    });
    let value = |name: &str, labels: &[&str]| sum(&families, &format!("ipvsmesh_{name}"), labels);
    let port = [
        "service=\"vote\"",
        "entry=\"port\"",
        "listener=\"8080/tcp\"",
        "family=\"ipv4\"",
    ];
    assert_eq!(value("service_connections_total", &port), 10.0);
    assert_eq!(value("destination_connections_total", &port), 10.0);
    for what in [
        "received_packets",
        "sent_packets",
        "received_bytes",
        "sent_bytes",
    ] {
        let (service, destinations) = (
            value(&format!("service_{what}_total"), &port),
            value(&format!("destination_{what}_total"), &port),
        );
        assert_eq!(service, destinations, "{what}");
        assert!(service >= 40.0, "{what}: {service}");
    }
    let ours = value("destination_received_bytes_total", &port);
    let line = "ipvsadm -Ln --stats --exact | awk '/FWM/ {print $6; exit}'";
    let theirs = node.in_ingress(line).ok();
    assert_eq!(format!("{ours}"), theirs, "as ipvsadm has it");
    let vip = ["service=\"vote\"", "entry=\"vip\"", "network=", "/tcp"];
    assert_eq!(value("service_connections_total", &vip), 1.0);
    assert_eq!(
        value(
            "destination_weight",
            &["task=\"vote.1\"", "8080/tcp", "ipv4"]
        ),
        1.0
    );
    assert_eq!(value("task_up", &["service=\"vote\""]), 2.0);
    assert_eq!(value("service_desired_tasks", &["vote"]), 2.0);
    assert_eq!(value("service_tasks", &["state=\"running\""]), 2.0);
    assert_eq!(value("dns_up", &[]), 1.0);
    assert!(value("dns_answers_total", &["kind=\"answered\""]) >= 1.0);
    assert_eq!(value("dns_answers_total", &["kind=\"denied\""]), 1.0);
    assert!(value("kernel_writes_total", &["kind=\"ipvs\""]) >= 4.0);
    assert!(
        value(
            "reconcile_duration_seconds",
            &["_count", "kind=\"changes\""]
        ) > 1.0
    );

    // all that the dashboard asks for is there
    let dashboard: serde_json::Value = serde_json::from_str(DASHBOARD).expect("it is JSON");
    let named = names(&dashboard);
    assert!(named.len() > 20, "{named:?}");
    for name in &named {
        let base = name.strip_suffix("_bucket").unwrap_or(name);
        assert!(
            families.contains_key(base),
            "the dashboard's {name} is not exported"
        );
    }
    let unseen: Vec<_> = families
        .keys()
        .filter(|name| {
            !named
                .iter()
                .any(|asked| asked == *name || asked.strip_suffix("_bucket") == Some(name))
        })
        .collect();
    assert_eq!(unseen, Vec::<&String>::new(), "is on no panel");

    // where the real judge is there, it has nothing to say
    if sh(None, "command -v promtool").code == 0 {
        let judged = node.on_host("curl -s http://127.0.0.1:9323/metrics | promtool check metrics");
        assert_eq!((judged.code, judged.err.as_str()), (0, ""));
    }
    // nobody else is answered
    node.from_outside(&format!(
        "curl -s --max-time 2 http://{HOST_IP}:9323/metrics"
    ))
    .fails(7, &[]);
}

/// The metrics that are named in a dashboard's queries.
fn names(value: &serde_json::Value) -> BTreeSet<String> {
    match value {
        serde_json::Value::String(text) => {
            let word = |c: char| !c.is_ascii_alphanumeric() && c != '_';
            let words = text
                .split(word)
                .filter(|word| word.starts_with("ipvsmesh_"));
            words.map(str::to_owned).collect()
        }
        serde_json::Value::Array(all) => all.iter().flat_map(names).collect(),
        serde_json::Value::Object(all) => all.values().flat_map(names).collect(),
        _ => BTreeSet::new(),
    }
}
