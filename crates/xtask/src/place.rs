//! Where the project and the lab's own files are.

use std::{
    env,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

/// The workspace that this program was built from, if it is on this machine.
pub(crate) fn workspace() -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2)?;
    root.join("Cargo.lock").exists().then(|| root.to_owned())
}

/// The lab's folder, outside the project so that a fresh clone finds its image.
pub(crate) fn lab() -> Result<PathBuf> {
    let not_empty = |name| env::var_os(name).filter(|value| !value.is_empty());
    if let Some(folder) = not_empty("IPVSMESH_LAB_DIR") {
        return std::path::absolute(&folder)
            .with_context(|| format!("IPVSMESH_LAB_DIR={} is no path", folder.display()));
    }
    let cache = not_empty("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.or_else(|| not_empty("HOME").map(|home| Path::new(&home).join(".cache")));
    let cache = cache.context(
        "nowhere to keep the lab's image: neither HOME nor XDG_CACHE_HOME is set; \
         set IPVSMESH_LAB_DIR to a folder",
    )?;
    Ok(cache.join("ipvsmesh/lab"))
}

/// A hash that is the same on every machine: FNV-1a. It names files in a cache;
/// nobody attacks it.
pub(crate) fn key<'a>(parts: impl IntoIterator<Item = &'a str>) -> String {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for part in parts {
        // the end of a part counts too: ["ab", "c"] is not ["a", "bc"]
        for byte in part.bytes().chain([0]) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
    format!("{hash:016x}")
}

#[cfg(test)]
mod tests {
    use super::key;

    #[test]
    fn a_key_depends_on_every_part_and_its_bounds() {
        assert_eq!(key(["a", "b"]), key(["a", "b"]));
        assert_ne!(key(["a", "b"]), key(["b", "a"]));
        assert_ne!(key(["ab", "c"]), key(["a", "bc"]));
        assert_ne!(key(["a"]), key(["a", ""]));
    }

    #[test]
    fn a_key_is_the_same_for_ever() {
        // FNV-1a of one zero byte
        assert_eq!(key([""]), "af63bd4c8601b7df");
    }
}
