//! capstan-bench: our figures, the peer's and their ratio, measured in one run on one machine.
//!
//! The peer is containerd, with runc and with crun, each daemon with its root and state on an ext4 of its
//! own. Whoever is compared takes turns, round by round, so that noise hits all alike. Nothing here is a
//! number from another day: what cannot be measured is printed as failed, with the reason.
//!
//! One file per figure (`run`, `rate`, `memory`, `pull` with push, `archive`, `boot`, `restart`, `metadata`, `ingest`); `ours` and `peer` say the same
//! things to the two daemons; `seclusion` keeps the machine as it was.

mod archive;
mod args;
mod bare;
mod boot;
mod crowd;
mod daemon;
mod ingest;
mod lane;
mod machine;
mod memory;
mod metadata;
mod ours;
mod peer;
mod pull;
mod rate;
mod report;
mod restart;
mod run;
mod sample;
mod seclusion;
mod timed;

use std::process::ExitCode;

fn main() -> ExitCode {
    let args = match args::Args::parse(std::env::args().skip(1)) {
        Ok(args) => args,
        Err(answer) => return answer.print(),
    };
    if args.is_sweep {
        seclusion::sweep();
        return ExitCode::SUCCESS;
    }
    if !seclusion::is_inside() {
        return seclusion::enter();
    }
    seclusion::prepare();
    let mut report = report::Report::new(machine::Machine::look());
    for section in &args.sections {
        report.add((section.measure)(args.effort));
    }
    report.finish(args.json.as_deref())
}
