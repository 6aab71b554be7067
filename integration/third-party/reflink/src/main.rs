//! snapshotter.reflink as a process of its own.

use std::process::ExitCode;

use snapshotter_reflink as _;

fn main() -> ExitCode {
    capstan_sdk::remote()
}
