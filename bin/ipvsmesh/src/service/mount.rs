//! `--mount`, in docker's form
//! (<https://docs.docker.com/engine/swarm/services/#data-volumes>).

use serde_json::{Value, json};

use crate::units;

/// One `--mount` as the API has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mount(pub(super) Value);

/// Reads `type=bind,source=/srv,target=/data,readonly`.
pub(super) fn mount(text: &str) -> Result<Mount, String> {
    let mut mount = json!({"Type": "volume"});
    for field in text.split(',').map(str::trim) {
        let (key, value) = match field.split_once('=') {
            Some((key, value)) => (key, Some(value)),
            None => (field, None),
        };
        let key = key.to_ascii_lowercase();
        let given = || match value {
            Some(value) if !value.is_empty() => Ok(value),
            _ => Err(format!("{key} needs a value")),
        };
        let on = match value {
            None | Some("true" | "1") => Ok(true),
            Some("false" | "0") => Ok(false),
            Some(_) => Err(format!("use {key}=true or {key}=false")),
        };
        match key.as_str() {
            "type" => match given()? {
                kind @ ("bind" | "volume" | "tmpfs") => mount["Type"] = json!(kind),
                _ => return Err("use type=bind, volume or tmpfs".to_owned()),
            },
            "source" | "src" => mount["Source"] = json!(given()?),
            "target" | "dst" | "destination" => mount["Target"] = json!(given()?),
            "readonly" | "ro" => mount["ReadOnly"] = json!(on?),
            "bind-propagation" => mount["BindOptions"]["Propagation"] = json!(given()?),
            "bind-nonrecursive" => mount["BindOptions"]["NonRecursive"] = json!(on?),
            "volume-nocopy" => mount["VolumeOptions"]["NoCopy"] = json!(on?),
            "volume-driver" => mount["VolumeOptions"]["DriverConfig"]["Name"] = json!(given()?),
            "volume-label" | "volume-opt" => {
                let (name, value) = given()?.split_once('=').unwrap_or((given()?, ""));
                let options = &mut mount["VolumeOptions"];
                match key.as_str() {
                    "volume-label" => options["Labels"][name] = json!(value),
                    _ => options["DriverConfig"]["Options"][name] = json!(value),
                }
            }
            "tmpfs-size" => mount["TmpfsOptions"]["SizeBytes"] = json!(units::octets(given()?)?),
            "tmpfs-mode" => {
                let mode = u32::from_str_radix(given()?, 8);
                let mode = mode.map_err(|_| "use tmpfs-mode=1777, an octal number".to_owned())?;
                mount["TmpfsOptions"]["Mode"] = json!(mode);
            }
            "" => return Err("use type=...,source=...,target=...".to_owned()),
            _ => return Err(format!("{key} is not known")),
        }
    }
    if mount["Target"].is_null() {
        return Err("target is missing".to_owned());
    }
    let kind = mount["Type"].as_str().unwrap_or_default().to_owned();
    if kind == "bind" && mount["Source"].is_null() {
        return Err("source is missing".to_owned());
    }
    if kind == "tmpfs" && !mount["Source"].is_null() {
        return Err("a tmpfs has no source".to_owned());
    }
    for (of, key) in [
        ("bind", "BindOptions"),
        ("volume", "VolumeOptions"),
        ("tmpfs", "TmpfsOptions"),
    ] {
        if kind != of && !mount[key].is_null() {
            return Err(format!("options {of}-... are not for type={kind}"));
        }
    }
    // asking for a key puts it there
    if let Some(map) = mount.as_object_mut() {
        map.retain(|_, value| !value.is_null());
    }
    Ok(Mount(mount))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_read_as_docker_does() {
        for (text, expected) in [
            (
                "type=bind,source=/srv,target=/data,readonly,bind-propagation=rslave",
                json!({
                    "Type": "bind", "Source": "/srv", "Target": "/data", "ReadOnly": true,
                    "BindOptions": {"Propagation": "rslave"},
                }),
            ),
            (
                "src=v,dst=/v,volume-driver=local,volume-opt=o=size=1m,volume-label=a=b,volume-nocopy",
                json!({
                    "Type": "volume", "Source": "v", "Target": "/v",
                    "VolumeOptions": {
                        "DriverConfig": {"Name": "local", "Options": {"o": "size=1m"}},
                        "Labels": {"a": "b"}, "NoCopy": true,
                    },
                }),
            ),
            (
                "type=tmpfs,target=/t,tmpfs-size=64m,tmpfs-mode=1770",
                json!({
                    "Type": "tmpfs", "Target": "/t",
                    "TmpfsOptions": {"SizeBytes": 64 << 20, "Mode": 0o1770},
                }),
            ),
            (
                "target=/anonymous",
                json!({"Type": "volume", "Target": "/anonymous"}),
            ),
        ] {
            assert_eq!(mount(text), Ok(Mount(expected)), "{text}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_said() {
        for (text, word) in [
            ("", "type=..."),
            ("type=bind,target=/x", "source"),
            ("type=volume,source=v", "target"),
            ("type=npipe,target=/x", "tmpfs"),
            ("type=tmpfs,source=x,target=/x", "no source"),
            ("type=bind,source=/x,target=/x,tmpfs-size=1m", "tmpfs-..."),
            (
                "type=bind,source=/x,target=/x,readonly=maybe",
                "readonly=true",
            ),
            ("target=/x,color=red", "color"),
            ("target=", "value"),
        ] {
            let error = mount(text).unwrap_err();
            assert!(error.contains(word), "{text}: {error}");
        }
    }
}
