//! Sysctls. Below `/proc/sys/net` each thread sees its own network namespace's.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
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

/// Writes all of these, giving back the ones that failed by index.
pub(crate) fn write(netns: &Netns, ops: &[&Op]) -> Result<Vec<(usize, Error)>, Error> {
    netns.run(|| {
        let write = |(index, op): (usize, &&Op)| {
            let Op::SetSysctl(key, value) = *op else {
                return None;
            };
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
