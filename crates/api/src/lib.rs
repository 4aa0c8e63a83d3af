//! The Docker Engine API over a unix socket, and its client.
#![forbid(unsafe_code)]
