//! The DNS responder.
#![forbid(unsafe_code)]
