//! What a container may be asked to be. What only an engine can know, such as
//! whether an image exists, its tasks say.

use std::collections::BTreeSet;

use model::ContainerSpec;

use super::Refusal;

/// Refuses what no engine would make.
pub(super) fn check(spec: &ContainerSpec) -> Result<(), Refusal> {
    let no = |why: String| Err(Refusal::Invalid(why));
    if !is_image(&spec.image) {
        return no(format!(
            "image {:?} is not valid: use [REGISTRY/]NAME[:TAG], with NAME in lower case",
            spec.image
        ));
    }
    if let Some(bad) = spec
        .env
        .iter()
        .find(|e| e.is_empty() || e.starts_with('=') || e.contains('\0'))
    {
        return no(format!("environment {bad:?} is not KEY=VALUE"));
    }
    if let Some(dir) = spec.dir.as_ref().filter(|dir| !dir.starts_with('/')) {
        return no(format!(
            "working directory {dir:?} is not valid: give an absolute path"
        ));
    }
    if let Some(name) = spec.hostname.as_ref().filter(|name| !is_hostname(name)) {
        return no(format!(
            "host name {name:?} is not valid: use up to 63 letters, digits, - and ."
        ));
    }
    let mut targets = BTreeSet::new();
    match spec.mounts.iter().find(|m| !targets.insert(&m.target)) {
        Some(twice) => no(format!("two mounts at {}: remove one", twice.target)),
        None => Ok(()),
    }
}

/// Roughly <https://github.com/distribution/reference>: the engine knows better.
fn is_image(image: &str) -> bool {
    let (name, digest) = image.split_once('@').unwrap_or((image, "a:b"));
    let last = name.rsplit('/').next().unwrap_or(name);
    let (path, tag) = match last.split_once(':') {
        Some((_, tag)) => (&name[..name.len() - tag.len() - 1], tag),
        None => (name, "latest"),
    };
    // the registry may have upper case and a port
    let own = path.split('/').next_back().unwrap_or(path);
    let word = |text: &str, more: &str| {
        let begins = text.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_');
        begins
            && text
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || more.contains(c))
    };
    path.split('/').all(|part| word(part, "._-:"))
        && !own.chars().any(|c| c.is_ascii_uppercase())
        && word(tag, "._-")
        && digest.contains(':')
}

fn is_hostname(name: &str) -> bool {
    (1..=63).contains(&name.len())
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "-._".contains(c))
}

#[cfg(test)]
mod tests {
    use model::{Mount, MountKind};

    use super::*;

    fn spec(image: &str) -> ContainerSpec {
        ContainerSpec {
            image: image.to_owned(),
            ..ContainerSpec::default()
        }
    }

    #[test]
    fn images_have_their_form() {
        let digest = "web@sha256:0123456789abcdef";
        for good in [
            "web",
            "web:1.2-x",
            "a/b_c",
            "Reg.example:5000/a/b:T",
            digest,
        ] {
            assert!(check(&spec(good)).is_ok(), "{good}");
        }
        for bad in [
            "", "Web", "web:", "web: 1", "a//b", "/web", "-web", "web@x", "we b",
        ] {
            let error = check(&spec(bad)).unwrap_err().to_string();
            assert!(error.contains("lower case"), "{bad}: {error}");
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        let tmpfs = |target: &str| Mount {
            target: target.to_owned(),
            read_only: false,
            kind: MountKind::Tmpfs { size: 0, mode: 0 },
        };
        for (change, word) in [
            (
                ContainerSpec {
                    env: vec!["=x".to_owned()],
                    ..spec("web")
                },
                "KEY=VALUE",
            ),
            (
                ContainerSpec {
                    dir: Some("srv".to_owned()),
                    ..spec("web")
                },
                "absolute",
            ),
            (
                ContainerSpec {
                    hostname: Some("a b".to_owned()),
                    ..spec("web")
                },
                "host name",
            ),
            (
                ContainerSpec {
                    mounts: vec![tmpfs("/a"), tmpfs("/b"), tmpfs("/a")],
                    ..spec("web")
                },
                "two mounts at /a",
            ),
        ] {
            let error = check(&change).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
    }
}
