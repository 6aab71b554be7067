//! capstan-layout: which functions of the daemon are used, written down for the linker (`cargo xtask layout`).
//!
//! The kernel maps a program 64 KiB at a time, around each page that is touched; since 6.18 whole pieces of its cache of files,
//! which may be a megabyte. The daemon is 18 MB of functions, of which
//! boot uses an eighth and a day's work another: scattered, they would have nearly all of it mapped. So they
//! are put side by side. Here the daemon runs with a breakpoint on each of its functions, is asked what users ask, and what was
//! hit is written as a linker script: names in the order of the alphabet, so that two runs differ by little.

mod functions;
mod observe;
mod pattern;
mod script;
mod trace;

use std::fs;

use capstan_integration::program;

use crate::functions::Program;

fn main() {
    let out = std::env::args_os().nth(1).expect("usage: capstan-layout FILE");
    let program = Program::read(&program("capstand"));
    let hits = observe::observe(&program);
    fs::write(&out, script::script(&program, &hits)).expect("write the script");
}
