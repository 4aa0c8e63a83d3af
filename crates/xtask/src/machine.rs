//! One boot of the guest under QEMU: its devices, its ports, its end.
//!
//! The command's input, outputs and status go through virtio ports, each of them
//! a unix socket here: nothing is quoted, mixed or cut on its way.

use std::{
    ffi::OsString,
    fs,
    io::{BufRead as _, BufReader, ErrorKind, Write},
    net::Shutdown,
    os::unix::net::{UnixListener, UnixStream},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::Signal;

use crate::{
    accel::Accel, child, image::Image, place, progress::Step, signals::Diverted, streams, terminal,
};

/// Far more than a boot takes, on a machine that has much else to do.
const BOOT: Duration = Duration::from_secs(300);

/// How long a machine with a kept disk may take to shut down.
const SHUTDOWN: Duration = Duration::from_secs(120);

/// The machine's ports, in the order of their sockets.
const PORTS: [&str; 4] = ["lab.control", "lab.in", "lab.out", "lab.err"];

/// What happens to a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// The guest has booted.
    Up,
    /// The command has ended.
    Exit(u8),
    /// Somebody wants it to end.
    Signal(Signal),
}

/// What the guest's kernel hands over to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Init {
    /// The lab's own script: what is needed and no more.
    Fast,
    /// systemd, as on a real machine.
    Systemd,
}

/// Where the command's input comes from and its outputs go.
pub(crate) enum Io {
    /// The user's terminal, every key of it.
    Terminal,
    /// Streams of bytes.
    Streams {
        /// Whether standard input goes to the command.
        input: bool,
        /// Its standard output.
        out: Box<dyn Write + Send>,
        /// Its standard error.
        err: Box<dyn Write + Send>,
    },
}

/// A machine, before it boots.
pub(crate) struct Machine<'a> {
    pub(crate) image: &'a Image,
    pub(crate) accel: Accel,
    /// The second disk.
    pub(crate) payload: &'a Path,
    /// A root disk that keeps what is written; else that is forgotten.
    pub(crate) kept: Option<&'a Path>,
    pub(crate) init: Init,
    /// More words for the kernel's command line.
    pub(crate) kernel: &'a str,
    /// TCP ports of 127.0.0.1 here that are the guest's own.
    pub(crate) forwarded: &'a [u16],
    /// For sockets.
    pub(crate) folder: &'a Path,
}

