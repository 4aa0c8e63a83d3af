//! Sysctls. Below `/proc/sys/net` each thread sees its own network namespace's.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
};

use plan::netns::Op;

use crate::{Error, netns::Netns};

fn path_of(key: &str) -> PathBuf {
    Path::new("/proc/sys").join(key)
}

/// The ones of these that exist.
pub(crate) fn read(
    netns: &Netns,
    keys: &BTreeSet<String>,
) -> Result<BTreeMap<String, String>, Error> {
    if keys.is_empty() {
        return Ok(BTreeMap::new());
    }
    netns.run(|| {
        let value = |key: &String| {
            // one that is missing differs from what is wanted, and writing it says why
            let text = fs::read_to_string(path_of(key)).ok()?;
            Some((key.clone(), text.trim().to_owned()))
        };
        keys.iter().filter_map(value).collect()
    })
}

/// A machine that begins to forward IPv6.
const FORWARDS_IPV6: (&str, &str) = ("net/ipv6/conf/all/forwarding", "1");

/// The links that accept router advertisements only while the machine does not
/// forward (1), told to accept them in any case (2). Else the default route that it
/// has from a router would be gone with the write of `forwarding`.
fn keep_router_advertisements() -> Result<(), Error> {
    let conf = Path::new("/proc/sys/net/ipv6/conf");
    let unread = |source| Error::File {
        action: "read",
        path: conf.to_owned(),
        source,
    };
    for entry in fs::read_dir(conf).map_err(unread)? {
        let path = entry.map_err(unread)?.path().join("accept_ra");
        // a link may go meanwhile
        let accepts = fs::read_to_string(&path).is_ok_and(|text| text.trim() == "1");
        match accepts.then(|| fs::write(&path, "2")) {
            Some(Err(source)) if source.kind() != io::ErrorKind::NotFound => {
                let action = "write";
                return Err(Error::File {
                    action,
                    path,
                    source,
                });
            }
            _ => {}
        }
    }
    Ok(())
}

/// Writes all of these, giving back the ones that failed by index. In the host's
/// namespace links that know their routers keep them.
pub(crate) fn write(netns: &Netns, ops: &[&Op], host: bool) -> Result<Vec<(usize, Error)>, Error> {
    netns.run(|| {
        let write = |(index, op): (usize, &&Op)| {
            let Op::SetSysctl(key, value) = *op else {
                return None;
            };
            if host
                && (key.as_str(), value.as_str()) == FORWARDS_IPV6
                && let Err(error) = keep_router_advertisements()
            {
                return Some((index, error));
            }
            let path = path_of(key);
            let source = fs::write(&path, value).err()?;
            let action = "write";
            Some((
                index,
                Error::File {
                    action,
                    path,
                    source,
                },
            ))
        };
        ops.iter().enumerate().filter_map(write).collect()
    })
}
