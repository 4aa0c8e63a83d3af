//! `ipvsmesh service inspect --pretty`, in the form of docker's template.

mod container;

use std::fmt::Write as _;

use jiff::Timestamp;
use model::label;
use serde_json::Value;

use super::{list::mode, options::short};
use crate::{
    output::{capital, list, number, text},
    ports, words,
};

/// The service for people; `networks` are the names of its networks.
pub(super) fn service(service: &Value, networks: &[String]) -> String {
    let mut out = String::new();
    // writing to a string does not fail
    let _ = write(&mut out, service, networks);
    out
}

fn write(out: &mut String, service: &Value, networks: &[String]) -> std::fmt::Result {
    writeln!(out, "\nID:\t\t{}", text(service, "/ID"))?;
    writeln!(out, "Name:\t\t{}", text(service, "/Spec/Name"))?;
    let labels = service.pointer("/Spec/Labels").and_then(Value::as_object);
    let (options, labels): (Vec<_>, Vec<_>) = labels
        .into_iter()
        .flatten()
        .partition(|(key, _)| label::ALL.contains(&key.as_str()));
    if !labels.is_empty() {
        writeln!(out, "Labels:")?;
        for (key, value) in labels {
            match value.as_str().unwrap_or_default() {
                "" => writeln!(out, " {key}")?,
                value => writeln!(out, " {key}={value}")?,
            }
        }
    }
    writeln!(out, "Service Mode:\t{}", capital(mode(service)))?;
    if let Some(replicas) = service.pointer("/Spec/Mode/Replicated/Replicas") {
        writeln!(out, " Replicas:\t{replicas}")?;
    }
    if let Some(status) = service.get("UpdateStatus") {
        update_status(out, status)?;
    }
    let template = &service["Spec"]["TaskTemplate"];
    writeln!(out, "Placement:")?;
    let constraints = list(template, "/Placement/Constraints");
    if !constraints.is_empty() {
        let constraints: Vec<_> = constraints.iter().filter_map(Value::as_str).collect();
        writeln!(out, " Constraints:\t[{}]", constraints.join(" "))?;
    }
    let preferences = list(template, "/Placement/Preferences");
    if !preferences.is_empty() {
        let over = |one| format!("spread={}", text(one, "/Spread/SpreadDescriptor"));
        let preferences: Vec<_> = preferences.iter().map(over).collect();
        writeln!(out, " Preferences:\t[{}]", preferences.join(" "))?;
    }
    let most = number(template, "/Placement/MaxReplicas");
    if most > 0 {
        writeln!(out, " Max Replicas Per Node:\t{most}")?;
    }
    if let Some(policy) = template.get("RestartPolicy") {
        restart(out, policy)?;
    }
    for (title, order) in [
        ("UpdateConfig", "Update order:      "),
        ("RollbackConfig", "Rollback order:    "),
    ] {
        if let Some(config) = service["Spec"].get(title) {
            writeln!(out, "{title}:")?;
            rollout(out, config, order)?;
        }
    }
    writeln!(out, "ContainerSpec:")?;
    writeln!(out, " Image:\t\t{}", text(template, "/ContainerSpec/Image"))?;
    let command = list(template, "/ContainerSpec/Command");
    if !command.is_empty() {
        writeln!(out, " Command:\t{}", words_of(command))?;
    }
    for (title, pointer) in [
        ("Args", "/ContainerSpec/Args"),
        ("Env", "/ContainerSpec/Env"),
    ] {
        let values = list(template, pointer);
        if !values.is_empty() {
            writeln!(out, " {title}:\t\t{}", words_of(values))?;
        }
    }
    for (title, pointer) in [
        ("Dir", "/ContainerSpec/Dir"),
        ("User", "/ContainerSpec/User"),
    ] {
        let value = text(template, pointer);
        if !value.is_empty() {
            writeln!(out, " {title}:\t\t{value}")?;
        }
    }
    container::container(out, &template["ContainerSpec"])?;
    writeln!(out, "Resources:")?;
    container::resources(out, &template["Resources"])?;
    if !networks.is_empty() {
        writeln!(out, "Networks: {}", networks.join(" "))?;
    }
    writeln!(
        out,
        "Endpoint Mode:\t{}",
        text(service, "/Spec/EndpointSpec/Mode")
    )?;
    if !options.is_empty() {
        writeln!(out, "Options:")?;
    }
    for (key, value) in options {
        let name = capital(&short(key).replace('-', " "));
        let value = value.as_str().unwrap_or_default();
        writeln!(out, " {:<18}{value}", format!("{name}:"))?;
    }
    let ranges = ports::ranges(list(service, "/Endpoint/Ports"));
    if !ranges.is_empty() {
        writeln!(out, "Ports:")?;
    }
    for range in ranges {
        let port = range.common();
        writeln!(out, " PublishedPort = {}", range.published())?;
        writeln!(out, "  Protocol = {}", port.protocol)?;
        writeln!(out, "  TargetPort = {}", range.target())?;
        writeln!(out, "  PublishMode = {}", port.mode.as_str())?;
        if let Some(ip) = port.host_ip {
            writeln!(out, "  HostIP = {ip}")?;
        }
    }
    for vip in list(service, "/Endpoint/VirtualIPs") {
        writeln!(out, "Virtual IP:\t{}", text(vip, "/Addr"))?;
    }
    Ok(())
}

