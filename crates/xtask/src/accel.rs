//! How the guest's processor is made: by KVM where that boots, else emulated.

use std::{
    fs::{self, File},
    io::Read as _,
    path::Path,
    process::Stdio,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use crate::{child, image::Image, place, progress::Step};

/// A device file may be there and a guest still hang in its first instructions:
/// only a boot tells. A machine that KVM runs boots in under two seconds.
const PROBE: Duration = Duration::from_secs(5);

/// The kernel's console line that the probe waits for.
const MARKER: &str = "LAB-PROBE-OK";

/// What runs the guest's instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Accel {
    /// The processor itself.
    Kvm,
    /// QEMU's emulation, about a tenth as fast.
    Emulated,
    /// Emulated, and the guest's clock counts the instructions it has run: two
    /// measurements in one machine can then be compared on a busy host, too.
    /// Of caches, locks and a second processor it says nothing.
    Counted,
}

impl Accel {
    /// The best that works here; tried once a machine and kept in the lab's folder.
    pub(crate) fn choose(image: &Image) -> Result<Self> {
        match std::env::var("IPVSMESH_LAB_ACCEL").as_deref() {
            Ok("kvm") => return Ok(Self::Kvm),
            Ok("tcg") => return Ok(Self::Emulated),
            Ok("icount") => return Ok(Self::Counted),
            Ok(other) => bail!("IPVSMESH_LAB_ACCEL={other} is not known: use kvm, tcg or icount"),
            Err(_) => {}
        }
        let device = File::options().read(true).write(true).open("/dev/kvm");
        if device.is_err() {
            return Ok(Self::Emulated);
        }
        let verdict = place::lab()?.join(format!("kvm-{}", here()));
        if let Ok(said) = fs::read_to_string(&verdict) {
            return Ok(if said.trim() == "works" {
                Self::Kvm
            } else {
                Self::Emulated
            });
        }
        let step = Step::start("trying whether KVM boots here (once)");
        let works = boots(image)?;
        fs::write(&verdict, if works { "works\n" } else { "does not boot\n" })
            .with_context(|| format!("cannot write {}", verdict.display()))?;
        step.detail(if works {
            "it does"
        } else {
            "it does not: the processor is emulated"
        });
        step.done();
        Ok(if works { Self::Kvm } else { Self::Emulated })
    }

    /// QEMU's arguments for it.
    pub(crate) fn arguments(self) -> &'static [&'static str] {
        match self {
            Self::Kvm => &["-accel", "kvm", "-cpu", "host", "-smp", "2"],
            Self::Emulated => &["-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2"],
            // an instruction is 2^3 ns, and the clock jumps over idle times
            Self::Counted => &[
                "-accel",
                "tcg,thread=single",
                "-icount",
                "shift=3,sleep=off",
                "-cpu",
                "max",
                "-smp",
                "1",
            ],
        }
    }

    /// In words.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Kvm => "KVM",
            Self::Emulated => "emulated",
            Self::Counted => "emulated, time is instructions",
        }
    }
}

/// What the verdict depends on: this machine's kernel and processor.
fn here() -> String {
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let processors = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = processors
        .lines()
        .find(|line| line.starts_with("model name"));
    place::key([kernel.trim(), model.unwrap_or_default()])
}

fn boots(image: &Image) -> Result<bool> {
    let console = tempfile::NamedTempFile::new().context("cannot make a temporary file")?;
    let mut qemu = child::tied("KILL", "qemu-system-x86_64");
    qemu.args(Accel::Kvm.arguments());
    qemu.args([
        "-nodefaults",
        "-no-user-config",
        "-display",
        "none",
        "-no-reboot",
        "-m",
        "512",
    ]);
    qemu.arg("-kernel").arg(image.kernel());
    qemu.arg("-initrd").arg(image.initramfs());
    qemu.args(["-append", "console=ttyS0 quiet panic=-1 lab.probe"]);
    qemu.arg("-serial")
        .arg(format!("file:{}", console.path().display()));
    qemu.stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let mut child = qemu.spawn().context("qemu-system-x86_64 did not start")?;
    let end = Instant::now() + PROBE;
    let works = loop {
        if said(console.path()) {
            break true;
        }
        let ended = child.try_wait().context("cannot wait for QEMU")?.is_some();
        if ended || Instant::now() > end {
            break said(console.path());
        }
        thread::sleep(Duration::from_millis(50));
    };
    let _ = child.kill();
    let _ = child.wait();
    Ok(works)
}

fn said(console: &Path) -> bool {
    let mut bytes = Vec::new();
    let read = File::open(console).and_then(|mut file| file.read_to_end(&mut bytes));
    read.is_ok() && String::from_utf8_lossy(&bytes).contains(MARKER)
}
