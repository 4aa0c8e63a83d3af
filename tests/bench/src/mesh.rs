//! States of a mesh, as large as one likes, past admission and the store.

use std::net::{IpAddr, Ipv4Addr};

use anyhow::{Context as _, Result};
use jiff::Timestamp;
use model::{
    Attachment, DesiredState, Endpoint, EndpointSpec, Mark, Mode, Name, Network, NetworkAttachment,
    NetworkId, NetworkSpec, Node, NodeId, Object, Pool, Pools, ProcessSpec, RestartPolicy,
    Revision, RuntimeSpec, Service, ServiceId, ServiceSpec, State, Task, TaskId, TaskSpec,
    TaskState, TaskStatus, Vip,
};

/// Tasks of each service.
const REPLICAS: u32 = 2;

/// Services with a VIP each on one network, whose tasks run on another node.
pub(crate) struct Mesh {
    pub(crate) state: State,
    /// The node that looks at it: it has none of the tasks.
    pub(crate) here: NodeId,
    tasks: Vec<TaskId>,
}

impl Mesh {
    /// With so many services.
    pub(crate) fn new(services: u32) -> Result<Self> {
        let pools = Pools::default();
        let node = |number: u8| Node {
            id: NodeId::from_random([number; 16]),
            hostname: format!("host{number}"),
            number,
            created: Timestamp::UNIX_EPOCH,
            labels: std::collections::BTreeMap::new(),
            availability: model::Availability::Active,
        };
        let (here, there) = (node(1), node(2));
        // the whole of the mesh's ranges: there may be more than a network holds
        let network = Network {
            id: NetworkId::from_random([1; 16]),
            spec: NetworkSpec {
                name: name("back")?,
                labels: Default::default(),
                internal: false,
                ipv6: false,
                subnets: Vec::new(),
            },
            pools: vec![Pool {
                subnet: pools.tasks,
                vips: pools.vips,
            }],
            created: Timestamp::UNIX_EPOCH,
            raw: Default::default(),
        };
        let (hosts, vips) = (pools.tasks.addr(), pools.vips.addr());
        let mut mesh = Self {
            state: State::default(),
            here: here.id.clone(),
            tasks: Vec::new(),
        };
        let network_id = network.id.clone();
        mesh.put(Object::Pools(pools));
        mesh.put(Object::Node(here));
        mesh.put(Object::Network(network));
        for number in 0..services {
            let service = service(number, &network_id, nth(vips, number + 1)?)?;
            for slot in 1..=REPLICAS {
                let nth_task = REPLICAS * number + slot;
                let task = task(
                    &service,
                    slot,
                    &there.id,
                    nth(hosts, 1 + nth_task)?,
                    nth_task,
                );
                let status = TaskStatus {
                    state: TaskState::Running,
                    attached: true,
                    ..TaskStatus::new(task.id.clone(), Timestamp::UNIX_EPOCH)
                };
                mesh.tasks.push(task.id.clone());
                mesh.put(Object::Task(Box::new(task)));
                mesh.put(Object::Status(status));
            }
            mesh.put(Object::Service(Box::new(service)));
        }
        mesh.put(Object::Node(there));
        Ok(mesh)
    }

    fn put(&mut self, object: Object) {
        let next = Revision(self.state.revision.0 + 1);
        self.state.revision = next;
        self.state.put(next, object);
    }

    /// The name of all tasks of the service that [`Self::drain`] takes one of.
    pub(crate) fn tasks_name(&self, step: usize) -> String {
        let at = step.wrapping_mul(7919) % self.tasks.len().max(1);
        let replicas = usize::try_from(REPLICAS).unwrap_or(1);
        format!("tasks.service{}", at / replicas)
    }

    /// A task of a service somewhere in the table begins to drain, or is back.
    pub(crate) fn drain(&mut self, step: usize, draining: bool) -> Result<()> {
        let at = step.wrapping_mul(7919) % self.tasks.len().max(1);
        let id = self.tasks.get(at).context("a mesh without tasks")?;
        let status = self.state.status(id).context("a task without a status")?;
        let status = TaskStatus {
            draining,
            ..status.clone()
        };
        self.put(Object::Status(status));
        Ok(())
    }
}

fn name(text: &str) -> Result<Name> {
    text.parse()
        .with_context(|| format!("cannot name anything {text}"))
}

/// The address that is so many after this one.
fn nth(base: IpAddr, number: u32) -> Result<IpAddr> {
    match base {
        IpAddr::V4(base) => Ok(Ipv4Addr::from(u32::from(base) + number).into()),
        IpAddr::V6(_) => anyhow::bail!("the default ranges are IPv4's"),
    }
}

fn mark(number: u32) -> Result<Mark> {
    Mark::new(Mark::FIRST.get() + number).context("more services than there are marks")
}

/// Identities in no order, as real ones are.
fn random(kind: u8, number: u32) -> [u8; 16] {
    let mixed = u64::from(number)
        .wrapping_add(1)
        .wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut bytes = [kind; 16];
    bytes[..8].copy_from_slice(&mixed.to_be_bytes());
    bytes[8..12].copy_from_slice(&number.to_be_bytes());
    bytes
}

fn service(number: u32, network: &NetworkId, address: IpAddr) -> Result<Service> {
    let spec = ServiceSpec {
        name: name(&format!("service{number}"))?,
        labels: Default::default(),
        mode: Mode::Replicated { replicas: REPLICAS },
        task: TaskSpec {
            runtime: RuntimeSpec::Process(ProcessSpec {
                command: vec!["whoami".to_owned()],
                ..ProcessSpec::default()
            }),
            networks: vec![NetworkAttachment {
                network: network.clone(),
                aliases: Vec::new(),
            }],
            restart: RestartPolicy::default(),
            force_update: 0,
        },
        placement: Default::default(),
        endpoint: EndpointSpec::default(),
        update: Default::default(),
        rollback: Default::default(),
        registry_auth: None,
    };
    let vip = Vip {
        network: network.clone(),
        address,
        tcp: mark(2 * number)?,
        udp: mark(2 * number + 1)?,
    };
    Ok(Service {
        id: ServiceId::from_random(random(1, number)),
        spec,
        spec_after: Revision::default(),
        previous: None,
        endpoint: Endpoint {
            vips: vec![vip],
            ports: Vec::new(),
        },
        created: Timestamp::UNIX_EPOCH,
        updated: Timestamp::UNIX_EPOCH,
        update_status: None,
        raw: Default::default(),
        raw_previous: Default::default(),
    })
}

fn task(service: &Service, slot: u32, node: &NodeId, address: IpAddr, number: u32) -> Task {
    let networks = service.spec.task.networks.iter();
    let attachments = networks.map(|attachment| Attachment {
        network: attachment.network.clone(),
        addresses: vec![address],
    });
    Task {
        id: TaskId::from_random(random(2, number)),
        service: service.id.clone(),
        service_name: service.spec.name.clone(),
        slot,
        node: node.clone(),
        spec: service.spec.task.clone(),
        attachments: attachments.collect(),
        desired: DesiredState::Running,
        created: Timestamp::UNIX_EPOCH,
        not_before: None,
        elsewhere: None,
    }
}