impl Machine<'_> {
    /// Boots, runs the payload's command, and says its exit status.
    pub(crate) fn run(&self, io: Io) -> Result<u8> {
        let logs = place::lab()?.join("logs");
        fs::create_dir_all(&logs).with_context(|| format!("cannot make {}", logs.display()))?;
        let console = logs.join(format!("console-{}", std::process::id()));
        let result = self.attempt(io, &console);
        if result.is_ok() {
            let _ = fs::remove_file(&console);
        }
        result
    }

    fn attempt(&self, io: Io, console: &Path) -> Result<u8> {
        let (sender, events) = channel();
        let _diverted = Diverted::to(sender.clone());
        let step = Step::passing(format!("booting ({})", self.accel.name()));

        let listeners = self.listeners()?;
        let mut qemu = Qemu::start(self.command(console), console)?;
        let [tty, control, input, out, err] = qemu.accept(&listeners)?;
        thread::spawn({
            let sender = sender.clone();
            move || read_control(control, &sender)
        });

        let mut pumps = Vec::new();
        let mut raw = None;
        match io {
            Io::Terminal => {
                let keys = tty.try_clone().context("cannot duplicate a socket")?;
                pumps.push(streams::out(
                    tty,
                    Box::new(std::io::stdout()),
                    sender.clone(),
                ));
                raw = Some((terminal::Raw::set()?, keys));
            }
            Io::Streams {
                input: wanted,
                out: to_out,
                err: to_err,
            } => {
                pumps.push(streams::out(out, to_out, sender.clone()));
                pumps.push(streams::out(err, to_err, sender.clone()));
                if wanted {
                    streams::input(input, None);
                } else {
                    input
                        .shutdown(Shutdown::Write)
                        .context("cannot close a socket")?;
                }
            }
        }

        qemu.until_up(&events)
            .and_then(|ended| {
                step.done();
                if let Some(code) = ended {
                    return Ok(code);
                }
                if let Some((_, keys)) = &raw {
                    let keys = keys.try_clone().context("cannot duplicate a socket")?;
                    streams::input(keys, Some(sender.clone()));
                }
                let code = qemu.until_exit(&events)?;
                if self.kept.is_some() {
                    qemu.shut_down()?;
                }
                Ok(code)
            })
            .inspect(|_| {
                // Its sockets close with it; what is in them is still read.
                qemu.kill();
                for pump in pumps {
                    let _ = pump.join();
                }
            })
    }

    fn socket(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    fn listeners(&self) -> Result<[UnixListener; 5]> {
        let [control, input, out, err] = PORTS;
        let mut listeners = Vec::new();
        for name in ["tty", control, input, out, err] {
            let path = self.socket(name);
            let what = || format!("cannot listen at {}", path.display());
            let listener = UnixListener::bind(&path).with_context(what)?;
            listener.set_nonblocking(true).with_context(what)?;
            listeners.push(listener);
        }
        listeners.try_into().ok().context("there are five sockets")
    }

    fn command(&self, console: &Path) -> Command {
        let mut qemu = child::tied("KILL", "qemu-system-x86_64");
        qemu.args(self.arguments(console));
        qemu.stdin(Stdio::null()).stdout(Stdio::null());
        qemu
    }

    fn arguments(&self, console: &Path) -> Vec<OsString> {
        let mut all: Vec<OsString> = Vec::new();
        let mut add = |words: &[&str]| all.extend(words.iter().map(OsString::from));
        add(self.accel.arguments());
        add(&["-m", "2048"]);
        add(&["-nodefaults", "-no-user-config", "-no-reboot"]);
        add(&["-display", "none", "-monitor", "none"]);
        add(&["-kernel", &text(&self.image.kernel())]);
        add(&["-initrd", &text(&self.image.initramfs())]);
        add(&["-append", &self.kernel_line()]);
        add(&[
            "-chardev",
            &format!("file,id=console,path={}", value(console)),
        ]);
        add(&["-serial", "chardev:console"]);

        let root = match self.kept {
            Some(disk) => format!("file={},cache=writeback", value(disk)),
            None => format!(
                "file={},snapshot=on,cache=unsafe",
                value(&self.image.disk())
            ),
        };
        add(&["-drive", &format!("{root},format=raw,if=virtio")]);
        let payload = value(self.payload);
        add(&[
            "-drive",
            &format!("file={payload},format=raw,if=virtio,readonly=on"),
        ]);

        let mut network = String::from("user,id=net");
        for port in self.forwarded {
            network.push_str(&format!(",hostfwd=tcp:127.0.0.1:{port}-:{port}"));
        }
        add(&[
            "-netdev",
            &network,
            "-device",
            "virtio-net-pci,netdev=net,romfile=",
        ]);
        add(&["-device", "virtio-rng-pci"]);

        add(&["-device", "virtio-serial-pci"]);
        let socket = |name: &str| format!("socket,id={name},path={}", value(&self.socket(name)));
        add(&[
            "-chardev",
            &socket("tty"),
            "-device",
            "virtconsole,chardev=tty",
        ]);
        for name in PORTS {
            let device = format!("virtserialport,chardev={name},name={name}");
            add(&["-chardev", &socket(name), "-device", &device]);
        }
        all
    }

    fn kernel_line(&self) -> String {
        let init = match self.init {
            Init::Fast => "/lab/init",
            Init::Systemd => "/lib/systemd/systemd",
        };
        format!(
            "console=ttyS0 quiet panic=-1 mitigations=off net.ifnames=0 \
             systemd.getty_auto=no lab.init={init} {}",
            self.kernel
        )
    }
}

