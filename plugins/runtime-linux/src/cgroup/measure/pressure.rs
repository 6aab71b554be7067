//! Pressure (PSI): for how long some or all processes could not go on for want of something. Only the
//! unified hierarchy has it.

use capstan_sdk::Result;

use super::super::{Group, file};
use super::{Samples, float};

pub(super) fn measure(group: &Group, out: &mut Samples<'_>) -> Result<()> {
    for (what, of) in [("cpu", "a processor"), ("memory", "memory"), ("io", "a block device")] {
        let name = format!("{what}.pressure");
        let Some(dir) = group.with(&name) else { continue };
        let text = file::read(dir, &name)?.unwrap_or_default();
        for (share, who) in [("some", "at least one process"), ("full", "every process")] {
            let line = text.lines().find_map(|line| line.strip_prefix(share));
            let total = line.and_then(|line| {
                line.split(' ').find_map(|word| word.strip_prefix("total=")?.parse::<u64>().ok())
            });
            if let Some(micros) = total {
                let name = format!("pressure_{what}_{share}_seconds_total");
                let help = format!("For how long {who} waited for {of}.");
                out.add(&name, &help, &[], float(micros) / 1e6);
            }
        }
    }
    Ok(())
}
