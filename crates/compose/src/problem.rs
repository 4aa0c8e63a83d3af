use std::{cell::RefCell, fmt, sync::Arc};

/// What is wrong with a compose file, or is ignored in it, and where.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// The file's name.
    pub file: Arc<str>,
    /// Its line, from 1; 0 where there is none.
    pub line: u64,
    /// `services.web.ports[0]`; empty: the file itself.
    pub key: String,
    /// What, and what to do.
    pub what: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file)?;
        if self.line > 0 {
            write!(f, ":{}", self.line)?;
        }
        if !self.key.is_empty() {
            write!(f, ": {}", self.key)?;
        }
        write!(f, ": {}", self.what)
    }
}

/// All that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Problems(pub Vec<Problem>);

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<_> = self.0.iter().map(ToString::to_string).collect();
        f.write_str(&lines.join("\n"))
    }
}

/// Where a value is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) file: Arc<str>,
    pub(crate) line: u64,
}

impl Place {
    pub(crate) fn problem(&self, key: &str, what: impl Into<String>) -> Problem {
        Problem {
            file: self.file.clone(),
            line: self.line,
            key: key.to_owned(),
            what: what.into(),
        }
    }
}

/// What was found on the way: a reader goes on after a problem, so that all are told.
#[derive(Debug, Default)]
pub(crate) struct Log {
    problems: RefCell<Vec<Problem>>,
    warnings: RefCell<Vec<Problem>>,
}

impl Log {
    pub(crate) fn wrong(&self, problem: Problem) {
        self.problems.borrow_mut().push(problem);
    }

    pub(crate) fn warn(&self, warning: Problem) {
        let mut warnings = self.warnings.borrow_mut();
        if !warnings.contains(&warning) {
            warnings.push(warning);
        }
    }

    /// The value with the warnings, unless something is wrong.
    pub(crate) fn end<T>(self, value: T) -> Result<(T, Vec<Problem>), Problems> {
        let mut problems = self.problems.into_inner();
        problems.dedup();
        match problems.is_empty() {
            true => Ok((value, self.warnings.into_inner())),
            false => Err(Problems(problems)),
        }
    }
}