/// A path as the value of one of QEMU's options, where a comma begins the next.
fn value(path: &Path) -> String {
    text(path).replace(',', ",,")
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

fn read_control(control: UnixStream, events: &Sender<Event>) {
    let lines = BufReader::new(control).lines().map_while(Result::ok);
    for event in lines.filter_map(|line| event(&line)) {
        if events.send(event).is_err() {
            return;
        }
    }
}

/// What the guest means by a line.
fn event(line: &str) -> Option<Event> {
    match line.split_once(' ') {
        None if line == "up" => Some(Event::Up),
        Some(("exit", code)) => code.parse().ok().map(Event::Exit),
        _ => None,
    }
}

/// The process; killed when this goes, whatever the reason.
struct Qemu {
    child: Child,
    said: PathBuf,
    console: PathBuf,
}

impl Qemu {
    fn start(mut command: Command, console: &Path) -> Result<Self> {
        let said = console.with_extension("qemu");
        let _ = fs::remove_file(&said);
        command.stderr(child::append(&said)?);
        let child = command
            .spawn()
            .context("qemu-system-x86_64 did not start")?;
        Ok(Self {
            child,
            said,
            console: console.to_owned(),
        })
    }

    /// The guest's ends of the sockets; QEMU connects to them before it boots.
    fn accept<const N: usize>(&mut self, listeners: &[UnixListener; N]) -> Result<[UnixStream; N]> {
        let mut streams = Vec::new();
        for listener in listeners {
            loop {
                match listener.accept() {
                    Ok((stream, _)) => {
                        stream
                            .set_nonblocking(false)
                            .context("cannot set up a socket")?;
                        streams.push(stream);
                        break;
                    }
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                    Err(error) => return Err(error).context("cannot accept QEMU's connection"),
                }
                self.must_run("before it booted")?;
                thread::sleep(Duration::from_millis(5));
            }
        }
        streams
            .try_into()
            .ok()
            .context("there is a stream a listener")
    }

    /// Waits until the guest is up; or the exit status of who did not wait.
    fn until_up(&mut self, events: &Receiver<Event>) -> Result<Option<u8>> {
        let end = Instant::now() + BOOT;
        loop {
            match self.next(events)? {
                Some(Event::Up) => return Ok(None),
                Some(Event::Exit(code)) => return Ok(Some(code)),
                Some(Event::Signal(signal)) => return Ok(Some(status(signal))),
                None => {}
            }
            if Instant::now() > end {
                bail!(
                    "the machine did not boot within {} s; its console:\n{}",
                    BOOT.as_secs(),
                    child::tail(&self.console)
                );
            }
        }
    }

    fn until_exit(&mut self, events: &Receiver<Event>) -> Result<u8> {
        loop {
            match self.next(events)? {
                Some(Event::Exit(code)) => return Ok(code),
                Some(Event::Signal(signal)) => return Ok(status(signal)),
                Some(Event::Up) | None => {}
            }
        }
    }

    fn next(&mut self, events: &Receiver<Event>) -> Result<Option<Event>> {
        match events.recv_timeout(Duration::from_millis(100)) {
            Ok(event) => Ok(Some(event)),
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                // the last words may have come just before the end
                let ended = self.ended()?;
                match events.try_recv() {
                    Ok(event) => Ok(Some(event)),
                    Err(_) if ended.is_some() => {
                        self.must_run("before the command did").map(|()| None)
                    }
                    Err(_) => Ok(None),
                }
            }
        }
    }

    fn ended(&mut self) -> Result<Option<ExitStatus>> {
        self.child.try_wait().context("cannot wait for QEMU")
    }

    fn must_run(&mut self, when: &str) -> Result<()> {
        let Some(status) = self.ended()? else {
            return Ok(());
        };
        let said = fs::read_to_string(&self.said).unwrap_or_default();
        bail!(
            "the machine ended {when} (QEMU: {status})\n{said}its console:\n{}",
            child::tail(&self.console)
        );
    }

    /// Waits for the guest to write everything and turn itself off.
    fn shut_down(&mut self) -> Result<()> {
        let end = Instant::now() + SHUTDOWN;
        while self.ended()?.is_none() {
            if Instant::now() > end {
                bail!(
                    "the machine did not shut down within {} s, its disk may lack the last \
                     writes; its console:\n{}",
                    SHUTDOWN.as_secs(),
                    child::tail(&self.console)
                );
            }
            thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        self.kill();
        let _ = fs::remove_file(&self.said);
    }
}

/// What a shell would say of a command that a signal ended.
fn status(signal: Signal) -> u8 {
    128 + signal as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guests_lines_are_events() {
        assert_eq!(event("up"), Some(Event::Up));
        assert_eq!(event("exit 7"), Some(Event::Exit(7)));
        for noise in ["", "up 1", "exit", "exit x", "exit 256", "else 1"] {
            assert_eq!(event(noise), None, "{noise}");
        }
    }

    #[test]
    fn a_comma_in_a_path_begins_no_option() {
        assert_eq!(value(Path::new("/a,b/c")), "/a,,b/c");
    }

    #[test]
    fn signals_are_told_as_shells_do() {
        assert_eq!(status(Signal::SIGTERM), 143);
    }
}
