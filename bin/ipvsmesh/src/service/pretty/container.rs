//! What `service inspect --pretty` says of containers.

use std::fmt::Write as _;

use serde_json::Value;

use crate::{
    output::{list, number, text},
    units, words,
};

/// Lines of the `ContainerSpec` that only containers have.
pub(super) fn container(out: &mut String, spec: &Value) -> std::fmt::Result {
    if let Some(init) = spec.get("Init").and_then(Value::as_bool) {
        writeln!(out, " Init:\t\t{init}")?;
    }
    let hostname = text(spec, "/Hostname");
    if !hostname.is_empty() {
        writeln!(out, " Hostname:\t{hostname}")?;
    }
    let mounts = list(spec, "/Mounts");
    if !mounts.is_empty() {
        writeln!(out, " Mounts:")?;
    }
    for mount in mounts {
        writeln!(out, "  Target:\t{}", text(mount, "/Target"))?;
        writeln!(out, "   Source:\t{}", text(mount, "/Source"))?;
        let read_only = mount.get("ReadOnly").and_then(Value::as_bool);
        writeln!(out, "   ReadOnly:\t{}", read_only.unwrap_or(false))?;
        writeln!(out, "   Type:\t{}", text(mount, "/Type"))?;
    }
    health(out, &spec["Healthcheck"])
}

fn health(out: &mut String, check: &Value) -> std::fmt::Result {
    if !check.is_object() {
        return Ok(());
    }
    let test: Vec<_> = list(check, "/Test")
        .iter()
        .filter_map(Value::as_str)
        .collect();
    writeln!(out, " Healthcheck:")?;
    writeln!(out, "  Test:\t\t{}", test.join(" "))?;
    for (title, pointer) in [("Interval", "/Interval"), ("Timeout", "/Timeout")] {
        let seconds = number(check, pointer) / 1_000_000_000;
        if seconds > 0 {
            let spelled = words::roughly(i64::try_from(seconds).unwrap_or(i64::MAX));
            writeln!(out, "  {title}:\t{}", spelled.to_lowercase())?;
        }
    }
    match number(check, "/Retries") {
        0 => Ok(()),
        retries => writeln!(out, "  Retries:\t{retries}"),
    }
}

/// The lines below `Resources:`.
pub(super) fn resources(out: &mut String, resources: &Value) -> std::fmt::Result {
    for title in ["Reservations", "Limits"] {
        let part = &resources[title];
        let (cpus, memory) = (number(part, "/NanoCPUs"), number(part, "/MemoryBytes"));
        if cpus == 0 && memory == 0 {
            continue;
        }
        writeln!(out, " {title}:")?;
        if cpus > 0 {
            let (whole, part) = (cpus / 1_000_000_000, cpus % 1_000_000_000);
            let part = format!("{part:09}");
            let spelled = format!("{whole}.{}", part.trim_end_matches('0'));
            writeln!(out, "  CPU:\t\t{}", spelled.trim_end_matches('.'))?;
        }
        if memory > 0 {
            writeln!(out, "  Memory:\t{}", units::spelled(memory))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn containers_are_shown_as_docker_does() {
        let mut out = String::new();
        container(
            &mut out,
            &json!({
                "Image": "web", "Init": false,
                "Mounts": [{"Type": "bind", "Source": "/srv", "Target": "/data", "ReadOnly": true}],
                "Healthcheck": {"Test": ["CMD-SHELL", "true"], "Interval": 5_000_000_000_u64, "Retries": 3},
            }),
        )
        .unwrap();
        let expected = " Init:\t\tfalse
 Mounts:
  Target:\t/data
   Source:\t/srv
   ReadOnly:\ttrue
   Type:\tbind
 Healthcheck:
  Test:\t\tCMD-SHELL true
  Interval:\t5 seconds
  Retries:\t3
";
        assert_eq!(out, expected);
        out.clear();
        let limits = json!({"Limits": {"NanoCPUs": 1_500_000_000, "MemoryBytes": 64 << 20}});
        resources(&mut out, &limits).unwrap();
        assert_eq!(out, " Limits:\n  CPU:\t\t1.5\n  Memory:\t64MiB\n");
    }
}
