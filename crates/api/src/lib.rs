//! The Docker Engine API, over a unix socket and, for who has a certificate, over TCP;
//! and the client that the `ipvsmesh` command uses. What is not of services, tasks, nodes,
//! their networks, configs and secrets is passed on to the Docker Engine of this machine, so that
//! `docker` and others that speak its API need this socket alone.
//!
//! | path (after an optional `/vX.Y`) | what |
//! |---|---|
//! | `GET /_ping`, `/version`, `/info`, `/swarm` | who we are, with what the engine says of itself |
//! | `GET /services`, `/services/ID`; `POST /services/create`, `/services/ID/update`; `DELETE /services/ID`; `GET /services/ID/logs` | services |
//! | `GET /tasks`, `/tasks/ID`, `/tasks/ID/logs` | tasks |
//! | `GET /nodes`, `/nodes/ID` | nodes |
//! | `GET /networks`, `/networks/ID`; `POST /networks/create`; `DELETE /networks/ID` | networks: those of the drivers `ipvsmesh` and `overlay` are ours, others the engine's |
//! | `GET /configs`, `/configs/ID`; `POST /configs/create`, `/configs/ID/update`; `DELETE /configs/ID`; `/secrets` in the same way | configs and secrets |
//! | `GET /events` | what happened: Docker's events and types of ours, and the engine's |
//! | `GET /ipvsmesh/v1/events`, `/ipvsmesh/v1/networks`, `/ipvsmesh/v1/networks/ID` | the same, of ours alone |
//! | `GET /ipvsmesh/v1/inspect/TARGET` | [`inspect::Inspected`]; `?type=` says what it is, where that is not clear |
//! | `GET /ipvsmesh/v1/stats` | [`stats::Stats`] |
//! | `POST /ipvsmesh/v1/trace` | [`trace::Trace`] of a [`trace::TraceRequest`] |
//! | `GET /ipvsmesh/v1/tasks/ID/sandbox` | [`SandboxRef`] |
//! | `GET /ipvsmesh/v1/settled` | nothing, once the kernel and the names are as the state says |
//! | `GET /ipvsmesh/v1/status` | the daemon's counters |
//!
//! Anything else is the engine's; 503 where there is none. `/_ping` says the engine's
//! version of the API, which clients then speak to both; we understand each. Errors are Docker's `{"message": "..."}`. The calls and
//! their fields are those of <https://docs.docker.com/reference/api/engine/version/v1.44/>.
//! A service's published port has one more, `HostIP`: the host address that it is
//! for. An update that does not say it leaves it, `""` is every address.
#![forbid(unsafe_code)]

mod backend;
pub mod client;
mod convert;
mod engine;
mod events;
mod filters;
mod generated;
pub mod inspect;
mod logs;
mod metrics;
mod registry_auth;
mod server;
mod show;
pub mod stats;
mod tls;
pub mod trace;

pub use backend::{
    ApiError, Backend, ContainerRef, ErrorKind, Events, LogLine, LogOptions, SandboxRef,
};
pub use engine::Engine;
pub use metrics::{Figures, serve_metrics};
pub use server::serve;
pub use show::{port, preferences};
pub use tls::{TlsError, TlsListener, TlsSettings};

/// The version of the Engine API that is spoken.
pub const API_VERSION: &str = "1.44";