fn restart(out: &mut String, policy: &Value) -> std::fmt::Result {
    let spell = |pointer: &str| {
        let seconds = number(policy, pointer) / 1_000_000_000;
        words::roughly(i64::try_from(seconds).unwrap_or(i64::MAX)).to_lowercase()
    };
    writeln!(out, "Restart Policy:")?;
    writeln!(out, " Condition:\t{}", capital(text(policy, "/Condition")))?;
    writeln!(out, " Delay:\t\t{}", spell("/Delay"))?;
    match number(policy, "/MaxAttempts") {
        0 => writeln!(out, " Max attempts:\tunlimited"),
        most => writeln!(out, " Max attempts:\t{most}"),
    }?;
    match number(policy, "/Window") {
        0 => Ok(()),
        _ => writeln!(out, " Window:\t{}", spell("/Window")),
    }
}

fn update_status(out: &mut String, status: &Value) -> std::fmt::Result {
    let ago = |pointer: &str| words::ago(text(status, pointer), Timestamp::now());
    writeln!(out, "UpdateStatus:\n State:\t\t{}", text(status, "/State"))?;
    for (title, pointer) in [("Started", "/StartedAt"), ("Completed", "/CompletedAt")] {
        if !text(status, pointer).is_empty() {
            writeln!(out, " {title}:\t{}", ago(pointer))?;
        }
    }
    writeln!(out, " Message:\t{}", text(status, "/Message"))
}

fn rollout(out: &mut String, config: &Value, order: &str) -> std::fmt::Result {
    let time = |pointer: &str| words::go_duration(number(config, pointer));
    writeln!(out, " Parallelism:\t{}", number(config, "/Parallelism"))?;
    if number(config, "/Delay") > 0 {
        writeln!(out, " Delay:\t\t{}", time("/Delay"))?;
    }
    writeln!(out, " On failure:\t{}", text(config, "/FailureAction"))?;
    writeln!(out, " Monitoring Period: {}", time("/Monitor"))?;
    let ratio = config.get("MaxFailureRatio").and_then(Value::as_f64);
    writeln!(out, " Max failure ratio: {}", ratio.unwrap_or(0.0))?;
    writeln!(out, " {order}{}", text(config, "/Order"))
}

fn words_of(values: &[Value]) -> String {
    let values = values
        .iter()
        .map(|value| value.as_str().unwrap_or_default());
    values.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    #[test]
    fn a_service_is_shown_for_people() {
        let vote = json!({
            "ID": "f5lxx1zz5pnorynqglhzmsp33",
            "Spec": {
                "Name": "vote",
                "Labels": {"ipvsmesh.runtime": "process", "ipvsmesh.scheduler": "wrr", "ipvsmesh.connection-limit": "100:80"},
                "Mode": {"Replicated": {"Replicas": 3}},
                "TaskTemplate": {
                    "ContainerSpec": {"Image": "whoami", "Command": ["whoami"], "Args": ["--port", "80"], "Env": []},
                    "RestartPolicy": {"Condition": "any", "Delay": 5_000_000_000_u64, "MaxAttempts": 0, "Window": 0},
                },
                "EndpointSpec": {"Mode": "vip"},
                "UpdateConfig": {"Parallelism": 2, "Delay": 90_000_000_000_u64, "FailureAction": "rollback",
                    "Monitor": 5_000_000_000_u64, "MaxFailureRatio": 0.1, "Order": "start-first"},
                "RollbackConfig": {"Parallelism": 0, "Delay": 0, "FailureAction": "pause",
                    "Monitor": 500_000_000_u64, "MaxFailureRatio": 0.0, "Order": "stop-first"},
            },
            "UpdateStatus": {"State": "paused", "StartedAt": "no time", "Message": "update paused"},
            "Endpoint": {
                "Ports": [
                    {"Protocol": "tcp", "TargetPort": 80, "PublishedPort": 8080, "PublishMode": "ingress"},
                    {"Protocol": "udp", "TargetPort": 9001, "PublishedPort": 8001, "PublishMode": "ingress", "HostIP": "::1"},
                    {"Protocol": "udp", "TargetPort": 9000, "PublishedPort": 8000, "PublishMode": "ingress", "HostIP": "::1"},
                ],
                "VirtualIPs": [{"Addr": "10.200.0.2/20"}],
            },
        });
        let expected = "
ID:\t\tf5lxx1zz5pnorynqglhzmsp33
Name:\t\tvote
Labels:
 ipvsmesh.runtime=process
Service Mode:\tReplicated
 Replicas:\t3
UpdateStatus:
 State:\t\tpaused
 Started:\t
 Message:\tupdate paused
Placement:
Restart Policy:
 Condition:\tAny
 Delay:\t\t5 seconds
 Max attempts:\tunlimited
UpdateConfig:
 Parallelism:\t2
 Delay:\t\t1m30s
 On failure:\trollback
 Monitoring Period: 5s
 Max failure ratio: 0.1
 Update order:      start-first
RollbackConfig:
 Parallelism:\t0
 On failure:\tpause
 Monitoring Period: 500ms
 Max failure ratio: 0
 Rollback order:    stop-first
ContainerSpec:
 Image:\t\twhoami
 Command:\twhoami
 Args:\t\t--port 80
Resources:
Networks: back
Endpoint Mode:\tvip
Options:
 Connection limit: 100:80
 Scheduler:        wrr
Ports:
 PublishedPort = 8080
  Protocol = tcp
  TargetPort = 80
  PublishMode = ingress
 PublishedPort = 8000-8001
  Protocol = udp
  TargetPort = 9000-9001
  PublishMode = ingress
  HostIP = ::1
Virtual IP:\t10.200.0.2/20
";
        assert_eq!(super::service(&vote, &["back".to_owned()]), expected);
    }
}
