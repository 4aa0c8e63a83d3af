//! A tar archive, written as it goes: the payload disk is one.

use std::{
    ffi::OsStr,
    io::{self, Read, Write},
    os::unix::ffi::OsStrExt as _,
};

const BLOCK: usize = 512;

/// Writes an archive (ustar).
pub(crate) struct Archive<W> {
    to: W,
}

impl<W: Write> Archive<W> {
    pub(crate) fn new(to: W) -> Self {
        Self { to }
    }

    /// A file; its contents have exactly this length.
    pub(crate) fn file(
        &mut self,
        path: &str,
        mode: u32,
        length: u64,
        contents: impl Read,
    ) -> io::Result<()> {
        self.to
            .write_all(&header(path, mode, length, b'0', OsStr::new(""))?)?;
        let copied = io::copy(&mut contents.take(length), &mut self.to)?;
        if copied != length {
            return Err(io::Error::other(format!("{path} became shorter meanwhile")));
        }
        let rest = (length % BLOCK as u64) as usize;
        if rest > 0 {
            self.to.write_all(&[0; BLOCK][rest..])?;
        }
        Ok(())
    }

    /// A symbolic link.
    pub(crate) fn link(&mut self, path: &str, target: &OsStr) -> io::Result<()> {
        self.to.write_all(&header(path, 0o777, 0, b'2', target)?)
    }

    /// The archive's end.
    pub(crate) fn finish(mut self) -> io::Result<W> {
        self.to.write_all(&[0; 2 * BLOCK])?;
        self.to.flush()?;
        Ok(self.to)
    }
}

fn header(path: &str, mode: u32, length: u64, kind: u8, target: &OsStr) -> io::Result<[u8; BLOCK]> {
    let mut block = [0; BLOCK];
    let mut put = |from: usize, room: usize, bytes: &[u8]| {
        if bytes.len() > room {
            let long = String::from_utf8_lossy(bytes);
            return Err(io::Error::other(format!(
                "{long} is too long for an archive"
            )));
        }
        block[from..from + bytes.len()].copy_from_slice(bytes);
        Ok(())
    };
    put(0, 100, path.as_bytes())?;
    put(100, 8, format!("{mode:07o}\0").as_bytes())?;
    put(108, 8, b"0000000\0")?;
    put(116, 8, b"0000000\0")?;
    put(124, 12, format!("{length:011o}\0").as_bytes())?;
    put(136, 12, b"00000000000\0")?;
    // a sum is made with spaces in its own place
    put(148, 8, b"        ")?;
    put(156, 1, &[kind])?;
    put(157, 100, target.as_bytes())?;
    put(257, 8, b"ustar\x0000")?;
    let sum: u32 = block.iter().copied().map(u32::from).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    Ok(block)
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    fn read_by_tar(archive: &[u8], arguments: &[&str]) -> String {
        let mut tar = Command::new("tar");
        tar.args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut child = tar.spawn().unwrap();
        child.stdin.take().unwrap().write_all(archive).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success());
        String::from_utf8(output.stdout).unwrap()
    }

    #[test]
    fn tar_reads_what_is_written() {
        let mut archive = Archive::new(Vec::new());
        let contents = "x".repeat(BLOCK + 1);
        archive
            .file("a/long", 0o755, BLOCK as u64 + 1, contents.as_bytes())
            .unwrap();
        archive.file("a/empty", 0o644, 0, &b""[..]).unwrap();
        archive.link("a/link", OsStr::new("/etc/target")).unwrap();
        let bytes = archive.finish().unwrap();
        assert_eq!(bytes.len() % BLOCK, 0);
        let list = read_by_tar(&bytes, &["-tvf", "-"]);
        let lines: Vec<_> = list.lines().collect();
        assert!(
            lines[0].starts_with("-rwxr-xr-x") && lines[0].ends_with("a/long"),
            "{list}"
        );
        assert!(lines[1].starts_with("-rw-r--r--"), "{list}");
        assert!(lines[2].ends_with("a/link -> /etc/target"), "{list}");
        assert_eq!(read_by_tar(&bytes, &["-xOf", "-", "a/long"]), contents);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let mut archive = Archive::new(Vec::new());
        assert!(archive.link(&"p".repeat(101), OsStr::new("t")).is_err());
        assert!(archive.file("short", 0o644, 2, &b"1"[..]).is_err());
    }
}
