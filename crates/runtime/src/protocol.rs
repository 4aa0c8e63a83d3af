//! What daemon and shim say to each other on the task's socket, a JSON line each
//! way; and the files in a task's directory. A daemon meets shims of older
//! versions: fields may be added with a default, never changed.

use std::{path::PathBuf, str::FromStr as _};

use jiff::Timestamp;
use model::{ProcessIdentity, ProcessSpec};
use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};

/// Locked as long as the task's shim lives, and while one is being started.
pub(crate) const LOCK: &str = "lock";
/// The shim's socket.
pub(crate) const SOCKET: &str = "control.sock";
/// [`Order`] of the daemon, as JSON.
pub(crate) const ORDER: &str = "task.json";
/// [`Report`] of the shim, as JSON, replaced at each change.
pub(crate) const REPORT: &str = "shim.json";
/// The files that the task sees in its /etc, under the same names.
pub(crate) const FILES: [&str; 2] = ["resolv.conf", "hosts"];

/// What a shim is made for.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Order {
    pub(crate) hostname: String,
    pub(crate) process: ProcessSpec,
    pub(crate) log: PathBuf,
    pub(crate) cgroup: PathBuf,
}

/// What a shim is asked.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Ask {
    /// Start the command.
    Start,
    /// Send this signal, and kill what is left after so many milliseconds.
    Stop { signal: i32, grace_ms: u64 },
    /// Only answer.
    Status,
    /// Answer, then each change as well.
    Watch,
    /// Kill what is left and end.
    Quit,
}

/// How the command is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Condition {
    Prepared,
    Running {
        pid: u32,
    },
    Exited {
        code: i32,
        error: String,
        rejected: bool,
        at: Timestamp,
    },
}

/// Who the shim is, and how its command is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Report {
    pub(crate) identity: ProcessIdentity,
    pub(crate) condition: Condition,
}

/// Why a command did not come to run, with the exit status that shells give.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Failure {
    pub(crate) code: i32,
    pub(crate) error: String,
}

/// A value as a line of JSON.
pub(crate) fn line(value: &impl Serialize) -> Vec<u8> {
    // none of ours can fail: no maps, no numbers out of range
    let mut line = serde_json::to_vec(value).unwrap_or_default();
    line.push(b'\n');
    line
}

/// A signal by its name, with or without `SIG`, or by its number.
pub(crate) fn signal(text: &str) -> Option<Signal> {
    if let Ok(number) = text.parse::<i32>() {
        return Signal::try_from(number).ok();
    }
    let name = text.to_ascii_uppercase();
    let name = name.strip_prefix("SIG").unwrap_or(&name);
    Signal::from_str(&format!("SIG{name}")).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_have_names_and_numbers() {
        for text in ["SIGTERM", "TERM", "sigterm", "15"] {
            assert_eq!(signal(text), Some(Signal::SIGTERM), "{text}");
        }
        for text in ["", "SIG", "SIGSIGTERM", "0", "-9", "65", "TERMINATE"] {
            assert_eq!(signal(text), None, "{text}");
        }
    }

    #[test]
    fn what_a_shim_wrote_stays_readable() {
        let identity = r#"{"pid":7,"start_time":8,"boot_id":"b","netns_inode":9}"#;
        for condition in [
            r#""prepared""#,
            r#"{"running":{"pid":3}}"#,
            r#"{"exited":{"code":1,"error":"e","rejected":false,"at":"2026-01-02T03:04:05Z"}}"#,
        ] {
            let text = format!(r#"{{"identity":{identity},"condition":{condition}}}"#);
            let report: Report = serde_json::from_str(&text).unwrap();
            assert_eq!(line(&report), format!("{text}\n").into_bytes());
        }
        for (ask, text) in [
            (Ask::Start, "\"start\"\n"),
            (
                Ask::Stop {
                    signal: 15,
                    grace_ms: 10,
                },
                "{\"stop\":{\"signal\":15,\"grace_ms\":10}}\n",
            ),
            (Ask::Status, "\"status\"\n"),
            (Ask::Watch, "\"watch\"\n"),
            (Ask::Quit, "\"quit\"\n"),
        ] {
            assert_eq!(line(&ask), text.as_bytes());
        }
    }
}
