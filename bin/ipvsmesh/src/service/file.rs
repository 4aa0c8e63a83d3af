//! `--config` and `--secret`, in docker's form
//! (<https://docs.docker.com/reference/cli/docker/service/create/#secret>).

use model::{BlobKind, FileRef};
use serde_json::{Value, json};

/// One `--config` or `--secret` as the API has it; the daemon finds it by its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FileFlag(pub(super) Value);

/// Reads a `--config`.
pub(super) fn config(text: &str) -> Result<FileFlag, String> {
    file(BlobKind::Config, text)
}

/// Reads a `--secret`.
pub(super) fn secret(text: &str) -> Result<FileFlag, String> {
    file(BlobKind::Secret, text)
}

/// The list in a `ContainerSpec`, and the key of a name in its items.
pub(super) fn keys(kind: BlobKind) -> (&'static str, &'static str) {
    match kind {
        BlobKind::Config => ("Configs", "ConfigName"),
        BlobKind::Secret => ("Secrets", "SecretName"),
    }
}

/// `NAME`, or `source=NAME,target=PATH,uid=0,gid=0,mode=0444`
fn file(kind: BlobKind, text: &str) -> Result<FileFlag, String> {
    let (mut source, mut target) = (String::new(), String::new());
    let (mut uid, mut gid, mut mode) = ("0".to_owned(), "0".to_owned(), FileRef::MODE);
    if !text.contains(['=', ',']) {
        source = text.to_owned();
    } else {
        for field in text.split(',') {
            let (key, value) = field
                .split_once('=')
                .ok_or_else(|| format!("{field:?}: use source=NAME,target=PATH"))?;
            let number = || match value.parse::<u32>() {
                Ok(_) => Ok(value.to_owned()),
                Err(_) => Err(format!("{key} is a number")),
            };
            match key.to_ascii_lowercase().as_str() {
                "source" | "src" => source = value.to_owned(),
                "target" => target = value.to_owned(),
                "uid" => uid = number()?,
                "gid" => gid = number()?,
                "mode" => {
                    let digits = value.strip_prefix("0o").unwrap_or(value);
                    let read = u32::from_str_radix(digits, 8).ok().filter(|m| *m <= 0o7777);
                    mode = read.ok_or("use mode=0444, an octal number")?;
                }
                _ => {
                    return Err(format!(
                        "{key} is not known: use source, target, uid, gid, mode"
                    ));
                }
            }
        }
    }
    if source.is_empty() {
        return Err("source is missing".to_owned());
    }
    if target.is_empty() {
        target.clone_from(&source);
    }
    let (_, name) = keys(kind);
    Ok(FileFlag(json!({
        "File": {"Name": target, "UID": uid, "GID": gid, "Mode": mode},
        name: source,
    })))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_read_as_docker_does() {
        let short = json!({
            "File": {"Name": "key", "UID": "0", "GID": "0", "Mode": 0o444}, "SecretName": "key",
        });
        assert_eq!(secret("key"), Ok(FileFlag(short)));
        let long = json!({
            "File": {"Name": "/etc/x", "UID": "7", "GID": "8", "Mode": 0o400}, "ConfigName": "x",
        });
        let text = "source=x,target=/etc/x,uid=7,gid=8,mode=0400";
        assert_eq!(config(text), Ok(FileFlag(long)));
        for (bad, word) in [
            ("", "source is missing"),
            ("target=a", "source is missing"),
            ("source=a,mode=9", "octal"),
            ("source=a,uid=web", "number"),
            ("source=a,colour=red", "colour"),
            ("source=a,target", "target"),
        ] {
            let error = secret(bad).unwrap_err();
            assert!(error.contains(word), "{bad}: {error}");
        }
    }
}
