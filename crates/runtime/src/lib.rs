//! What runs tasks: the process runtime and its shim.
#![forbid(unsafe_code)]
