//! Configs and secrets as Docker's JSON, and the files that tasks get of them.

use model::{Blob, BlobKind, FileRef, Versioned};
use serde_json::{Value, json};

/// `Config` or `Secret` of the Engine API. What is in a secret is never given back.
pub(crate) fn blob(blob: &Versioned<Blob>) -> Value {
    let mut shown = json!({
        "ID": blob.id,
        "Version": {"Index": blob.version.0},
        "CreatedAt": blob.created,
        "UpdatedAt": blob.updated,
        "Spec": {"Name": blob.spec.name, "Labels": blob.spec.labels},
    });
    if blob.kind == BlobKind::Config {
        shown["Spec"]["Data"] = json!(blob.spec.data);
    }
    shown
}

/// `Configs` or `Secrets` of a `ContainerSpec`.
pub(super) fn files(files: &[FileRef], kind: BlobKind) -> Vec<Value> {
    let word = match kind {
        BlobKind::Config => "Config",
        BlobKind::Secret => "Secret",
    };
    let of = files.iter().filter(|file| file.kind == kind);
    of.map(|file| {
        json!({
            "File": {
                "Name": file.target,
                "UID": file.uid.to_string(),
                "GID": file.gid.to_string(),
                "Mode": file.mode,
            },
            format!("{word}ID"): file.blob,
            format!("{word}Name"): file.name,
        })
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use bollard::models;
    use jiff::Timestamp;
    use model::{BlobId, BlobSpec, Revision};

    use super::{super::tests::is_dockers, *};

    #[test]
    fn they_are_dockers_and_secrets_stay_secret() {
        let one = |kind| {
            let spec = BlobSpec {
                name: "a".to_owned(),
                labels: BTreeMap::from([("b".to_owned(), "c".to_owned())]),
                data: b"hush".to_vec().into(),
            };
            blob(&Versioned::new(
                Revision(7),
                Blob {
                    id: BlobId::FIRST,
                    kind,
                    spec,
                    created: Timestamp::UNIX_EPOCH,
                    updated: Timestamp::UNIX_EPOCH,
                },
            ))
        };
        let config = one(BlobKind::Config);
        is_dockers::<models::Config>(&config);
        assert_eq!(config["Spec"]["Data"], "aHVzaA==");
        let secret = one(BlobKind::Secret);
        is_dockers::<models::Secret>(&secret);
        assert_eq!(secret["Spec"].get("Data"), None);
    }
}
