//! Configs and secrets: what may be one, who may have it as a file, and that nobody
//! loses one that is needed. Rules and words are SwarmKit's (`manager/controlapi`).

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use model::{
    Blob, BlobId, BlobKind, BlobSpec, DesiredState, FileRef, Key, Object, Resource, Revision,
    RuntimeSpec, ServiceSpec, State, Transaction, Versioned,
};

use super::{Context, Refusal};
use crate::allocate::{Allocator, give_back};

/// A name has so many characters at most.
const LONGEST_NAME: usize = 64;
/// Bits that permissions have.
const MODES: u32 = 0o7777;

/// Makes a config or a secret.
///
/// # Errors
/// Its name is taken or none, or it holds nothing or too much.
pub fn create_blob(
    state: &State,
    kind: BlobKind,
    spec: BlobSpec,
    context: &mut Context<'_>,
) -> Result<(BlobId, Transaction), Refusal> {
    if !is_name(&spec.name) {
        return Err(Refusal::Invalid(
            "invalid name, only 64 [a-zA-Z0-9-_.] characters allowed, and the start and end character must be [a-zA-Z0-9]"
                .to_owned(),
        ));
    }
    let (size, largest) = (spec.data.as_bytes().len(), kind.largest());
    if size == 0 || size > largest {
        return Err(Refusal::Invalid(format!(
            "{kind} data must be larger than 0 and less than {largest} bytes"
        )));
    }
    let mut tx = Transaction::default();
    let mut allocator = Allocator::new(state, context.now);
    let name = Resource::BlobName(kind, spec.name.to_ascii_lowercase());
    if let Some(owner) = allocator.owner(&name) {
        return Err(Refusal::NameTaken {
            what: kind.as_str(),
            id: owner.to_owned(),
            name: spec.name,
        });
    }
    let id = BlobId::from_random((context.random)());
    allocator.claim(&mut tx, &name, id.as_str());
    tx.create(Object::Blob(Blob {
        id: id.clone(),
        kind,
        spec,
        created: context.now,
        updated: context.now,
    }));
    Ok((id, tx))
}

/// Gives a config or a secret other labels.
///
/// # Errors
/// There is none, or somebody changed it since this version.
pub fn label_blob(
    state: &State,
    id: &BlobId,
    version: Revision,
    labels: BTreeMap<String, String>,
    now: Timestamp,
) -> Result<Transaction, Refusal> {
    let blob = find(state, id)?;
    if blob.version != version {
        return Err(Refusal::Invalid(format!(
            "update out of sequence: {} {} is at version {}, not {version}; look at it again",
            blob.kind, blob.spec.name, blob.version
        )));
    }
    let mut tx = Transaction::default();
    if blob.spec.labels == labels {
        return Ok(tx);
    }
    let mut changed = Blob::clone(blob);
    (changed.spec.labels, changed.updated) = (labels, now);
    tx.replace(version, Object::Blob(changed));
    Ok(tx)
}

/// Removes a config or a secret.
///
/// # Errors
/// There is none, or a service needs it.
pub fn remove_blob(state: &State, id: &BlobId, now: Timestamp) -> Result<Transaction, Refusal> {
    let blob = find(state, id)?;
    let has = |runtime: &RuntimeSpec| runtime.files().iter().any(|file| file.blob == *id);
    let services = state.services.values();
    let services = services.filter(|service| has(&service.spec.task.runtime));
    let mut users: BTreeSet<_> = services.map(|s| s.spec.name.to_string()).collect();
    // those of a spec before it may be started again
    let tasks = state.tasks.values().filter(|task| {
        task.desired == DesiredState::Running
            && state.services.contains_key(&task.service)
            && has(&task.spec.runtime)
    });
    users.extend(tasks.map(|task| task.service_name.to_string()));
    if !users.is_empty() {
        let plural = if users.len() > 1 { "s" } else { "" };
        let users: Vec<_> = users.into_iter().collect();
        return Err(Refusal::Invalid(format!(
            "{} '{}' is in use by the following service{plural}: {}",
            blob.kind,
            blob.spec.name,
            users.join(", ")
        )));
    }
    let mut tx = Transaction::default();
    tx.delete(blob.version, Key::Blob(id.clone()));
    let name = Resource::BlobName(blob.kind, blob.spec.name.to_ascii_lowercase());
    give_back(state, &mut tx, &name, id.as_str(), now);
    Ok(tx)
}

