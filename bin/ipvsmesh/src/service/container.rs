//! Flags of `service create` and `update` that say what a task's container is.

use std::{collections::BTreeMap, net::IpAddr, time::Duration};

use api::client::Client;
use clap::{Args, ValueEnum};
use model::BlobKind;
use serde_json::{Map, Value, json};

use super::{
    create::nanoseconds,
    file::{FileFlag, config, keys, secret},
    mount::{Mount, mount},
    registry,
};
use crate::{
    units,
    words::{self, Arguments},
};

/// Of `create` and of `update`: what is given takes the place of what was.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Container")]
pub(super) struct Container {
    /// In the place of the image's entry point
    #[arg(long, value_name = "COMMAND", value_parser = words::arguments)]
    entrypoint: Option<Arguments>,
    /// Host name of its tasks (default the task's name)
    #[arg(long, value_name = "NAME")]
    hostname: Option<String>,
    /// Whether an init process is their first
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL", hide_possible_values = true)]
    init: Option<bool>,
    /// Whether their root file system cannot be written
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL", hide_possible_values = true)]
    read_only: Option<bool>,
    /// Whether they have a terminal
    #[arg(short, long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL", hide_possible_values = true)]
    tty: Option<bool>,
    /// Most of processors that a task uses, such as 0.5
    #[arg(long, value_name = "NUMBER", value_parser = units::cpus)]
    limit_cpu: Option<u64>,
    /// Most memory that a task uses, such as 64m
    #[arg(long, value_name = "SIZE", value_parser = units::octets)]
    limit_memory: Option<u64>,
    /// Most processes of a task, 0 for no limit
    #[arg(long, value_name = "N")]
    limit_pids: Option<u64>,
    /// Processors kept for a task
    #[arg(long, value_name = "NUMBER", value_parser = units::cpus)]
    reserve_cpu: Option<u64>,
    /// Memory kept for a task
    #[arg(long, value_name = "SIZE", value_parser = units::octets)]
    reserve_memory: Option<u64>,
    /// Capabilities besides the usual ones
    #[arg(long, value_name = "CAPABILITY")]
    cap_add: Vec<String>,
    /// Capabilities that tasks do not get
    #[arg(long, value_name = "CAPABILITY")]
    cap_drop: Vec<String>,
    /// Command that tells whether a task is well
    #[arg(long, value_name = "COMMAND")]
    health_cmd: Option<String>,
    /// Time between checks
    #[arg(long, value_name = "DURATION", value_parser = words::duration)]
    health_interval: Option<Duration>,
    /// So many failures mean that it is not well
    #[arg(long, value_name = "N")]
    health_retries: Option<u32>,
    /// Time in which failures do not count
    #[arg(long, value_name = "DURATION", value_parser = words::duration)]
    health_start_period: Option<Duration>,
    /// Time between checks in that period
    #[arg(long, value_name = "DURATION", value_parser = words::duration)]
    health_start_interval: Option<Duration>,
    /// Most time of a check
    #[arg(long, value_name = "DURATION", value_parser = words::duration)]
    health_timeout: Option<Duration>,
    /// No check, even if the image has one
    #[arg(long, conflicts_with_all = ["health_cmd", "health_interval", "health_retries", "health_start_period", "health_start_interval", "health_timeout"])]
    no_healthcheck: bool,
    /// Where outputs go (default as Docker is set up)
    #[arg(long, value_name = "DRIVER")]
    log_driver: Option<String>,
    /// Options of that driver
    #[arg(long, value_name = "KEY=VALUE", value_parser = words::label)]
    log_opt: Vec<(String, String)>,
    /// When the image is fetched (default missing)
    #[arg(long, value_enum)]
    pull: Option<Pull>,
    /// Let the mesh fetch the image with your own login at its registry (docker login)
    #[arg(long)]
    with_registry_auth: bool,
}

/// `--pull`
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Pull {
    /// Before each task
    Always,
    /// Where a node does not have it
    Missing,
    /// Never
    Never,
}

