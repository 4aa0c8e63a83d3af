//! Users and groups by `/etc/passwd` and `/etc/group`. They are read by hand:
//! the C library's look-up loads plug-ins, which a static binary must not do.

use std::{fs, path::Path};

use nix::unistd::{Gid, Uid};

/// As whom a command runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Credentials {
    pub(crate) uid: Uid,
    pub(crate) gid: Gid,
    /// All groups, the first among them.
    pub(crate) groups: Vec<Gid>,
    pub(crate) home: String,
}

/// Looks up `USER[:GROUP]`, each a name or a number; without a user, root.
pub(crate) fn look_up(user: Option<&str>, etc: &Path) -> Result<Credentials, String> {
    let read = |name: &str| {
        let path = etc.join(name);
        fs::read_to_string(&path)
            .map_err(|error| format!("cannot read {}: {error}", path.display()))
    };
    let Some(user) = user else {
        return Ok(Credentials {
            uid: Uid::from_raw(0),
            gid: Gid::from_raw(0),
            groups: vec![Gid::from_raw(0)],
            home: "/root".to_owned(),
        });
    };
    find(user, &read("passwd")?, &read("group")?)
}

fn find(user: &str, passwd: &str, groups: &str) -> Result<Credentials, String> {
    let (name, group) = match user.split_once(':') {
        Some((name, group)) => (name, Some(group)),
        None => (user, None),
    };
    // name, password, uid, gid, comment, home, shell
    let known = passwd.lines().find_map(|line| {
        let fields: Vec<_> = line.split(':').collect();
        let (login, uid) = (*fields.first()?, fields.get(2)?.parse::<u32>().ok()?);
        let gid = fields.get(3)?.parse::<u32>().ok()?;
        let wanted = login == name || name.parse() == Ok(uid);
        wanted.then(|| (login, uid, gid, fields.get(5).copied().unwrap_or("/")))
    });
    let (login, uid, own_group, home) = match (known, name.parse::<u32>()) {
        (Some(known), _) => known,
        // a group of its own: root's would open root's files
        (None, Ok(uid)) => ("", uid, uid, "/"),
        (None, Err(_)) => {
            return Err(format!(
                "user {name:?} is not in /etc/passwd of this node: add it, or give a number"
            ));
        }
    };
    // name, password, gid, members
    let mut members = Vec::new();
    let mut by_name = None;
    for line in groups.lines() {
        let fields: Vec<_> = line.split(':').collect();
        let Some(gid) = fields.get(2).and_then(|gid| gid.parse::<u32>().ok()) else {
            continue;
        };
        if fields.first().copied() == group {
            by_name = Some(gid);
        }
        let listed = fields.get(3).copied().unwrap_or_default();
        if !login.is_empty() && listed.split(',').any(|member| member == login) {
            members.push(gid);
        }
    }
    let gid = match group {
        None => own_group,
        // as docker has it: who names a group gets that one alone
        Some(group) => {
            members.clear();
            by_name.or_else(|| group.parse().ok()).ok_or_else(|| {
                format!(
                    "group {group:?} is not in /etc/group of this node: add it, or give a number"
                )
            })?
        }
    };
    members.retain(|member| *member != gid);
    members.insert(0, gid);
    Ok(Credentials {
        uid: Uid::from_raw(uid),
        gid: Gid::from_raw(gid),
        groups: members.into_iter().map(Gid::from_raw).collect(),
        home: home.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str =
        "root:x:0:0:root:/root:/bin/bash\nweb:x:33:34::/var/www:/bin/false\nbroken\n";
    const GROUP: &str = "root:x:0:\nwww:x:34:web\nlogs:x:40:other,web\nnobody:x:99:other\nbroken\n";

    fn found(user: &str) -> Result<(u32, u32, Vec<u32>, String), String> {
        let found = find(user, PASSWD, GROUP)?;
        let groups = found.groups.iter().map(|gid| gid.as_raw()).collect();
        Ok((found.uid.as_raw(), found.gid.as_raw(), groups, found.home))
    }

    #[test]
    fn names_and_numbers_are_found() {
        let web = (33, 34, vec![34, 40], "/var/www".to_owned());
        assert_eq!(found("web").unwrap(), web);
        assert_eq!(found("33").unwrap(), web);
        let other = (33, 99, vec![99], "/var/www".to_owned());
        assert_eq!(found("web:nobody").unwrap(), other);
        assert_eq!(found("33:99").unwrap(), other);
        assert_eq!(
            found("1000:1000").unwrap(),
            (1000, 1000, vec![1000], "/".to_owned())
        );
        assert_eq!(
            found("1000").unwrap(),
            (1000, 1000, vec![1000], "/".to_owned())
        );
        assert!(found("nobody").unwrap_err().contains("/etc/passwd"));
        assert!(found("web:nogroup").unwrap_err().contains("/etc/group"));
        assert!(found("").is_err());
        assert!(found("web:").is_err());
    }

    #[test]
    fn root_needs_no_files() {
        let root = look_up(None, Path::new("/nowhere")).unwrap();
        assert_eq!((root.uid.as_raw(), root.home.as_str()), (0, "/root"));
        assert!(
            look_up(Some("web"), Path::new("/nowhere"))
                .unwrap_err()
                .contains("/nowhere/passwd")
        );
    }
}
