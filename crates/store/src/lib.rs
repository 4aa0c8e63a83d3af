//! The store: a trait with revisions and watches, and the embedded one.
#![forbid(unsafe_code)]
