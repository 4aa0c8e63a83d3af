use std::fmt;

use serde::{Deserialize, Serialize};

/// A firewall mark that names one IPVS service, in host byte order as the
/// kernel's `skb->mark` and `ipvsadm -f` have it.
///
/// Services use 1 to 0x0fff_ffff; the numbers above are kept for nodes, since
/// IPVS compares the whole mark.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct Mark(u32);

impl Mark {
    /// The lowest mark that is given out. Small marks are left to people's own
    /// rules; Swarm starts at 256 as well.
    pub const FIRST: Self = Self(0x100);
    /// The highest mark of a service.
    pub const LAST: Self = Self(0x0fff_ffff);

    /// The mark with this number, if it is one for services.
    pub fn new(number: u32) -> Option<Self> {
        (1..=Self::LAST.0).contains(&number).then_some(Self(number))
    }

    /// The number, in host byte order.
    pub fn get(self) -> u32 {
        self.0
    }
}

impl TryFrom<u32> for Mark {
    type Error = String;
    fn try_from(number: u32) -> Result<Self, String> {
        Self::new(number).ok_or_else(|| format!("{number:#x} is not a mark for services"))
    }
}

impl From<Mark> for u32 {
    fn from(mark: Mark) -> Self {
        mark.0
    }
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_of_services_stay_below_those_of_nodes() {
        assert_eq!(Mark::new(0), None);
        assert_eq!(Mark::new(0x0fff_ffff), Some(Mark::LAST));
        assert_eq!(Mark::new(0x1000_0000), None);
        assert_eq!(Mark::FIRST.to_string(), "0x100");
        assert_eq!(serde_json::to_string(&Mark::FIRST).unwrap(), "256");
        for bad in ["0", "268435456", "-1"] {
            assert!(serde_json::from_str::<Mark>(bad).is_err(), "{bad}");
        }
    }
}
