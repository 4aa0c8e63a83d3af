//! `ipvsmesh trace`: sends a probe, and says station by station what became of it.
//!
//! Nothing is changed for that, no rule and no sysctl: the kernel is read before the
//! probe and after it, and knows the connection by its ports: in IPVS's connections,
//! in the host's connection tracking, among the sockets of the task. What that proves
//! to have been passed was passed; the cause is looked for behind it, in what differs
//! from what is wanted and in what was counted as dropped meanwhile. [`gather`] finds
//! out, [`explain`] decides.

mod differs;
mod drift;
mod dropped;
mod evidence;
mod explain;
mod facts;
mod gather;
mod names;
mod obstacles;
mod probe;
mod scene;
mod task;

use std::{
    net::{IpAddr, SocketAddr},
    path::Path,
    sync::Arc,
    time::Duration,
};

use api::{
    ApiError, ErrorKind,
    trace::{Trace, TraceRequest},
};
use kernel::Kernel;
use model::{Instance, NodeId, Protocol, State, TaskId};
use plan::netns::Places;

use evidence::Asked;
use explain::Scene;
use scene::{Client, Target, To};

/// How long a probe is waited for, at most.
const LONGEST: Duration = Duration::from_secs(60);

/// What a trace is made with.
pub(crate) struct Tracer<'a> {
    pub(crate) state: Arc<State>,
    pub(crate) node: &'a NodeId,
    pub(crate) instance: &'a Instance,
    pub(crate) kernel: &'a Kernel,
    /// What is wanted of the kernel.
    pub(crate) wanted: Places,
    /// Names the servers for other names.
    pub(crate) resolv_conf: &'a Path,
    /// The responder's process, as it was last seen.
    pub(crate) responder: u32,
    /// What differs is repaired.
    pub(crate) repairs: bool,
}

impl Tracer<'_> {
    /// Traces.
    pub(crate) async fn run(&self, request: &TraceRequest) -> Result<Trace, ApiError> {
        let protocol = match request.udp {
            true => Protocol::Udp,
            false => Protocol::Tcp,
        };
        let patience = Duration::from_millis(request.patience_ms).min(LONGEST);
        let own = self.own_addresses()?;
        let client = scene::client(&self.state, &own, &request.from)?;
        let to = To::parse(&request.to, request.port)?;
        let (name, asked, ip, port) = self.resolve(&client, to, &own, protocol, patience).await?;
        let Some(ip) = ip else {
            let scene = self.scene(client, Target::Outside, None, name, protocol);
            return Ok(explain::unresolved(&scene, asked.as_ref()));
        };
        let target = scene::target(&self.state, &own, ip, port, protocol);
        let Some(port) = port.or_else(|| self.usual_port(&target, protocol)) else {
            if let (Some(asked), Target::Outside) = (&asked, &target) {
                let scene = self.scene(client, target, None, name, protocol);
                return Ok(explain::resolved(&scene, asked));
            }
            return Err(ApiError::invalid(format!(
                "which port of {}? nothing is published or listens there: give --port",
                request.to
            )));
        };
        let at = SocketAddr::new(ip, port);
        let scene = self.scene(client, target, Some(at), name, protocol);
        let mut evidence = self.gather(&scene, patience).await?;
        evidence.asked = asked;
        Ok(explain::explain(&scene, &evidence))
    }

    fn scene(
        &self,
        client: Client,
        target: Target,
        at: Option<SocketAddr>,
        name: Option<String>,
        protocol: Protocol,
    ) -> Scene<'_> {
        Scene {
            state: &self.state,
            node: self.node,
            instance: self.instance,
            wanted: &self.wanted,
            repairs: self.repairs,
            client,
            target,
            at,
            name,
            protocol,
        }
    }

    /// The host's addresses that others may ask it by; its link to the mesh comes last.
    fn own_addresses(&self) -> Result<Vec<IpAddr>, ApiError> {
        let all = kernel::host::addresses();
        let mut all = all.map_err(|error| ApiError::internal(crate::chain(&error)))?;
        let link = self.instance.host_link();
        all.sort_by_key(|(_, on)| *on == link);
        Ok(all.into_iter().map(|(net, _)| net.addr()).collect())
    }

    /// The name that was asked for and how that went, the address, and the port if it
    /// is known.
    async fn resolve(
        &self,
        client: &Client,
        to: To,
        own: &[IpAddr],
        protocol: Protocol,
        patience: Duration,
    ) -> Result<(Option<String>, Option<Asked>, Option<IpAddr>, Option<u16>), ApiError> {
        match to {
            To::Address(ip, port) => Ok((None, None, Some(ip.to_canonical()), port)),
            To::Port(number) => {
                let found = scene::published(&self.state, None, number, protocol);
                let (_, port) = found.ok_or_else(|| ApiError {
                    kind: ErrorKind::NotFound,
                    message: format!(
                        "no service publishes port {number}/{protocol}; see: ipvsmesh service ls"
                    ),
                })?;
                let ip = scene::address_of_port(port, client, own);
                Ok((None, None, Some(ip), Some(number)))
            }
            To::Name(name, port) => {
                let asked = self.ask(client, &name, patience).await?;
                let said = asked.said.as_ref().ok();
                let ip = said.and_then(|said| said.addresses.first().copied());
                Ok((Some(name), Some(asked), ip, port))
            }
        }
    }

    /// The port that is asked for when none was given.
    fn usual_port(&self, target: &Target, protocol: Protocol) -> Option<u16> {
        let service = match target {
            Target::Task(task) => self.state.tasks.get(task).map(|task| &task.service),
            other => other.service(),
        };
        let service = self.state.services.get(service?)?;
        scene::first_port(service, protocol).or_else(|| {
            let tasks: Vec<TaskId> = match target {
                Target::Task(task) => vec![task.clone()],
                _ => {
                    let tasks = self.state.tasks_of(&service.id).into_iter();
                    tasks.map(|task| task.id.clone()).collect()
                }
            };
            tasks
                .iter()
                .find_map(|task| gather::first_listening(&self.instance.task_netns(task), protocol))
        })
    }
}
