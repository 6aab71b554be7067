//! How the daemon is linked.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    // It is 60,000 pointers that the dynamic linker sets at each start. One by one they take 24 bytes each, in
    // the file and, once read, in memory; packed they take some kilobytes. glibc has this since 2.36.
    if std::env::var("CARGO_CFG_TARGET_ENV").is_ok_and(|env| env == "gnu") {
        println!("cargo::rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    }
}