/// Of `create` alone: lists.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Container")]
pub(super) struct Lists {
    /// Files of environment variables, KEY=VALUE a line
    #[arg(long, value_name = "FILE", value_parser = env_file)]
    env_file: Vec<EnvFile>,
    /// What tasks see besides the image: type=bind|volume|tmpfs,source=...,target=...[,readonly]
    #[arg(long, value_name = "MOUNT", value_parser = mount)]
    mount: Vec<Mount>,
    /// Configs that tasks get as files: NAME, or source=NAME,target=PATH,uid=0,gid=0,mode=0444
    #[arg(long, value_name = "CONFIG", value_parser = config)]
    config: Vec<FileFlag>,
    /// Secrets that tasks get as files, in /run/secrets: the same
    #[arg(long, value_name = "SECRET", value_parser = secret)]
    secret: Vec<FileFlag>,
    /// Labels of containers
    #[arg(long, value_name = "KEY=VALUE", value_parser = words::label)]
    container_label: Vec<(String, String)>,
    /// Further groups of the user
    #[arg(long, value_name = "GROUP")]
    group: Vec<String>,
    /// Further names in /etc/hosts: NAME:ADDRESS
    #[arg(long, value_name = "HOST:IP", value_parser = host)]
    host: Vec<Host>,
    /// Name servers for all names but the mesh's, in the place of the host's
    #[arg(long, value_name = "ADDRESS")]
    dns: Vec<IpAddr>,
    /// Search domains
    #[arg(long, value_name = "DOMAIN")]
    dns_search: Vec<String>,
    /// Options of resolv.conf(5)
    #[arg(long, value_name = "OPTION")]
    dns_option: Vec<String>,
    /// Namespaced sysctls
    #[arg(long, value_name = "KEY=VALUE", value_parser = words::label)]
    sysctl: Vec<(String, String)>,
    /// Limits of setrlimit(2): NAME=SOFT[:HARD]
    #[arg(long, value_name = "LIMIT", value_parser = ulimit)]
    ulimit: Vec<Ulimit>,
}

/// Of `update` alone: changes of lists.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Container")]
pub(super) struct Changes {
    /// Image of its tasks
    #[arg(long, value_name = "IMAGE")]
    image: Option<String>,
    /// Working directory of its tasks
    #[arg(short, long, value_name = "DIR")]
    workdir: Option<String>,
    /// User of its tasks: NAME or NUMBER, and :GROUP
    #[arg(short, long, value_name = "USER")]
    user: Option<String>,
    /// Add a mount, or replace the one with its target
    #[arg(long, value_name = "MOUNT", value_parser = mount)]
    mount_add: Vec<Mount>,
    /// Remove the mount with this target
    #[arg(long, value_name = "TARGET")]
    mount_rm: Vec<String>,
    /// Add a config
    #[arg(long, value_name = "CONFIG", value_parser = config)]
    config_add: Vec<FileFlag>,
    /// Remove a config
    #[arg(long, value_name = "CONFIG")]
    config_rm: Vec<String>,
    /// Add a secret
    #[arg(long, value_name = "SECRET", value_parser = secret)]
    secret_add: Vec<FileFlag>,
    /// Remove a secret
    #[arg(long, value_name = "SECRET")]
    secret_rm: Vec<String>,
    /// Set a label of containers
    #[arg(long, value_name = "KEY=VALUE", value_parser = words::label)]
    container_label_add: Vec<(String, String)>,
    /// Remove a label of containers
    #[arg(long, value_name = "KEY")]
    container_label_rm: Vec<String>,
    /// Add a group of the user
    #[arg(long, value_name = "GROUP")]
    group_add: Vec<String>,
    /// Remove a group of the user
    #[arg(long, value_name = "GROUP")]
    group_rm: Vec<String>,
    /// Add a name to /etc/hosts
    #[arg(long, value_name = "HOST:IP", value_parser = host)]
    host_add: Vec<Host>,
    /// Remove a name from /etc/hosts
    #[arg(long, value_name = "HOST:IP", value_parser = host)]
    host_rm: Vec<Host>,
    /// Add a name server
    #[arg(long, value_name = "ADDRESS")]
    dns_add: Vec<IpAddr>,
    /// Remove a name server
    #[arg(long, value_name = "ADDRESS")]
    dns_rm: Vec<IpAddr>,
    /// Add a search domain
    #[arg(long, value_name = "DOMAIN")]
    dns_search_add: Vec<String>,
    /// Remove a search domain
    #[arg(long, value_name = "DOMAIN")]
    dns_search_rm: Vec<String>,
    /// Add an option of resolv.conf(5)
    #[arg(long, value_name = "OPTION")]
    dns_option_add: Vec<String>,
    /// Remove an option of resolv.conf(5)
    #[arg(long, value_name = "OPTION")]
    dns_option_rm: Vec<String>,
    /// Set a sysctl
    #[arg(long, value_name = "KEY=VALUE", value_parser = words::label)]
    sysctl_add: Vec<(String, String)>,
    /// Remove a sysctl
    #[arg(long, value_name = "KEY")]
    sysctl_rm: Vec<String>,
    /// Set a limit of setrlimit(2)
    #[arg(long, value_name = "LIMIT", value_parser = ulimit)]
    ulimit_add: Vec<Ulimit>,
    /// Remove a limit of setrlimit(2)
    #[arg(long, value_name = "NAME")]
    ulimit_rm: Vec<String>,
}

