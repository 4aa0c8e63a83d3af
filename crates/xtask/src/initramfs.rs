//! The guest's initramfs, by hand: a static busybox, the drivers of the virtio
//! devices, and a script.

use std::{
    fs::{self, File},
    os::unix::fs::{PermissionsExt as _, symlink},
    path::Path,
};

use anyhow::{Context as _, Result, bail};

use crate::child;

/// The first program of the guest.
pub(crate) const SCRIPT: &str = include_str!("guest/initramfs.sh");

/// Drivers of the machine's devices.
pub(crate) const MODULES: &[&str] = &[
    "virtio_pci",
    "virtio_blk",
    "virtio_console",
    "virtio_net",
    "virtio_rng",
];

const APPLETS: &[&str] = &[
    "sh",
    "ln",
    "mount",
    "insmod",
    "sleep",
    "tar",
    "cat",
    "poweroff",
    "switch_root",
];

/// Makes it from a root file system that has the kernel and busybox.
pub(crate) fn build(root: &Path, to: &Path, log: &Path) -> Result<()> {
    let stage = to.with_extension("stage");
    for folder in ["bin", "dev", "modules", "proc", "root", "sys"] {
        fs::create_dir_all(stage.join(folder)).context("cannot make the initramfs's folders")?;
    }
    copy(&root.join("bin/busybox"), &stage.join("bin/busybox"))?;
    for applet in APPLETS {
        symlink("busybox", stage.join("bin").join(applet)).context("cannot link to busybox")?;
    }
    let modules = only_entry(&root.join("usr/lib/modules"))?;
    let dependencies = modules.join("modules.dep");
    let dependencies = fs::read_to_string(&dependencies)
        .with_context(|| format!("cannot read {}", dependencies.display()))?;
    let mut order = String::new();
    for path in load_order(&dependencies, MODULES)? {
        let name = path.rsplit('/').next().unwrap_or(path);
        copy(&modules.join(path), &stage.join("modules").join(name))?;
        order.push_str(name);
        order.push('\n');
    }
    fs::write(stage.join("modules/order"), order).context("cannot write the modules' order")?;
    let init = stage.join("init");
    fs::write(&init, SCRIPT)
        .and_then(|()| fs::set_permissions(&init, fs::Permissions::from_mode(0o755)))
        .context("cannot write the initramfs's script")?;

    let mut pack = child::tied("KILL", "sh");
    pack.current_dir(&stage);
    pack.args([
        "-c",
        "find . | cpio --quiet -o -H newc -R 0:0 > \"$1\"",
        "sh",
    ])
    .arg(to);
    child::logged(pack, log, "packing the initramfs")?;
    // an image without its end boots to a riddle
    File::open(to)
        .and_then(|file| file.sync_all())
        .context("cannot write the initramfs")?;
    fs::remove_dir_all(&stage).context("cannot remove the initramfs's folders")
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::copy(from, to).with_context(|| format!("cannot copy {}", from.display()))?;
    Ok(())
}

fn only_entry(folder: &Path) -> Result<std::path::PathBuf> {
    let what = || format!("cannot read {}", folder.display());
    let entries = fs::read_dir(folder).with_context(what)?;
    let entries = entries.collect::<Result<Vec<_>, _>>().with_context(what)?;
    match entries.as_slice() {
        [one] => Ok(one.path()),
        _ => bail!(
            "{} has {} kernels, not one",
            folder.display(),
            entries.len()
        ),
    }
}

/// Paths of these modules and of all that they need, each after what it needs,
/// by the kernel's `modules.dep`.
fn load_order<'a>(dependencies: &'a str, wanted: &[&str]) -> Result<Vec<&'a str>> {
    let mut order: Vec<&str> = Vec::new();
    for module in wanted {
        let line = dependencies.lines().find_map(|line| {
            let (path, needs) = line.split_once(':')?;
            let name = path.rsplit('/').next()?.split(".ko").next()?;
            (name.replace('-', "_") == *module).then_some((path, needs))
        });
        let Some((path, needs)) = line else {
            bail!("the image's kernel has no module {module}");
        };
        // what is needed first stands last
        for path in needs.split_whitespace().rev().chain([path]) {
            if !order.contains(&path) {
                order.push(path);
            }
        }
    }
    Ok(order)
}

#[cfg(test)]
mod tests {
    use super::load_order;

    const DEPENDENCIES: &str = "kernel/virtio/virtio.ko:\n\
        kernel/virtio/virtio_ring.ko: kernel/virtio/virtio.ko\n\
        kernel/block/virtio_blk.ko: kernel/virtio/virtio_ring.ko kernel/virtio/virtio.ko\n\
        kernel/char/virtio-rng.ko: kernel/virtio/virtio_ring.ko kernel/virtio/virtio.ko\n";

    #[test]
    fn modules_come_after_what_they_need_and_once() {
        assert_eq!(
            load_order(DEPENDENCIES, &["virtio_blk", "virtio_rng"]).unwrap(),
            [
                "kernel/virtio/virtio.ko",
                "kernel/virtio/virtio_ring.ko",
                "kernel/block/virtio_blk.ko",
                "kernel/char/virtio-rng.ko"
            ]
        );
    }

    #[test]
    fn a_missing_module_is_named() {
        let error = load_order(DEPENDENCIES, &["virtio_net"]).unwrap_err();
        assert!(error.to_string().contains("virtio_net"));
    }
}
