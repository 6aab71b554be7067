//! Built-in plugins as shared libraries: the examples of capstan-daemon, each called like its plugin.
//!
//! An example is built in the one call of cargo with all else, so nothing is built twice for it.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::Result;

use crate::command::run;

/// Library and plugin.
pub(crate) type Library = (&'static str, &'static str);

/// Those that are tested in each form.
pub(crate) const ALL: &[Library] = &[
    ("content_local", "content.local"),
    ("differ_tar", "differ.tar"),
    ("gc_policy_age", "gc-policy.age"),
    ("metrics_process", "metrics.process"),
    ("runtime_linux", "runtime.linux"),
    ("sink_file", "sink.file"),
    ("snapshotter_btrfs", "snapshotter.btrfs"),
    ("snapshotter_erofs", "snapshotter.erofs"),
    ("snapshotter_native", "snapshotter.native"),
    ("snapshotter_overlay", "snapshotter.overlay"),
    ("verifier_cosign", "verifier.cosign"),
    ("verifier_digest", "verifier.digest"),
];

/// Has cargo build them.
pub(crate) fn select(cargo: &mut Command, libraries: &[Library]) {
    for (library, _) in libraries {
        cargo.args(["--example", library]);
    }
}

/// Puts them from `built`, where cargo's programs are, into `out`/plugins, without what only a debugger reads.
pub(crate) fn install(libraries: &[Library], built: &Path, out: &Path) -> Result<()> {
    let plugins = out.join("plugins");
    fs::create_dir_all(&plugins)?;
    for (library, plugin) in libraries {
        let mut strip = Command::new("strip");
        strip.arg("--strip-debug");
        strip.arg(built.join(format!("examples/lib{library}.so")));
        strip.arg("-o").arg(plugins.join(format!("{plugin}.so")));
        run(&mut strip)?;
    }
    Ok(())
}