/// The lines of an environment file.
#[derive(Clone, Debug, PartialEq, Eq)]
struct EnvFile(Vec<String>);

fn env_file(path: &str) -> Result<EnvFile, String> {
    let text = std::fs::read_to_string(path).map_err(|error| error.to_string())?;
    let lines = text.lines().map(str::trim_start);
    let lines = lines.filter(|line| !line.is_empty() && !line.starts_with('#'));
    let variables = lines.map(words::environment);
    let variables: Vec<_> = variables.collect::<Result<_, _>>()?;
    Ok(EnvFile(variables.into_iter().flatten().collect()))
}

/// A line of hosts(5).
#[derive(Clone, Debug, PartialEq, Eq)]
struct Host(String);

/// `NAME:ADDRESS`
fn host(text: &str) -> Result<Host, String> {
    let parted = text.split_once(':');
    let parted = parted.and_then(|(name, ip)| Some((name, ip.parse::<IpAddr>().ok()?)));
    match parted {
        Some((name, ip)) if !name.is_empty() => Ok(Host(format!("{ip} {name}"))),
        _ => Err("use NAME:ADDRESS".to_owned()),
    }
}

/// One `--ulimit` as the API has it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Ulimit(Value);

/// `NAME=SOFT[:HARD]`
fn ulimit(text: &str) -> Result<Ulimit, String> {
    let read = || {
        let (name, limits) = text.split_once('=').filter(|(name, _)| !name.is_empty())?;
        let (soft, hard) = limits.split_once(':').unwrap_or((limits, limits));
        let number = |text: &str| text.parse::<i64>().ok().filter(|n| *n >= -1);
        Some(json!({"Name": name, "Soft": number(soft)?, "Hard": number(hard)?}))
    };
    let read = read().map(Ulimit);
    read.ok_or_else(|| "use NAME=SOFT[:HARD], such as nofile=1024:4096".to_owned())
}

fn map(pairs: &[(String, String)]) -> Map<String, Value> {
    let pairs = pairs.iter();
    pairs.map(|(k, v)| (k.clone(), json!(v))).collect()
}

/// Puts a value where there is one.
fn put(at: &mut Value, path: &[&str], value: Option<Value>) {
    if let Some(value) = value {
        *path.iter().fold(at, |at, key| &mut at[*key]) = value;
    }
}

impl Container {
    /// The client whose requests say with what an image is fetched, if they shall.
    pub(super) fn client(&self, client: &Client, image: &str) -> anyhow::Result<Client> {
        match self.with_registry_auth {
            true => Ok(client.with_registry_auth(registry::auth(image)?)),
            false => Ok(client.clone()),
        }
    }

    /// The label that goes with these flags, for the service's labels.
    pub(super) fn label(&self) -> Option<(&'static str, Value)> {
        let pull = self.pull?.to_possible_value()?;
        Some((model::label::PULL, json!(pull.get_name())))
    }

