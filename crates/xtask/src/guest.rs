//! The command that a guest runs, as a script for its shell.

use std::{
    ffi::{OsStr, OsString},
    os::unix::ffi::{OsStrExt as _, OsStringExt as _},
};

/// One word of a shell line that means exactly these bytes.
pub(crate) fn quoted(word: &OsStr) -> OsString {
    let mut bytes = vec![b'\''];
    for &byte in word.as_bytes() {
        match byte {
            b'\'' => bytes.extend_from_slice(b"'\\''"),
            _ => bytes.push(byte),
        }
    }
    bytes.push(b'\'');
    OsString::from_vec(bytes)
}

/// A script that becomes this command.
pub(crate) fn script(command: &[OsString]) -> Vec<u8> {
    let mut line = OsString::from("exec");
    for word in command {
        line.push(" ");
        line.push(quoted(word));
    }
    line.push("\n");
    line.into_vec()
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_shell_sees_the_words_as_they_are() {
        let words = [
            "printf",
            "<%s>",
            "",
            "a b",
            "it's",
            "$HOME `x` \\ \"",
            "*",
            "-n",
            "new\nline",
        ];
        let mut command: Vec<_> = words.map(OsString::from).to_vec();
        command.push(OsString::from_vec(vec![0xff, b'x']));
        let script = OsString::from_vec(script(&command));
        let output = Command::new("sh").arg("-c").arg(script).output().unwrap();
        let mut expected: Vec<u8> = Vec::new();
        for word in &command[2..] {
            expected.extend([b"<", word.as_bytes(), b">"].concat());
        }
        assert_eq!(output.stdout, expected);
    }
}
