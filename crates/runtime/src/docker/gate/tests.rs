use std::{
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use super::*;

struct Made {
    _dir: tempfile::TempDir,
    gate: Gate,
}

fn made() -> Made {
    let dir = tempfile::tempdir().unwrap();
    let gate = Gates::new(dir.path().join("gates")).of(&TaskId::from_random([3; 16]));
    gate.make().unwrap();
    Made { _dir: dir, gate }
}

impl Made {
    /// The gate before this command, as it will be in a container.
    fn before(&self, words: &[&str]) -> Command {
        let mut command = Command::new(self.gate.dir.join(GATE));
        command.arg(self.gate.dir.join(FIFO)).args(words);
        command.stdin(Stdio::null());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn waiting(&self, command: &mut Command) -> Child {
        // another test's child may have it open for writing for an instant
        let child = until("it starts", || command.spawn().ok());
        let waits = || self.gate.waits(child.id()).then_some(());
        until("it waits", waits);
        child
    }

    fn through(&self, command: &mut Command) -> Output {
        let child = self.waiting(command);
        self.gate.open().unwrap();
        until("it is through", || {
            (!self.gate.holds(child.id())).then_some(())
        });
        child.wait_with_output().unwrap()
    }
}

fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + Duration::from_secs(10);
    loop {
        if let Some(seen) = look() {
            return seen;
        }
        assert!(Instant::now() < end, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn who_is_let_through_is_the_same_process_and_nothing_else_of_it_changes() {
    let made = made();
    let script = "echo $$ $0 $1 $COLOR; pwd; ls /proc/self/fd | wc -l; grep -E '^Sig(Ign|Blk)' /proc/self/status; exit 7";
    let words = ["sh", "-c", script, "zero", "a b"];
    let with = |command: &mut Command| {
        command.env("COLOR", "blue").current_dir("/usr");
    };
    let mut gated = made.before(&words);
    with(&mut gated);
    let child = made.waiting(&mut gated);
    let pid = child.id();
    made.gate.open().unwrap();
    // that nobody is there any more is no error
    until("it is through", || (!made.gate.holds(pid)).then_some(()));
    made.gate.open().unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    let (first, rest) = said.split_once('\n').unwrap();
    assert_eq!(first, format!("{pid} zero a b blue"));
    assert_eq!(output.status.code(), Some(7));

    let mut plain = Command::new(words[0]);
    with(plain.args(&words[1..]).stdin(Stdio::null()));
    let plain = String::from_utf8(plain.output().unwrap().stdout).unwrap();
    assert_eq!(plain.split_once('\n').unwrap().1, rest);
}

#[test]
fn it_takes_next_to_no_memory_while_it_waits() {
    let made = made();
    let mut child = made.waiting(&mut made.before(&["true"]));
    let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
    let resident = status.lines().find(|line| line.starts_with("VmRSS:"));
    let resident: u64 = resident
        .and_then(|line| line.split_whitespace().nth(1)?.parse().ok())
        .unwrap();
    assert!(resident <= 256, "{status}");
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!made.gate.holds(child.id()));
}

#[test]
fn programs_are_looked_for_in_path_as_runc_does() {
    let made = made();
    let dir = made.gate.dir.parent().unwrap();
    let script = |name: &str, mode| {
        let path = dir.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, format!("#!/bin/sh\necho {name}\n")).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
    };
    script("first/plain", 0o644);
    script("second/plain", 0o755);
    fs::create_dir_all(dir.join("first/other")).unwrap();
    script("second/other", 0o755);
    let path = format!("/nowhere:{0}/first:{0}/second", dir.display());
    let said = |words: &[&str], path: &str| {
        let mut command = made.before(words);
        let command = command.env("PATH", path).current_dir(dir.join("second"));
        String::from_utf8(made.through(command).stdout).unwrap()
    };
    // neither what is no program nor a directory of that name is taken
    assert_eq!(said(&["plain"], &path), "second/plain\n");
    assert_eq!(said(&["other"], &path), "second/other\n");
    assert_eq!(said(&["./plain"], "/nowhere"), "second/plain\n");
    assert_eq!(
        said(&["plain"], "/nowhere:"),
        "second/plain\n",
        "empty: here"
    );

    let ends = |words: &[&str]| {
        let mut command = made.before(words);
        command.env("PATH", &path).current_dir(dir);
        let child = until("it starts", || command.spawn().ok());
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        let code = output.status.code().unwrap();
        // what it says is what is said of it
        assert_eq!(rejection(words[0], code), Some(said.trim_end().to_owned()));
        code
    };
    assert_eq!(ends(&["nothing"]), 127);
    assert_eq!(ends(&["/no/such/program"]), 127);
    assert_eq!(ends(&["first/plain"]), 126);
    assert_eq!(ends(&["first/other"]), 126);
    assert_eq!(rejection("x", 1), None);
}

#[test]
fn what_the_kernel_refuses_ends_as_with_runc() {
    let made = made();
    let bad = made.gate.dir.join("bad");
    fs::write(&bad, "nothing").unwrap();
    fs::set_permissions(&bad, Permissions::from_mode(0o755)).unwrap();
    let bad = bad.display().to_string();
    let output = made.through(&mut made.before(&[&bad]));
    assert_eq!(output.status.code(), Some(255));
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(said, format!("exec {bad}: exec format error\n"));
}

#[test]
fn it_is_found_behind_an_init() {
    let made = made();
    let gate = made.gate.dir.join(GATE).display().to_string();
    let fifo = made.gate.dir.join(FIFO).display().to_string();
    let mut init = Command::new("sh");
    init.args(["-c", "\"$@\"; exit 3", "init", &gate, &fifo, "sleep", "60"]);
    let mut init = made.waiting(init.stderr(Stdio::null()));
    made.gate.open().unwrap();
    until("it is through", || {
        (!made.gate.holds(init.id())).then_some(())
    });
    assert!(init.try_wait().unwrap().is_none());
    let children = format!("/proc/{0}/task/{0}/children", init.id());
    let child = fs::read_to_string(children).unwrap();
    Command::new("kill").arg(child.trim()).status().unwrap();
    assert_eq!(init.wait().unwrap().code(), Some(3));
}

#[test]
fn it_is_made_again_and_removed() {
    let made = made();
    made.gate.make().unwrap();
    for name in [GATE, FIFO] {
        assert!(made.gate.dir.join(name).exists(), "{name}");
    }
    made.gate.open().unwrap();
    made.gate.remove().unwrap();
    made.gate.remove().unwrap();
    assert!(!made.gate.dir.exists() && !made.gate.holds(std::process::id()));
    assert!(made.gate.open().is_err());
}