    /// Writes what was given into a `TaskTemplate`.
    pub(super) fn apply(&self, template: &mut Value) {
        let list = |list: &[String]| (!list.is_empty()).then(|| json!(list));
        let check = |test: &str, word: &str| json!([test, word]);
        let test = self
            .health_cmd
            .as_deref()
            .map(|cmd| check("CMD-SHELL", cmd));
        let none = self.no_healthcheck.then(|| json!({"Test": ["NONE"]}));
        for (path, value) in [
            (
                &["ContainerSpec", "Command"][..],
                self.entrypoint.as_ref().map(|words| json!(words.0)),
            ),
            (
                &["ContainerSpec", "Hostname"],
                self.hostname.as_ref().map(|name| json!(name)),
            ),
            (&["ContainerSpec", "Init"], self.init.map(Value::Bool)),
            (
                &["ContainerSpec", "ReadOnly"],
                self.read_only.map(Value::Bool),
            ),
            (&["ContainerSpec", "TTY"], self.tty.map(Value::Bool)),
            (&["ContainerSpec", "CapabilityAdd"], list(&self.cap_add)),
            (&["ContainerSpec", "CapabilityDrop"], list(&self.cap_drop)),
            (&["ContainerSpec", "Healthcheck"], none),
            (&["ContainerSpec", "Healthcheck", "Test"], test),
            (
                &["ContainerSpec", "Healthcheck", "Interval"],
                self.health_interval.map(nanoseconds),
            ),
            (
                &["ContainerSpec", "Healthcheck", "Timeout"],
                self.health_timeout.map(nanoseconds),
            ),
            (
                &["ContainerSpec", "Healthcheck", "Retries"],
                self.health_retries.map(|n| json!(n)),
            ),
            (
                &["ContainerSpec", "Healthcheck", "StartPeriod"],
                self.health_start_period.map(nanoseconds),
            ),
            (
                &["ContainerSpec", "Healthcheck", "StartInterval"],
                self.health_start_interval.map(nanoseconds),
            ),
            (
                &["Resources", "Limits", "NanoCPUs"],
                self.limit_cpu.map(|n| json!(n)),
            ),
            (
                &["Resources", "Limits", "MemoryBytes"],
                self.limit_memory.map(|n| json!(n)),
            ),
            (
                &["Resources", "Limits", "Pids"],
                self.limit_pids.map(|n| json!(n)),
            ),
            (
                &["Resources", "Reservations", "NanoCPUs"],
                self.reserve_cpu.map(|n| json!(n)),
            ),
            (
                &["Resources", "Reservations", "MemoryBytes"],
                self.reserve_memory.map(|n| json!(n)),
            ),
            (
                &["LogDriver", "Name"],
                self.log_driver.as_ref().map(|name| json!(name)),
            ),
            (
                &["LogDriver", "Options"],
                (!self.log_opt.is_empty()).then(|| json!(map(&self.log_opt))),
            ),
        ] {
            put(template, path, value);
        }
    }
}

impl Lists {
    /// Variables of files, which come before those of the command line.
    pub(super) fn env(&self) -> impl Iterator<Item = &String> {
        self.env_file.iter().flat_map(|file| &file.0)
    }

    /// Writes what was given into a `ContainerSpec`.
    pub(super) fn apply(&self, container: &mut Value) {
        let hosts: Vec<_> = self.host.iter().map(|host| &host.0).collect();
        let mounts: Vec<_> = self.mount.iter().map(|mount| &mount.0).collect();
        let ulimits: Vec<_> = self.ulimit.iter().map(|limit| &limit.0).collect();
        let files = |flags: &[FileFlag]| flags.iter().map(|flag| flag.0.clone()).collect();
        for (path, value) in [
            (&["Mounts"][..], json!(mounts)),
            (&["Configs"], Value::Array(files(&self.config))),
            (&["Secrets"], Value::Array(files(&self.secret))),
            (&["Groups"], json!(self.group)),
            (&["Hosts"], json!(hosts)),
            (&["DNSConfig", "Nameservers"], json!(self.dns)),
            (&["DNSConfig", "Search"], json!(self.dns_search)),
            (&["DNSConfig", "Options"], json!(self.dns_option)),
            (&["Ulimits"], json!(ulimits)),
        ] {
            let says = value.as_array().is_some_and(|list| !list.is_empty());
            put(container, path, says.then_some(value));
        }
        for (key, pairs) in [("Labels", &self.container_label), ("Sysctls", &self.sysctl)] {
            put(
                container,
                &[key],
                (!pairs.is_empty()).then(|| json!(map(pairs))),
            );
        }
    }
}

