use serde::{Deserialize, Serialize};

/// What is wanted beside what the kernel has; both as people read them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Compared {
    /// What is wanted; `None`: nothing is.
    pub wanted: Option<String>,
    /// What the kernel has; `None`: nothing.
    pub kernel: Option<String>,
    /// What follows from the two.
    #[serde(default)]
    pub verdict: Verdict,
}

impl Compared {
    /// The two beside each other.
    pub fn new(wanted: Option<String>, kernel: Option<String>) -> Self {
        let verdict = match (&wanted, &kernel) {
            (None, None) => Verdict::Unused,
            (Some(_), None) => Verdict::Missing,
            (None, Some(_)) => Verdict::Foreign,
            (Some(wanted), Some(kernel)) if wanted == kernel => Verdict::Ok,
            (Some(_), Some(_)) => Verdict::Differs,
        };
        Self {
            wanted,
            kernel,
            verdict,
        }
    }

    /// Whether both are the same.
    pub fn agrees(&self) -> bool {
        self.wanted == self.kernel
    }
}

/// What follows from what is wanted and what there is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// There is nothing, and shall be nothing.
    #[default]
    Unused,
    /// It is as wanted.
    Ok,
    /// It is not there.
    Missing,
    /// It is there, and nobody wants it.
    Foreign,
    /// It is another one than is wanted.
    Differs,
}

impl Verdict {
    /// The word for it: in capitals where something is wrong.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unused => "unused",
            Self::Ok => "ok",
            Self::Missing => "MISSING",
            Self::Foreign => "FOREIGN",
            Self::Differs => "DIFFERS",
        }
    }
}

/// One thing in the kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// Where: `host`, `ingress`, `router`, or a task's name.
    pub place: String,
    /// What, such as `link up0` or `route to 10.100.0.2/32`.
    pub what: String,
    /// Its two sides.
    #[serde(flatten)]
    pub compared: Compared,
}
