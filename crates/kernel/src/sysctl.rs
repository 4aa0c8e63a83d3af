//! Sysctls. Below `/proc/sys/net` each thread sees its own network namespace's.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
};

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
            let text = fs::read_to_string(path_of(key)).ok()?;
            Some((key.clone(), text.trim().to_owned()))
        };
        keys.iter().filter_map(value).collect()
    })
}

/// Writes all of these, giving back the ones that failed by index.
pub(crate) fn write(netns: &Netns, values: &[(&str, &str)]) -> Result<Vec<(usize, Error)>, Error> {
    netns.run(|| {
        let write = |(index, (key, value)): (usize, &(&str, &str))| {
            let path = path_of(key);
            let wrong = |source: io::Error| {
                (
                    index,
                    Error::File {
                        action: "write",
                        path: path.clone(),
                        source,
                    },
                )
            };
            fs::write(&path, value).map_err(wrong).err()
        };
        values.iter().enumerate().filter_map(write).collect()
    })
}
