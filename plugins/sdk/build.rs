//! Tells the crate which compiler builds it: a plugin says so when it is asked what it is.

use std::process::Command;

fn main() {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(rustc).arg("--version").output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    let version =
        text.unwrap_or_default().split_whitespace().nth(1).unwrap_or("unknown").to_owned();
    println!("cargo::rustc-env=CAPSTAN_RUSTC={version}");
    println!("cargo::rerun-if-changed=build.rs");
}
