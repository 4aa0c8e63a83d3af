//! Giving up root.

use std::io;

use nix::{
    sys::prctl,
    unistd::{Gid, Uid, setgroups, setresgid, setresuid},
};

/// The user and group `nobody` of every Linux system: owns no file.
const NOBODY: u32 = 65_534;

/// Makes the whole process, all its threads, `nobody` without any capability, for
/// good: programs it might run cannot win them back either. What is open stays
/// open.
///
/// # Errors
/// The kernel refused; the process should end then.
pub fn give_up() -> io::Result<()> {
    let (user, group) = (Uid::from_raw(NOBODY), Gid::from_raw(NOBODY));
    setgroups(&[])?;
    setresgid(group, group, group)?;
    // the kernel takes the capabilities of who was root and is not any more
    setresuid(user, user, user)?;
    prctl::set_no_new_privs()?;
    Ok(())
}