fn find<'a>(state: &'a State, id: &BlobId) -> Result<&'a Versioned<Blob>, Refusal> {
    state.blobs.get(id).ok_or_else(|| Refusal::NotFound {
        what: "config or secret",
        name: id.to_string(),
    })
}

/// `[a-zA-Z0-9]+(?:[a-zA-Z0-9-_.]*[a-zA-Z0-9])?`
fn is_name(name: &str) -> bool {
    let ends = |c: char| c.is_ascii_alphanumeric();
    let all = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    name.starts_with(ends)
        && name.ends_with(ends)
        && name.chars().all(all)
        && name.len() <= LONGEST_NAME
}

/// Whether tasks of this spec can have the files that it names.
pub(super) fn check(state: &State, runtime: &RuntimeSpec) -> Result<(), Refusal> {
    let mut targets: BTreeMap<String, &FileRef> = BTreeMap::new();
    for file in runtime.files() {
        let (kind, name, target) = (file.kind, &file.name, &file.target);
        let known = state.blobs.get(&file.blob);
        if known.is_none_or(|blob| blob.kind != kind || blob.spec.name != *name) {
            return Err(Refusal::NotFound {
                what: kind.as_str(),
                name: name.clone(),
            });
        }
        let parts = || target.split('/').skip(usize::from(target.starts_with('/')));
        if parts().any(|part| matches!(part, "" | "." | "..")) || target.contains(['\0', ':']) {
            return Err(Refusal::Invalid(format!(
                "target {target:?} of {kind} {name} is not valid: use a path without . and .., and without a colon"
            )));
        }
        let path = match runtime {
            RuntimeSpec::Docker(_) => file.path(),
            RuntimeSpec::Process(_) => file.process_path(),
            // they have no files at all
            RuntimeSpec::Static | RuntimeSpec::Adopted { .. } => continue,
        };
        if matches!(runtime, RuntimeSpec::Process(_)) && !path.starts_with(kind.process_directory())
        {
            return Err(Refusal::Invalid(format!(
                "target {target:?} of {kind} {name}: a process has the host's files, so its {kind}s are in {}: use a relative target",
                kind.process_directory()
            )));
        }
        if file.mode > MODES {
            return Err(Refusal::Invalid(format!(
                "mode {:o} of {kind} {name} is not valid: use an octal number such as 0444",
                file.mode
            )));
        }
        if let Some(other) = targets.insert(path, file) {
            return Err(Refusal::Invalid(format!(
                "'{}' and '{name}' have a conflicting target: '{target}'",
                other.name
            )));
        }
    }
    Ok(())
}

/// Files must still be there when the transaction is made. Those that the service newly
/// has are written, so that a removal which did not see it fails.
pub(super) fn expect(
    state: &State,
    tx: &mut Transaction,
    spec: &ServiceSpec,
    before: Option<&ServiceSpec>,
) {
    let had: BTreeSet<_> = before.into_iter().flat_map(ids).collect();
    for id in ids(spec).into_iter().collect::<BTreeSet<_>>() {
        let Some(blob) = state.blobs.get(id) else {
            continue;
        };
        if had.contains(id) {
            tx.expect.push(model::Expect {
                key: Key::Blob(id.clone()),
                version: Some(blob.version),
            });
        } else {
            tx.replace(blob.version, Object::Blob(Blob::clone(blob)));
        }
    }
}

fn ids(spec: &ServiceSpec) -> Vec<&BlobId> {
    let files = spec.task.runtime.files().iter();
    files.map(|file| &file.blob).collect()
}

#[cfg(test)]
mod tests;
