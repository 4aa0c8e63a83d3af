//! Programs of the system.

use std::{env, ffi::OsString, process::Command};

/// A command whose program is looked for in the administrator's directories
/// too: the PATH of a user who became root often leaves them out.
pub(crate) fn command(program: &str) -> Command {
    let mut path = env::var_os("PATH").unwrap_or_else(|| OsString::from("/usr/bin:/bin"));
    path.push(":/usr/local/sbin:/usr/sbin:/sbin");
    let mut command = Command::new(program);
    command.env("PATH", path);
    command
}
