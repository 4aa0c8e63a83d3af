//! End-to-end tests, one module an area. Run by `cargo xtask test`.
#![forbid(unsafe_code)]

mod addresses;
mod bad_input;
mod cleanup;
mod command_line;
mod crash;
mod data_path;
mod ipset;
mod ipvs;
mod names;
mod netlink_place;
mod publish;
mod service;
