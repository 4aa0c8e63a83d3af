//! The way of one packet, station by station: what a probe met, or would have met.

use serde::{Deserialize, Serialize};

/// What is to be traced: the body of `POST /ipvsmesh/v1/trace`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TraceRequest {
    /// Who asks: a task's name or id, `host`, or the address of another machine.
    pub from: String,
    /// Who is asked: a name, an address (a VIP, a task's, any), or the number of a
    /// published port.
    pub to: String,
    /// By UDP rather than TCP.
    #[serde(default)]
    pub udp: bool,
    /// The port, where `to` is none. A service's without: the first port that it
    /// publishes, or that one of its tasks listens on.
    #[serde(default)]
    pub port: Option<u16>,
    /// How long the probe is waited for, in milliseconds.
    #[serde(default = "patience")]
    pub patience_ms: u64,
}

/// Long enough for a first packet that was lost by chance: it is sent again after 1 s.
fn patience() -> u64 {
    3000
}

/// The way of one packet.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trace {
    /// Who asks, as `client.1` or `host`.
    pub from: String,
    /// Who is asked, as `vote:80/tcp`.
    pub to: String,
    /// Address and port that the probe was sent from; `None`: none was sent.
    pub source: Option<String>,
    /// Address and port that it was sent to; `None`: the name has no address.
    pub destination: Option<String>,
    /// Whether a probe was sent. Without one, the stations say what would happen.
    pub sent: bool,
    /// Whether it was answered, or would be.
    pub arrived: bool,
    /// The stations, in the order of the way there.
    pub stations: Vec<Station>,
}

impl Trace {
    /// The station where it was lost.
    pub fn lost(&self) -> Option<&Station> {
        let mut stations = self.stations.iter();
        stations.find(|station| station.verdict == Verdict::Lost)
    }
}

/// One station of the way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Station {
    /// `name`, `client`, `gateway`, `host`, `mark`, `ipvs`, `task` or `reply`.
    pub station: String,
    /// Where that is: a namespace, or `host`.
    pub place: String,
    /// What became of the packet there.
    pub verdict: Verdict,
    /// What was seen there; where it was lost, why.
    pub what: String,
    /// What to do next; empty where nothing is to be done.
    pub next: String,
}

/// What became of the packet at a station.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// It passed, or nothing there is in its way.
    Ok,
    /// It passed, and something there is not as it should be.
    Warning,
    /// It was lost there, or would be.
    Lost,
    /// It did not get there.
    Unreached,
}

impl Verdict {
    /// The word for people.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Lost => "LOST",
            Self::Unreached => "-",
        }
    }
}
