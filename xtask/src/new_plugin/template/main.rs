//! __KIND__.__NAME__ as a process of its own.

use std::process::ExitCode;

use __CRATE__ as _;

fn main() -> ExitCode {
    capstan_sdk::remote()
}
