//! Configs and secrets, and the files that tasks get of them
//! (<https://docs.docker.com/reference/api/engine/> "ConfigCreate", "SecretCreate").

use bollard::models::{
    ConfigSpec, SecretSpec, TaskSpecContainerSpecConfigs, TaskSpecContainerSpecSecrets,
};
use model::{BlobKind, BlobSpec, FileRef, Octets, State};
use serde_json::Value;

use super::{labels, only, typed};
use crate::ApiError;

/// A config's or a secret's spec, of `create` and of `update`.
pub(crate) fn blob(kind: BlobKind, raw: &Value) -> Result<BlobSpec, ApiError> {
    // drivers of secrets and of templates are nobody's here
    only(raw, "", &["Name", "Labels", "Data"])?;
    let (name, own, data) = match kind {
        BlobKind::Config => {
            let docker: ConfigSpec = typed(raw)?;
            (docker.name, docker.labels, docker.data)
        }
        BlobKind::Secret => {
            let docker: SecretSpec = typed(raw)?;
            (docker.name, docker.labels, docker.data)
        }
    };
    // not what is in it, which may be secret
    let data = Octets::from_base64(&data.unwrap_or_default())
        .ok_or_else(|| ApiError::invalid("Data: it is not base64"))?;
    Ok(BlobSpec {
        name: name.unwrap_or_default(),
        labels: labels(own, &[])?,
        data,
    })
}

/// What both kinds of references say.
struct Reference {
    id: Option<String>,
    name: Option<String>,
    file: Option<File>,
}

struct File {
    name: Option<String>,
    uid: Option<String>,
    gid: Option<String>,
    mode: Option<u32>,
}

/// The files that tasks get.
pub(super) fn files(
    configs: Option<Vec<TaskSpecContainerSpecConfigs>>,
    secrets: Option<Vec<TaskSpecContainerSpecSecrets>>,
    state: &State,
) -> Result<Vec<FileRef>, ApiError> {
    let configs = configs.unwrap_or_default().into_iter().map(|config| {
        let file = config.file.map(|file| File {
            name: file.name,
            uid: file.uid,
            gid: file.gid,
            mode: file.mode,
        });
        let (id, name) = (config.config_id, config.config_name);
        (BlobKind::Config, Reference { id, name, file })
    });
    let secrets = secrets.unwrap_or_default().into_iter().map(|secret| {
        let file = secret.file.map(|file| File {
            name: file.name,
            uid: file.uid,
            gid: file.gid,
            mode: file.mode,
        });
        let (id, name) = (secret.secret_id, secret.secret_name);
        (BlobKind::Secret, Reference { id, name, file })
    });
    let all = configs.enumerate().chain(secrets.enumerate());
    all.map(|(n, (kind, reference))| file(n, kind, reference, state))
        .collect()
}

