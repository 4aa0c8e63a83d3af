//! Compiles the gate (`gate/gate.rs`), a program without a library under it, which is
//! embedded. Where docker tasks cannot run, it is empty.
#![allow(clippy::expect_used, reason = "a build fails so")]

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

const SOURCE: &str = "gate/gate.rs";

fn main() {
    println!("cargo:rerun-if-changed={SOURCE}");
    println!("cargo:rerun-if-changed=build.rs");
    let variable = |name: &str| env::var(name).unwrap_or_default();
    let out = PathBuf::from(variable("OUT_DIR")).join("gate");
    match variable("CARGO_CFG_TARGET_ARCH").as_str() {
        "x86_64" | "aarch64" => compile(&variable("TARGET"), &out),
        _ => fs::write(&out, "").expect("OUT_DIR can be written to"),
    }
}

fn compile(target: &str, out: &Path) {
    let mut rustc = Command::new(env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
    rustc.args(["--edition=2024", "--crate-name=gate", "--crate-type=bin"]);
    rustc.args(["--target", target, "-o"]).arg(out);
    let mut options = vec![
        "panic=abort",
        "opt-level=s",
        "relocation-model=static",
        "strip=symbols",
        "link-arg=-nostdlib",
        "link-arg=-nostartfiles",
        "link-arg=-static",
        "link-arg=-Wl,--build-id=none",
        // as few pages as it takes
        "link-arg=-Wl,-z,noseparate-code",
    ];
    if target.contains("musl") {
        // these targets bring files that begin a program; it has a beginning
        options.push("link-self-contained=no");
    }
    let linker = env::var("RUSTC_LINKER").map(|linker| format!("linker={linker}"));
    for option in options.into_iter().chain(linker.as_deref().ok()) {
        rustc.args(["-C", option]);
    }
    let status = rustc.arg(SOURCE).status().expect("rustc can be started");
    assert!(status.success(), "{SOURCE} does not compile for {target}");
}
