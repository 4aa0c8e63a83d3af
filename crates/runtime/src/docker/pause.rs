//! The program of a sandbox: it waits for ever. It is made here, byte by byte, so
//! that no registry is needed, and so that it is a page of memory and nothing else:
//! an ELF header, one program header, and a loop around one system call.

use std::io;

/// Name and tag of its image. The tag is raised when the program changes.
pub(crate) const IMAGE: &str = "ipvsmesh-pause";
/// See [`IMAGE`].
pub(crate) const TAG: &str = "1";
/// Where the program is in it.
pub(crate) const PROGRAM: &str = "/pause";

/// Where it is loaded; a multiple of every page size there is.
const BASE: u64 = 0x40_0000;
/// Octets of an ELF64 header and of a program header (elf(5)).
const HEADER: u16 = 64;
const PROGRAM_HEADER: u16 = 56;

/// `e_machine` and the instructions; `None`: not known for this processor.
fn machine() -> Option<(u16, Vec<u8>)> {
    match std::env::consts::ARCH {
        "x86_64" => Some((
            62,
            vec![
                0xb8, 34, 0, 0, 0, // mov eax, SYS_pause
                0x0f, 0x05, // syscall
                0xeb, 0xf7, // jmp to the first
            ],
        )),
        "aarch64" => {
            let words: [u32; 7] = [
                0xd280_0000, // mov x0, 0: ppoll(NULL, 0, NULL, NULL)
                0xd280_0001, // mov x1, 0
                0xd280_0002, // mov x2, 0
                0xd280_0003, // mov x3, 0
                0xd280_0928, // mov x8, SYS_ppoll (73)
                0xd400_0001, // svc 0
                0x17ff_fffa, // b to the first
            ];
            Some((183, words.iter().flat_map(|w| w.to_le_bytes()).collect()))
        }
        _ => None,
    }
}

/// The program.
fn program() -> Option<Vec<u8>> {
    let (machine, code) = machine()?;
    let start = u64::from(HEADER + PROGRAM_HEADER);
    let size = start + code.len() as u64;
    let mut elf = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let half = |value: u16, elf: &mut Vec<u8>| elf.extend(value.to_le_bytes());
    half(2, &mut elf); // ET_EXEC
    half(machine, &mut elf);
    elf.extend(1u32.to_le_bytes());
    for value in [BASE + start, u64::from(HEADER), 0] {
        elf.extend(value.to_le_bytes()); // entry, program headers, no sections
    }
    elf.extend(0u32.to_le_bytes());
    for value in [HEADER, PROGRAM_HEADER, 1, 64, 0, 0] {
        half(value, &mut elf);
    }
    elf.extend(1u32.to_le_bytes()); // PT_LOAD
    elf.extend(5u32.to_le_bytes()); // readable and executable
    for value in [0, BASE, BASE, size, size, 0x1_0000] {
        elf.extend(value.to_le_bytes());
    }
    elf.extend(code);
    Some(elf)
}

/// The image's only layer, as a tar archive.
///
/// # Errors
/// There is no program for this processor.
pub(crate) fn archive() -> io::Result<Vec<u8>> {
    let Some(program) = program() else {
        return Err(io::Error::new(
            io::ErrorKind::Unsupported,
            format!(
                "docker tasks run on x86_64 and aarch64, not on {}",
                std::env::consts::ARCH
            ),
        ));
    };
    let mut header = tar::Header::new_gnu();
    header.set_size(program.len() as u64);
    header.set_mode(0o755);
    let mut archive = tar::Builder::new(Vec::new());
    archive.append_data(&mut header, PROGRAM.trim_start_matches('/'), &program[..])?;
    archive.into_inner()
}

#[cfg(test)]
mod tests {
    use std::{
        fs::{self, File},
        os::unix::fs::PermissionsExt as _,
        process::Command,
        time::{Duration, Instant},
    };

    use super::*;

    #[test]
    fn it_waits_and_takes_next_to_no_memory() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pause");
        fs::write(&path, program().unwrap()).unwrap();
        File::open(&path)
            .unwrap()
            .set_permissions(fs::Permissions::from_mode(0o755))
            .unwrap();
        let mut child = Command::new(&path).spawn().unwrap();
        let status = || fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
        let end = Instant::now() + Duration::from_secs(10);
        while !(status().contains("Name:\tpause") && status().contains("State:\tS")) {
            assert!(Instant::now() < end, "{}", status());
            std::thread::sleep(Duration::from_millis(10));
        }
        let text = status();
        let resident = text.lines().find(|line| line.starts_with("VmRSS:"));
        let resident: u64 = resident
            .and_then(|line| line.split_whitespace().nth(1)?.parse().ok())
            .unwrap();
        assert!(resident <= 16, "{text}");
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn the_archive_holds_it_alone() {
        let archive = archive().unwrap();
        let mut read = tar::Archive::new(&archive[..]);
        let names: Vec<_> = read
            .entries()
            .unwrap()
            .map(|entry| entry.unwrap().path().unwrap().display().to_string())
            .collect();
        assert_eq!(names, ["pause"]);
        assert_eq!(archive.len(), 2048);
    }
}
