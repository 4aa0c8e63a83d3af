//! A task's log: a JSON line an output line, in the form of docker's json-file
//! driver. The file before the last rotation has `.1` at its end.

use std::{
    collections::VecDeque,
    fs::File,
    io::{self, BufRead as _, BufReader, Write as _},
    os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// A log is rotated at this many octets, so that a task has twice that at most.
const LARGEST: u64 = 10 << 20;
/// Lines longer than this are logged in pieces, of which only the last ends in a
/// line feed (docker's own limit).
const LONGEST_LINE: usize = 16 << 10;

/// Where a line came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogStream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// A line that a task wrote.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLine {
    /// The text with its line feed.
    pub log: String,
    /// Where it came from.
    pub stream: LogStream,
    /// When it was read.
    pub time: Timestamp,
}

/// Which lines of a log are wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogOptions {
    /// Of those that are there, only so many of the last.
    pub tail: Option<usize>,
    /// Then those that come, until the task ended.
    pub follow: bool,
    /// Only those from this moment on.
    pub since: Option<Timestamp>,
}

fn rotated(path: &Path) -> PathBuf {
    path.with_extension("log.1")
}

fn open(path: &Path) -> io::Result<Option<Open>> {
    match File::open(path) {
        Ok(file) => Open::new(file).map(Some),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Deletes a log.
pub(crate) fn delete(path: &Path) -> io::Result<()> {
    for path in [rotated(path), path.to_owned()] {
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// The reading end, which remembers how far it came.
pub(crate) struct Reader {
    path: PathBuf,
    since: Option<Timestamp>,
    /// For the first reading only.
    tail: Option<usize>,
    begun: bool,
    current: Option<Open>,
}

/// A log file that is being read.
struct Open {
    inode: u64,
    file: BufReader<File>,
    /// A line that is not complete yet.
    rest: Vec<u8>,
}

impl Open {
    fn new(file: File) -> io::Result<Self> {
        Ok(Self {
            inode: file.metadata()?.ino(),
            file: BufReader::new(file),
            rest: Vec::new(),
        })
    }

    /// The next line, if it is complete.
    fn line(&mut self) -> io::Result<Option<Vec<u8>>> {
        self.file.read_until(b'\n', &mut self.rest)?;
        let complete = self.rest.last() == Some(&b'\n');
        Ok(complete.then(|| std::mem::take(&mut self.rest)))
    }
}

impl Reader {
    pub(crate) fn new(path: &Path, options: LogOptions) -> Self {
        Self {
            path: path.to_owned(),
            since: options.since,
            tail: options.tail,
            begun: false,
            current: None,
        }
    }

    /// The files to be read, oldest first. The one that was read last stays open
    /// though it was rotated meanwhile, so that no line of it is lost.
    fn files(&mut self) -> io::Result<Vec<Open>> {
        let mut files = loop {
            let older = open(&rotated(&self.path))?;
            let newest = open(&self.path)?;
            match (&older, &newest) {
                // rotated between the two looks
                (Some(older), Some(newest)) if older.inode == newest.inode => {}
                _ => break older.into_iter().chain(newest).collect::<Vec<_>>(),
            }
        };
        if let Some(current) = self.current.take() {
            let known = files.iter().position(|file| file.inode == current.inode);
            files.splice(..known.map_or(0, |at| at + 1), [current]);
        }
        Ok(files)
    }

    /// The lines that have come since it was called last.
    pub(crate) fn read(&mut self) -> io::Result<Vec<LogLine>> {
        let mut files = self.files()?;
        let tail = self.tail.filter(|_| !self.begun).unwrap_or(usize::MAX);
        // a line that is not wanted is not parsed
        let mut lines = VecDeque::new();
        for file in &mut files {
            while let Some(line) = file.line()? {
                lines.push_back(line);
                if lines.len() > tail {
                    lines.pop_front();
                }
            }
        }
        self.current = files.pop();
        self.begun = true;
        // a line that a crash cut off is left out
        let parsed = lines
            .into_iter()
            .filter_map(|line| serde_json::from_slice::<LogLine>(&line).ok());
        Ok(parsed
            .filter(|line| self.since.is_none_or(|since| line.time >= since))
            .collect())
    }
}

/// The writing end.
pub(crate) struct Log {
    path: PathBuf,
    file: File,
    size: u64,
    /// Its last line is not whole.
    torn: bool,
}

impl Log {
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        // what a task says may be secret
        let file = File::options()
            .read(true)
            .append(true)
            .create(true)
            .mode(0o640)
            .open(path)?;
        let size = file.metadata()?.len();
        let mut last = [b'\n'];
        if size > 0 {
            file.read_exact_at(&mut last, size - 1)?;
        }
        Ok(Self {
            path: path.to_owned(),
            file,
            size,
            torn: last != [b'\n'],
        })
    }

    pub(crate) fn write(&mut self, stream: LogStream, text: &[u8]) -> io::Result<()> {
        let log = String::from_utf8_lossy(text).into_owned();
        let mut line = crate::protocol::line(&LogLine {
            log,
            stream,
            time: Timestamp::now(),
        });
        if self.size + line.len() as u64 > LARGEST {
            std::fs::rename(&self.path, rotated(&self.path))?;
            *self = Self::open(&self.path)?;
        }
        if self.torn {
            line.insert(0, b'\n');
        }
        // a full disk takes a part of it perhaps
        self.torn = true;
        self.file.write_all(&line)?;
        self.torn = false;
        self.size += line.len() as u64;
        Ok(())
    }
}

/// Makes lines of what is read in pieces.
pub(crate) struct Lines {
    stream: LogStream,
    rest: Vec<u8>,
}

impl Lines {
    pub(crate) fn new(stream: LogStream) -> Self {
        Self {
            stream,
            rest: Vec::new(),
        }
    }

    /// Logs the lines that are complete or too long.
    pub(crate) fn push(&mut self, bytes: &[u8], log: &mut Log) {
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            self.rest.extend_from_slice(part);
            while self.rest.len() > LONGEST_LINE {
                let piece: Vec<_> = self.rest.drain(..cut(&self.rest[..LONGEST_LINE])).collect();
                self.log(&piece, log);
            }
            if self.rest.last() == Some(&b'\n') {
                self.end(log);
            }
        }
    }

    /// Logs what is left.
    pub(crate) fn end(&mut self, log: &mut Log) {
        if !self.rest.is_empty() {
            let line = std::mem::take(&mut self.rest);
            self.log(&line, log);
        }
    }

    fn log(&self, line: &[u8], log: &mut Log) {
        // a full disk must not stop the task
        let _ = log.write(self.stream, line);
    }
}

/// Where a text may be cut so that no character is.
fn cut(text: &[u8]) -> usize {
    match std::str::from_utf8(text) {
        Err(error) if error.error_len().is_none() => error.valid_up_to(),
        _ => text.len(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(path: &Path) -> Vec<LogLine> {
        Reader::new(path, LogOptions::default()).read().unwrap()
    }

    fn texts(lines: Vec<LogLine>) -> Vec<String> {
        lines.into_iter().map(|line| line.log).collect()
    }

    #[test]
    fn what_is_written_is_read_and_old_lines_rotate_out() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.log");
        assert!(all(&path).is_empty());
        let mut log = Log::open(&path).unwrap();
        let long = vec![b'x'; 1 << 20];
        for _ in 0..25 {
            log.write(LogStream::Stdout, &long).unwrap();
        }
        log.write(LogStream::Stderr, b"last\n").unwrap();
        let lines = all(&path);
        assert!((10..25).contains(&lines.len()), "{}", lines.len());
        assert_eq!(lines.last().unwrap().log, "last\n");
        assert_eq!(lines.last().unwrap().stream, LogStream::Stderr);
        delete(&path).unwrap();
        assert!(all(&path).is_empty());
    }

    #[test]
    fn it_is_dockers_form() {
        let line = r#"{"log":"a\n","stream":"stderr","time":"2026-01-02T03:04:05.123456789Z"}"#;
        let read: LogLine = serde_json::from_str(line).unwrap();
        assert_eq!(serde_json::to_string(&read).unwrap(), line);
    }

    #[test]
    fn tail_since_and_a_torn_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.log");
        let mut log = Log::open(&path).unwrap();
        for n in 0..5 {
            log.write(LogStream::Stdout, format!("{n}\n").as_bytes())
                .unwrap();
        }
        log.file.write_all(b"{\"log\":\"torn").unwrap();
        let read = |tail, since| {
            let options = LogOptions {
                tail,
                since,
                follow: false,
            };
            Reader::new(&path, options).read().unwrap()
        };
        assert_eq!(texts(read(Some(2), None)), ["3\n", "4\n"]);
        assert_eq!(texts(read(Some(0), None)), [""; 0]);
        assert_eq!(read(Some(9), None).len(), 5);
        let third = read(None, None)[2].time;
        assert_eq!(texts(read(None, Some(third)))[0], "2\n");
        assert!(read(None, Some(Timestamp::MAX)).is_empty());
        // who writes next leaves the torn line as it is
        let mut log = Log::open(&path).unwrap();
        for text in ["5\n", "6\n"] {
            log.write(LogStream::Stdout, text.as_bytes()).unwrap();
        }
        assert_eq!(texts(read(Some(2), None)), ["5\n", "6\n"]);
        assert_eq!(read(None, None).len(), 7);
    }

    #[test]
    fn a_follower_loses_no_line_when_the_log_is_rotated() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.log");
        let options = LogOptions {
            tail: Some(1),
            follow: true,
            since: None,
        };
        let mut reader = Reader::new(&path, options);
        assert!(reader.read().unwrap().is_empty());
        let mut log = Log::open(&path).unwrap();
        let mut seen = Vec::new();
        for n in 0..40_u32 {
            let text = format!("{}{n}\n", " ".repeat(1 << 20));
            log.write(LogStream::Stdout, text.as_bytes()).unwrap();
            // it looks seldom, but more often than the log is rotated twice
            if n % 5 == 0 {
                seen.extend(texts(reader.read().unwrap()));
            }
        }
        seen.extend(texts(reader.read().unwrap()));
        let numbers: Vec<u32> = seen
            .iter()
            .map(|text| text.trim().parse().unwrap())
            .collect();
        assert_eq!(numbers, (0..40).collect::<Vec<_>>());
    }

    #[test]
    fn output_becomes_lines_however_it_comes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.log");
        let mut log = Log::open(&path).unwrap();
        let mut lines = Lines::new(LogStream::Stdout);
        for piece in ["one\ntw", "o\n", "\n", "né"] {
            for byte in piece.as_bytes() {
                lines.push(&[*byte], &mut log);
            }
        }
        assert_eq!(texts(all(&path)), ["one\n", "two\n", "\n"]);
        lines.end(&mut log);
        lines.end(&mut log);
        assert_eq!(texts(all(&path)).last().unwrap(), "né");

        // a long line keeps its characters whole: é begins at an odd octet
        let long = format!("x{}\n", "é".repeat(LONGEST_LINE));
        lines.push(long.as_bytes(), &mut log);
        let pieces = texts(all(&path)).split_off(4);
        assert_eq!(pieces.len(), 3);
        assert_eq!(pieces.concat(), long);
        // what is no text is no error
        lines.push(b"\xff\xfe\n", &mut log);
        assert_eq!(texts(all(&path)).last().unwrap(), "\u{fffd}\u{fffd}\n");
    }
}
