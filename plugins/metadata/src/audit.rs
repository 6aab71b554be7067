//! What is wrong with the files of this plugin.

use capstan_sdk::contract::graph::{Finding, Flaw};
use capstan_sdk::{Class, Result};

use crate::shared::Shared;
use crate::{journal, report};

/// Damage that was met and mended, and with `is_full` all that is damaged now.
///
/// # Errors
/// The files cannot be read.
pub(crate) fn audit(shared: &Shared, is_full: bool) -> Result<Vec<Finding>> {
    let mut findings = report::findings(shared.dir())?;
    let mut tell = |what: String, flaw: Flaw, detail: String| {
        findings.push(Finding { namespace: None, what, flaw, detail });
    };
    if let Some(why) = shared.read_only() {
        let what = shared.dir().display().to_string();
        tell(what, Flaw::Damaged, format!("metadata can only be read: {}", why.message()));
    }
    let path = journal::path_in(shared.dir());
    if shared.wants_journal() && !path.exists() {
        let detail = "the second copy of the metadata; it is made as soon as there is room";
        tell(path.display().to_string(), Flaw::Missing, detail.into());
    }
    if !is_full {
        return Ok(findings);
    }
    match shared.check() {
        Ok(()) => {}
        Err(error) if error.class() == Class::Corrupt => {
            shared.damaged(&error);
            let detail = format!("{}; it is being rebuilt", error.message());
            tell(shared.dir().display().to_string(), Flaw::Damaged, detail);
        }
        Err(error) => return Err(error),
    }
    // What the writer appends meanwhile is at the end, where what is not complete is no flaw.
    if let Ok(walk) = journal::walk(&path, |_| {}) {
        for flaw in walk.flaws {
            let detail = format!("{flaw}; it is made anew at the next start");
            tell(path.display().to_string(), Flaw::Damaged, detail);
        }
    }
    Ok(findings)
}
