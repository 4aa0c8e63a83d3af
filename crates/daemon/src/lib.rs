//! The daemon: controllers wired to the edges.
#![forbid(unsafe_code)]
