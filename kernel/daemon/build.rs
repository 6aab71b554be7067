//! How the daemon is linked.

use std::env::var;
use std::path::Path;

/// The functions that are used, side by side (`cargo xtask layout`).
const LAYOUT: &str = "layout.ld";

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed={LAYOUT}");
    // It is 60,000 pointers that the dynamic linker sets at each start. One by one they take 24 bytes each, in
    // the file and, once read, in memory; packed they take some kilobytes. glibc has this since 2.36.
    if var("CARGO_CFG_TARGET_ENV").is_ok_and(|env| env == "gnu") {
        println!("cargo::rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    }
    // Of 18 MB of functions boot uses an eighth. Scattered over the program they had 14 MB of it mapped. The names in the
    // script are those that `cargo xtask build` has the compiler make; without them it would do nothing.
    let has_names = var("CARGO_ENCODED_RUSTFLAGS").is_ok_and(|flags| flags.contains("=v0"));
    if has_names && var("PROFILE").is_ok_and(|profile| profile == "release") {
        let dir = var("CARGO_MANIFEST_DIR").expect("cargo says where the crate is");
        let script = Path::new(&dir).join(LAYOUT);
        println!("cargo::rustc-link-arg-bins=-Wl,-T,{}", script.display());
    }
}
