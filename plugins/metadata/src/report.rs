//! What is told of damage: damaged files are set aside with a report each, and both stay until somebody removes them.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use capstan_sdk::contract::graph::{Finding, Flaw};
use capstan_sdk::{Error, Result};
use tracing::warn;

const REPORT: &str = ".report";

/// Gives a damaged file another name besides its own, so that whatever takes its place is never missed, and
/// writes down what happened.
///
/// # Errors
/// `ResourceExhausted`: no space. Nothing happened then.
pub(crate) fn set_aside(dir: &Path, file: &Path, lines: &[String]) -> Result<()> {
    let aside = free_name(file);
    let report = report_of(&aside);
    let write = || -> std::io::Result<()> {
        let mut out = File::create(&report)?;
        for line in lines {
            writeln!(out, "{line}")?;
        }
        out.sync_all()?;
        fs::hard_link(file, &aside)
    };
    for line in lines {
        warn!(file = %file.display(), aside = %aside.display(), "metadata: {line}");
    }
    if let Err(error) = write() {
        let _ = fs::remove_file(&report);
        return Err(Error::io(format!("set {} aside in {}", file.display(), dir.display()), error));
    }
    Ok(())
}

fn report_of(aside: &Path) -> PathBuf {
    let mut name = aside.as_os_str().to_owned();
    name.push(REPORT);
    name.into()
}

/// `<file>.damaged-<seconds>`, with a number where that is taken.
fn free_name(file: &Path) -> PathBuf {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |age| age.as_secs());
    let name = |suffix: String| {
        let mut name = file.as_os_str().to_owned();
        name.push(format!(".damaged-{seconds}{suffix}"));
        PathBuf::from(name)
    };
    let is_free = |name: &PathBuf| !name.exists() && !report_of(name).exists();
    (1..)
        .map(|n| name(if n == 1 { String::new() } else { format!("-{n}") }))
        .find(is_free)
        .expect("numbers do not end")
}

/// One finding for each line of each report that is there.
///
/// # Errors
/// The directory cannot be read.
pub(crate) fn findings(dir: &Path) -> Result<Vec<Finding>> {
    let place = |error| Error::io(format!("read {}", dir.display()), error);
    let mut names = Vec::new();
    for entry in fs::read_dir(dir).map_err(place)? {
        let name = entry.map_err(place)?.file_name();
        let Some(name) = name.to_str() else { continue };
        if name.contains(".damaged-") && name.ends_with(REPORT) {
            names.push(name.to_owned());
        }
    }
    names.sort();
    let mut findings = Vec::new();
    for name in names {
        let text = fs::read_to_string(dir.join(&name)).map_err(place)?;
        let aside = dir.join(name.trim_end_matches(REPORT));
        for line in text.lines() {
            findings.push(Finding {
                namespace: None,
                what: aside.display().to_string(),
                flaw: Flaw::Damaged,
                detail: format!("{line}; remove this file and its {REPORT} when you have seen it"),
            });
        }
    }
    Ok(findings)
}