fn file(n: usize, kind: BlobKind, docker: Reference, state: &State) -> Result<FileRef, ApiError> {
    let (list, word) = match kind {
        BlobKind::Config => ("Configs", "Config"),
        BlobKind::Secret => ("Secrets", "Secret"),
    };
    let at = |key: &str| format!("TaskTemplate.ContainerSpec.{list}[{n}].{key}");
    let given = |text: Option<String>| text.filter(|text| !text.is_empty());
    let (id, name) = (given(docker.id), given(docker.name));
    let Some(wanted) = id.as_ref().or(name.as_ref()) else {
        let key = at(&format!("{word}ID"));
        return Err(ApiError::invalid(format!("{key}: name a {kind}")));
    };
    let found = state.find_blob(kind, wanted);
    let found = found.filter(|found| name.as_ref().is_none_or(|name| *name == found.spec.name));
    let found = found.ok_or_else(|| {
        let known = state.blobs.values().filter(|blob| blob.kind == kind);
        let name = name.as_ref().unwrap_or(wanted);
        ApiError::not_found(kind.as_str(), name)
            .or_meant(name, known.map(|blob| blob.spec.name.as_str()))
    })?;
    let file = docker
        .file
        .ok_or_else(|| ApiError::invalid(format!("{}: say where it is to be", at("File"))))?;
    let number = |text: Option<String>, key: &str| match given(text) {
        None => Ok(0),
        Some(text) => text.parse().map_err(|_| {
            ApiError::invalid(format!(
                "{}: {text:?} is not a number",
                at(&format!("File.{key}"))
            ))
        }),
    };
    Ok(FileRef {
        kind,
        blob: found.id.clone(),
        name: found.spec.name.clone(),
        target: given(file.name).unwrap_or_else(|| found.spec.name.clone()),
        uid: number(file.uid, "UID")?,
        gid: number(file.gid, "GID")?,
        mode: file.mode.unwrap_or(FileRef::MODE),
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use jiff::Timestamp;
    use model::{Blob, BlobId, Object, Revision};
    use serde_json::json;

    use super::*;
    use crate::show;

    fn state() -> State {
        let mut state = State::default();
        for (n, kind) in [(1, BlobKind::Config), (2, BlobKind::Secret)] {
            let spec = BlobSpec {
                name: "key".to_owned(),
                labels: BTreeMap::new(),
                data: b"hush".to_vec().into(),
            };
            let blob = Blob {
                id: BlobId::from_random([n; 16]),
                kind,
                spec,
                created: Timestamp::UNIX_EPOCH,
                updated: Timestamp::UNIX_EPOCH,
            };
            state.put(Revision(1), Object::Blob(blob));
        }
        state
    }

    #[test]
    fn what_is_not_ours_to_do_is_refused_by_name() {
        let made = json!({"Name": "a", "Labels": {"b": "c"}, "Data": "aHVzaA=="});
        for kind in [BlobKind::Config, BlobKind::Secret] {
            let spec = blob(kind, &made).unwrap();
            assert_eq!(
                (spec.name.as_str(), spec.data.as_bytes()),
                ("a", &b"hush"[..])
            );
            for (key, value) in [
                ("Templating", json!({"Name": "golang"})),
                ("Driver", json!({"Name": "vault"})),
                ("Colour", json!("red")),
                ("Data", json!("hush, hush")),
            ] {
                let mut raw = made.clone();
                raw[key] = value;
                let error = blob(kind, &raw).unwrap_err().message;
                assert!(error.contains(key) && !error.contains("hush"), "{error}");
            }
        }
    }

    /// A service's `ContainerSpec` with these references.
    fn container(lists: &Value) -> Value {
        let mut container = json!({"Image": "web"});
        for (key, list) in lists.as_object().unwrap() {
            container[key] = list.clone();
        }
        json!({"Name": "web", "TaskTemplate": {"ContainerSpec": container}})
    }

    #[test]
    fn references_are_files_and_shown_as_they_came() {
        let (state, id) = (state(), BlobId::from_random([1; 16]));
        // what docker's stack deploy sends
        let file = json!({"Name": "cfg1", "UID": "7", "GID": "8", "Mode": 0o440});
        let config = json!({"File": file, "ConfigID": id, "ConfigName": "key"});
        let secret = json!({"File": {"Name": "k"}, "SecretName": "key"});
        let raw = container(&json!({"Configs": [config], "Secrets": [secret]}));
        let spec = super::super::service(&raw, &state).unwrap();
        let files = spec.task.runtime.files();
        assert_eq!(files[0].path(), "/cfg1");
        assert_eq!((files[0].uid, files[0].gid, files[0].mode), (7, 8, 0o440));
        assert_eq!(files[1].path(), "/run/secrets/k");
        assert_eq!(files[1].mode, 0o444);
        let model::RuntimeSpec::Docker(spec) = &spec.task.runtime else {
            panic!("it is a container");
        };
        let shown = show::container::container(spec);
        assert_eq!(shown["Configs"], json!([config]));
        assert_eq!(shown["Secrets"][0]["SecretID"], json!(files[1].blob));
    }

    #[test]
    fn references_to_nothing_are_named() {
        let (state, other) = (state(), BlobId::from_random([2; 16]));
        for (lists, word) in [
            (
                json!({"Configs": [{"ConfigName": "keys"}]}),
                "did you mean key",
            ),
            (json!({"Configs": [{"ConfigID": other}]}), "not found"),
            (
                json!({"Secrets": [{"SecretID": other, "SecretName": "x"}]}),
                "not found",
            ),
            (
                json!({"Secrets": [{"SecretName": "key"}]}),
                "Secrets[0].File",
            ),
            (
                json!({"Configs": [{"File": {"Name": "a"}}]}),
                "Configs[0].ConfigID",
            ),
            (
                json!({"Secrets": [{"SecretName": "key", "File": {"UID": "web"}}]}),
                "Secrets[0].File.UID",
            ),
            (
                json!({"Configs": [{"ConfigName": "key", "Runtime": {}}]}),
                "Configs[0].Runtime",
            ),
        ] {
            let error = super::super::service(&container(&lists), &state).unwrap_err();
            assert!(error.message.contains(word), "{}", error.message);
        }
    }
}
