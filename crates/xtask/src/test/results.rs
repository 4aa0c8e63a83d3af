//! How many tests passed and where the others failed, by what libtest says.

use std::{
    fmt,
    io::{self, Write},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Numbers of tests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) passed: u32,
    pub(crate) failed: u32,
    pub(crate) ignored: u32,
}

impl Counts {
    pub(crate) fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.ignored += other.ignored;
    }

    /// From `test result: ok. 3 passed; 0 failed; 1 ignored; ...`.
    fn of_line(line: &str) -> Option<Self> {
        let (_, numbers) = line.strip_prefix("test result: ")?.split_once(". ")?;
        let mut counts = Self::default();
        for part in numbers.split("; ") {
            let Some((number, what)) = part.split_once(' ') else {
                continue;
            };
            let count = match what {
                "passed" => &mut counts.passed,
                "failed" => &mut counts.failed,
                "ignored" => &mut counts.ignored,
                _ => continue,
            };
            *count = number.parse().ok()?;
        }
        Some(counts)
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed", self.passed, self.failed)?;
        match self.ignored {
            0 => Ok(()),
            ignored => write!(f, ", {ignored} skipped"),
        }
    }
}

/// What became of the tests.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Results {
    pub(crate) counts: Counts,
    pub(crate) failures: Vec<Failure>,
}

/// A test that failed, and why: one sees it behind thousands of lines of others'.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) test: String,
    /// Line by line; a panic is its first one: where, and the start of what it says.
    pub(crate) why: Vec<String>,
}

/// How much of a panic is shown: values that differ may be long.
const LINES: usize = 8;
const CHARACTERS: usize = 300;

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.test)?;
        self.why
            .iter()
            .try_for_each(|line| write!(f, "\n    {line}"))
    }
}

/// A reader of libtest's output.
#[derive(Default)]
struct Reader {
    results: Results,
    /// Whether the lines are of the last failure's panic.
    panic: bool,
}

impl Reader {
    fn line(&mut self, line: &str) {
        if let Some(counts) = Counts::of_line(line) {
            self.results.counts.add(counts);
        }
        if let Some(test) = line
            .strip_prefix("---- ")
            .and_then(|line| line.strip_suffix(" stdout ----"))
        {
            self.results.failures.push(Failure {
                test: test.to_owned(),
                why: Vec::new(),
            });
            self.panic = false;
            return;
        }
        let Some(Failure { why, .. }) = self.results.failures.last_mut() else {
            return;
        };
        let start = line
            .strip_prefix("thread '")
            .and_then(|line| line.split_once(" panicked at "));
        match start {
            Some((_, place)) if why.is_empty() => {
                why.push(place.to_owned());
                self.panic = true;
            }
            Some(_) => self.panic = false,
            None => {
                self.panic &= !line.starts_with("note: ") && why.len() <= LINES;
                if self.panic {
                    why.push(line.chars().take(CHARACTERS).collect());
                }
            }
        }
    }
}

/// The results of what came through until now.
#[derive(Clone, Default)]
pub(crate) struct Tally(Arc<Mutex<Reader>>);

impl Tally {
    pub(crate) fn results(&self) -> Results {
        self.lock().results.clone()
    }

    fn lock(&self) -> MutexGuard<'_, Reader> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A way through for tests' output, which it reads.
pub(crate) struct Tallied<W> {
    to: W,
    line: Vec<u8>,
    tally: Tally,
}

impl<W> Tallied<W> {
    pub(crate) fn new(to: W) -> Self {
        Self {
            to,
            line: Vec::new(),
            tally: Tally::default(),
        }
    }

    pub(crate) fn tally(&self) -> Tally {
        self.tally.clone()
    }
}

impl<W: Write> Write for Tallied<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.to.write(bytes)?;
        for &byte in &bytes[..written] {
            if byte != b'\n' {
                self.line.push(byte);
                continue;
            }
            let line = std::mem::take(&mut self.line);
            let line = String::from_utf8_lossy(&line);
            self.tally.lock().line(line.trim_end_matches('\r'));
        }
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_summed_and_pass_through() {
        let text = "running 2 tests\ntest a ... ok\n\
            test result: ok. 2 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.1s\n\
            test result: FAILED. 10 passed; 3 failed; 0 ignored; 0 measured; 7 filtered out; finished in 1s\n\
            a test says: test result: ok. 5 passed\n";
        let mut tallied = Tallied::new(Vec::new());
        // in pieces, as they come from a pipe
        for piece in text.as_bytes().chunks(7) {
            tallied.write_all(piece).unwrap();
        }
        assert_eq!(
            tallied.tally().results().counts,
            Counts {
                passed: 12,
                failed: 3,
                ignored: 1
            }
        );
        assert_eq!(tallied.to, text.as_bytes());
    }

    #[test]
    fn a_failure_is_kept_with_its_first_panic() {
        let text = "failures:\n\n---- area::one stdout ----\nit prints this\n\n\
            thread 'area::one' (7) panicked at tests/one.rs:3:5:\n\
            assertion `left == right` failed\n  left: 1\n right: 2\n\
            note: run with `RUST_BACKTRACE=1`\n--- the daemon's last lines:\nx\n\
            thread 'area::one' panicked at tests/two.rs:3:5:\nin a drop\n\n\
            ---- area::two stdout ----\nError: it ended with an error\n\n\n\
            failures:\n    area::one\n    area::two\n";
        let mut tallied = Tallied::new(Vec::new());
        tallied.write_all(text.as_bytes()).unwrap();
        let shown: Vec<_> = tallied
            .tally()
            .results()
            .failures
            .iter()
            .map(Failure::to_string)
            .collect();
        assert_eq!(
            shown,
            [
                "area::one\n    tests/one.rs:3:5:\n    assertion `left == right` failed\n      left: 1\n     right: 2",
                "area::two"
            ]
        );
    }

    #[test]
    fn a_long_panic_is_cut() {
        let mut reader = Reader::default();
        reader.line("---- long stdout ----");
        reader.line("thread 'long' panicked at long.rs:1:1:");
        (0..100).for_each(|number| reader.line(&number.to_string()));
        assert_eq!(reader.results.failures[0].why.len(), LINES + 1);
    }

    #[test]
    fn other_lines_count_nothing() {
        assert_eq!(Counts::of_line("test result"), None);
        assert_eq!(Counts::of_line("test result: ok. x passed"), None);
        assert_eq!(Counts::of_line(""), None);
    }
}
