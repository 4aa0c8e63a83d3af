//! End-to-end tests, one module an area. Run by `cargo xtask test`.
#![forbid(unsafe_code)]

mod addresses;
mod bad_input;
mod cleanup;
mod coexist;
mod command_line;
mod crash;
mod data_path;
mod docker;
mod docker_cli;
mod doctor;
mod drain;
mod events;
mod hairpin;
mod heal;
mod idle;
mod inspect;
mod ipset;
mod ipv6;
mod ipvs;
mod kernel_drift;
mod listeners;
mod metrics;
mod names;
mod names_change;
mod names_forward;
mod names_host;
mod names_outlive;
mod netlink_place;
mod publish;
mod pull;
mod schedule;
mod service;
mod top;
mod trace;
mod update;