/// Changes a list: those that `is` says are gone go, then the new ones come.
fn change_list(at: &mut Value, gone: impl Fn(&Value) -> bool, add: Vec<Value>) {
    let before = at.as_array().cloned().unwrap_or_default();
    let mut list: Vec<_> = before.into_iter().filter(|has| !gone(has)).collect();
    for new in add {
        if !list.contains(&new) {
            list.push(new);
        }
    }
    *at = json!(list);
}

fn change_words<T: ToString>(at: &mut Value, remove: &[T], add: &[T]) {
    let words = |all: &[T]| {
        all.iter()
            .map(|word| json!(word.to_string()))
            .collect::<Vec<_>>()
    };
    let (remove, add) = (words(remove), words(add));
    if !(remove.is_empty() && add.is_empty()) {
        change_list(at, |has| remove.contains(has), add);
    }
}

/// The same by a key of each item: what is added takes the place of its like.
fn change_keyed(at: &mut Value, key: &str, remove: &[String], add: &[Value]) {
    if remove.is_empty() && add.is_empty() {
        return;
    }
    let gone = |has: &Value| {
        let key = |value: &Value| value[key].as_str().unwrap_or_default().to_owned();
        remove.contains(&key(has)) || add.iter().any(|new| key(new) == key(has))
    };
    change_list(at, gone, add.to_vec());
}

fn change_map(at: &mut Value, remove: &[String], add: &[(String, String)]) {
    if remove.is_empty() && add.is_empty() {
        return;
    }
    let pairs = at.as_object().cloned().unwrap_or_default();
    let mut pairs: BTreeMap<_, _> = pairs.into_iter().collect();
    pairs.retain(|key, _| !remove.contains(key));
    pairs.extend(map(add));
    *at = json!(pairs);
}

impl Changes {
    /// Writes what was given into a `ContainerSpec`.
    pub(super) fn apply(&self, container: &mut Value) {
        for (key, value) in [
            ("Image", &self.image),
            ("Dir", &self.workdir),
            ("User", &self.user),
        ] {
            put(container, &[key], value.as_ref().map(|text| json!(text)));
        }
        let mounts: Vec<_> = self.mount_add.iter().map(|mount| mount.0.clone()).collect();
        change_keyed(&mut container["Mounts"], "Target", &self.mount_rm, &mounts);
        for (kind, add, remove) in [
            (BlobKind::Config, &self.config_add, &self.config_rm),
            (BlobKind::Secret, &self.secret_add, &self.secret_rm),
        ] {
            let (list, name) = keys(kind);
            let add: Vec<_> = add.iter().map(|flag| flag.0.clone()).collect();
            change_keyed(&mut container[list], name, remove, &add);
        }
        let ulimits: Vec<_> = self
            .ulimit_add
            .iter()
            .map(|limit| limit.0.clone())
            .collect();
        change_keyed(&mut container["Ulimits"], "Name", &self.ulimit_rm, &ulimits);
        let (add, remove) = (&self.container_label_add, &self.container_label_rm);
        change_map(&mut container["Labels"], remove, add);
        change_map(&mut container["Sysctls"], &self.sysctl_rm, &self.sysctl_add);
        change_words(&mut container["Groups"], &self.group_rm, &self.group_add);
        let lines = |hosts: &[Host]| hosts.iter().map(|host| host.0.clone()).collect::<Vec<_>>();
        let (add, remove) = (lines(&self.host_add), lines(&self.host_rm));
        change_words(&mut container["Hosts"], &remove, &add);
        let dns = &mut container["DNSConfig"];
        change_words(&mut dns["Nameservers"], &self.dns_rm, &self.dns_add);
        change_words(
            &mut dns["Search"],
            &self.dns_search_rm,
            &self.dns_search_add,
        );
        change_words(
            &mut dns["Options"],
            &self.dns_option_rm,
            &self.dns_option_add,
        );
        // asking for a key puts it there
        drop_nulls(container);
    }
}

fn drop_nulls(value: &mut Value) {
    if let Some(map) = value.as_object_mut() {
        map.values_mut().for_each(drop_nulls);
        let empty = |value: &Value| value.as_object().is_some_and(Map::is_empty);
        map.retain(|_, value| !value.is_null() && !empty(value));
    }
}

#[cfg(test)]
mod tests;
