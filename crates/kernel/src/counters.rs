/// What was written to the kernel so far, by kind. What the kernel refused does
/// not count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Links made, set and deleted.
    pub links: u64,
    /// Addresses and routes added and deleted.
    pub routes: u64,
    /// Sysctls written.
    pub sysctls: u64,
    /// Sets made and destroyed, entries added and deleted.
    pub sets: u64,
    /// Tables whose rules were written.
    pub rules: u64,
    /// IPVS services and destinations made, changed and deleted, time-outs set.
    pub ipvs: u64,
    /// Processes started, for reading and for writing rules.
    pub processes: u64,
}

impl Counters {
    /// All writes together.
    pub fn writes(&self) -> u64 {
        self.links + self.routes + self.sysctls + self.sets + self.rules + self.ipvs
    }
}
