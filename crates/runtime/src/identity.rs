//! Which process is which.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt as _,
};

use model::ProcessIdentity;
use rustix::{
    io::Errno,
    process::{Pid, PidfdFlags, pidfd_open},
};
use tokio::io::{Interest, unix::AsyncFd};

/// The identity of a living process; an error for one that is gone or a zombie
/// (which has no namespaces any more).
pub(crate) fn of(pid: u32) -> io::Result<ProcessIdentity> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    Ok(ProcessIdentity {
        pid,
        start_time: start_time(&stat).ok_or(io::ErrorKind::InvalidData)?,
        boot_id: boot_id()?,
        netns_inode: File::open(format!("/proc/{pid}/ns/net"))?.metadata()?.ino(),
    })
}

/// Whether exactly this process still lives.
pub(crate) fn lives(identity: &ProcessIdentity) -> bool {
    of(identity.pid).is_ok_and(|now| now == *identity)
}

/// Returns once a process has ended, at once where it has (pidfd_open(2)).
///
/// # Errors
/// That cannot be told, as on a kernel before 5.3.
pub(crate) async fn ended(identity: &ProcessIdentity) -> io::Result<()> {
    let pid = i32::try_from(identity.pid).ok().and_then(Pid::from_raw);
    let pidfd = match pid.map(|pid| pidfd_open(pid, PidfdFlags::empty())) {
        Some(Err(Errno::SRCH)) | None => return Ok(()),
        Some(pidfd) => pidfd?,
    };
    // the number may be another's by now
    if lives(identity) {
        #[expect(
            deprecated,
            reason = "unsound for types that close their descriptor early, which OwnedFd cannot"
        )]
        let pidfd = AsyncFd::with_interest(pidfd, Interest::READABLE)?;
        pidfd.readable().await?.retain_ready();
    }
    Ok(())
}

/// Whether a process waits for something in the kernel that a signal could end.
pub(crate) fn sleeps(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // field 3; see below
    let after = stat.rsplit_once(") ");
    after.is_some_and(|(_, after)| after.starts_with('S'))
}

/// Different after each start of the machine.
pub(crate) fn boot_id() -> io::Result<String> {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    Ok(text.trim().to_owned())
}

/// Field 22 of `/proc/PID/stat`. Field 2, the name in parentheses, may hold
/// blanks and parentheses, so it is the 20th field after the last one.
fn start_time(stat: &str) -> Option<u64> {
    let (_, after) = stat.rsplit_once(") ")?;
    after.split(' ').nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_does_not_confuse() {
        let fields: Vec<_> = (4..=52).map(|field| field.to_string()).collect();
        let stat = format!("77 (a) S (b ) S {}", fields.join(" "));
        assert_eq!(start_time(&stat), Some(22));
        assert_eq!(start_time("77 (cut off) S 1 2"), None);
        assert_eq!(start_time(""), None);
    }

    #[test]
    fn only_the_very_process_lives() {
        let own = of(std::process::id()).unwrap();
        assert!(lives(&own));
        for other in [
            ProcessIdentity {
                start_time: own.start_time + 1,
                ..own.clone()
            },
            ProcessIdentity {
                boot_id: "another".to_owned(),
                ..own.clone()
            },
            ProcessIdentity {
                netns_inode: 1,
                ..own.clone()
            },
        ] {
            assert!(!lives(&other), "{other:?}");
        }
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let identity = of(child.id());
        child.wait().unwrap();
        assert!(identity.is_ok_and(|identity| !lives(&identity)) || of(child.id()).is_err());
    }

    #[tokio::test]
    async fn an_end_is_told_before_anybody_has_waited_for_it() {
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .unwrap();
        let identity = of(child.id()).unwrap();
        let limit = std::time::Duration::from_millis(50);
        let early = tokio::time::timeout(limit, ended(&identity)).await;
        assert!(early.is_err(), "{early:?}");
        child.kill().unwrap();
        ended(&identity).await.unwrap();
        child.wait().unwrap();
        // and of one that is long gone
        ended(&identity).await.unwrap();
    }
}
