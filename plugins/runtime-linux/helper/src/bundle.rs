//! The bundle that libcontainer is given in the place of the caller's: the same, but for seccomp.
//!
//! libcontainer 0.7 takes the mask of `SCMP_CMP_MASKED_EQ` for the value and the value for the mask,
//! so that a profile which forbids `clone` with new namespaces allows it. And it compiles a profile
//! for each process anew. What it is given here has the profile turned round, or, where
//! [`filter`](crate::filter) can do it, none, with the compiled one beside it.

use std::fs::{self, Permissions};
use std::io::ErrorKind;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use libcontainer::oci_spec::runtime::{
    LinuxResources, LinuxSeccompArgBuilder, LinuxSeccompOperator, Process, Spec,
};
use seccompiler::BpfProgram;

use crate::{filter, home, workdir};

/// Of all bundles and filters of a root: no container's name begins so.
const BUNDLES: &str = ".bundles";
const FILTERS: &str = ".filters";

/// A container's bundle as libcontainer sees it.
#[derive(Debug)]
pub(crate) struct Bundle {
    dir: PathBuf,
}

impl Bundle {
    pub(crate) fn of(root: &Path, id: &str) -> Self {
        Self { dir: root.join(BUNDLES).join(id) }
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    fn filter_file(&self) -> PathBuf {
        self.dir.join("filter.bpf")
    }

    /// Makes it from the caller's.
    pub(crate) fn make(root: &Path, id: &str, original: &Path) -> Result<Self> {
        let bundle = Self::of(root, id);
        let path = original.join("config.json");
        let mut spec = Spec::load(&path).with_context(|| format!("read {}", path.display()))?;
        spec.canonicalize_rootfs(original)
            .with_context(|| format!("find the root filesystem of {}", original.display()))?;
        workdir::make(&spec)?;
        adapt_words(&mut spec);
        let tree = spec.root().as_ref().map(|root| root.path().clone());
        if let (Some(tree), Some(process)) = (tree, spec.process_mut()) {
            home::ensure(process, &tree)?;
        }
        // What a create that was killed left there.
        bundle.remove()?;
        fs::create_dir_all(&bundle.dir)
            .with_context(|| format!("make {}", bundle.dir.display()))?;
        if let Some(profile) = filter::profile(&spec) {
            let compiled = filter::compiled(profile, &root.join(FILTERS))?;
            fs::write(bundle.filter_file(), compiled)?;
            if let Some(linux) = spec.linux_mut() {
                linux.set_seccomp(None);
            }
        } else {
            turn_masks(&mut spec)?;
        }
        symlink(original, bundle.dir.join("original"))?;
        spec.save(bundle.dir.join("config.json"))
            .with_context(|| format!("write to {}", bundle.dir.display()))?;
        Ok(bundle)
    }

    /// Lets nobody else into the directories that were made for a container, whatever the umask is, which is
    /// for what is made in its root filesystem. `dir` is libcontainer's own.
    pub(crate) fn close(&self, dir: &Path) -> Result<()> {
        let root = dir.parent().context("it is below the root")?;
        for dir in [dir, &self.dir, &root.join(BUNDLES), &root.join(FILTERS)] {
            match fs::set_permissions(dir, Permissions::from_mode(0o700)) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    return Err(error).with_context(|| format!("close {}", dir.display()));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// The filter that is to be installed before the program, if there is one.
    pub(crate) fn filter(&self) -> Result<Option<BpfProgram>> {
        let path = self.filter_file();
        match fs::read(&path) {
            Ok(bytes) => filter::parse(&bytes).map(Some),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("read {}", path.display())),
        }
    }

    /// Makes what is to be started in it as libcontainer is to see it; `remove` takes that away too.
    pub(crate) fn adapt(&self, process: &Path) -> Result<(Process, PathBuf)> {
        let text = fs::read(process).with_context(|| format!("read {}", process.display()))?;
        let mut process: Process =
            serde_json::from_slice(&text).context("read the process to start")?;
        drop_false(&mut process);
        let spec = self.spec()?;
        if let Some(root) = spec.root() {
            home::ensure(&mut process, root.path())?;
        }
        let path = self.dir.join(format!("process-{}.json", std::process::id()));
        fs::write(&path, serde_json::to_vec(&process)?)
            .with_context(|| format!("write {}", path.display()))?;
        Ok((process, path))
    }

    /// Takes the limits out of what libcontainer sees.
    pub(crate) fn take_resources(&self, spec: &mut Spec) -> Result<Option<LinuxResources>> {
        let Some(linux) = spec.linux_mut() else { return Ok(None) };
        let resources = linux.resources().clone();
        linux.set_resources(None);
        spec.save(self.dir.join("config.json"))
            .with_context(|| format!("write to {}", self.dir.display()))?;
        Ok(resources)
    }

    /// As libcontainer sees it.
    pub(crate) fn spec(&self) -> Result<Spec> {
        let path = self.dir.join("config.json");
        Spec::load(&path).with_context(|| format!("read {}", path.display()))
    }

    /// Where the caller's is.
    pub(crate) fn original(&self) -> Result<PathBuf> {
        let link = self.dir.join("original");
        fs::read_link(&link).with_context(|| format!("read {}", link.display()))
    }

    /// That there is none is fine.
    pub(crate) fn remove(&self) -> Result<()> {
        match fs::remove_dir_all(&self.dir) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(error).with_context(|| format!("remove {}", self.dir.display()))
            }
            _ => Ok(()),
        }
    }
}

/// Says in libcontainer's words what it knows by another name.
fn adapt_words(spec: &mut Spec) {
    if let Some(process) = spec.process_mut() {
        drop_false(process);
    }
    if let Some(linux) = spec.linux_mut()
        && let Some(propagation) = linux.rootfs_propagation().clone()
    {
        // It is recursive by either name there.
        let word = match propagation.as_str() {
            "rprivate" => "private",
            "rslave" => "slave",
            "rshared" => "shared",
            "runbindable" => "unbindable",
            word => word,
        };
        linux.set_rootfs_propagation(Some(word.into()));
    }
}

/// libcontainer installs a profile while it has the right to only where `noNewPrivileges` is not there
/// at all; where it is false it tries too late, and fails.
fn drop_false(process: &mut Process) {
    if process.no_new_privileges() == Some(false) {
        process.set_no_new_privileges(None);
    }
}

/// In the form that libcontainer reads: `value` and `valueTwo` in each other's place.
fn turn_masks(spec: &mut Spec) -> Result<()> {
    let Some(profile) = spec.linux_mut().as_mut().and_then(|linux| linux.seccomp_mut().as_mut())
    else {
        return Ok(());
    };
    let mut rules = profile.syscalls().clone().unwrap_or_default();
    for rule in &mut rules {
        let Some(mut args) = rule.args().clone() else { continue };
        for arg in &mut args {
            if arg.op() == LinuxSeccompOperator::ScmpCmpMaskedEq {
                *arg = LinuxSeccompArgBuilder::default()
                    .index(arg.index())
                    .op(arg.op())
                    .value(arg.value_two().unwrap_or(0))
                    .value_two(arg.value())
                    .build()?;
            }
        }
        rule.set_args(Some(args));
    }
    profile.set_syscalls(Some(rules));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROFILE: &str = r#"{
        "defaultAction": "SCMP_ACT_ERRNO",
        "architectures": ["SCMP_ARCH_NATIVE"],
        "syscalls": [
            { "names": ["read", "no_such_call"], "action": "SCMP_ACT_ALLOW" },
            { "names": ["clone"], "action": "SCMP_ACT_ALLOW", "args": [
                { "index": 0, "op": "SCMP_CMP_MASKED_EQ", "value": 2114060288, "valueTwo": 0 }
            ]}
        ]
    }"#;

    /// A root, and a bundle in it.
    fn bundle(no_new_privileges: bool) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("mine/rootfs")).unwrap();
        let spec = format!(
            r#"{{"ociVersion": "1.1.0", "root": {{"path": "rootfs"}},
                "process": {{"cwd": "/", "args": ["true"], "user": {{"uid": 0, "gid": 0}},
                             "noNewPrivileges": {no_new_privileges}}},
                "linux": {{"seccomp": {PROFILE}}}}}"#
        );
        fs::write(dir.path().join("mine/config.json"), spec).unwrap();
        dir
    }

    #[test]
    fn a_profile_is_compiled_once() {
        let root = bundle(true);
        let original = root.path().join("mine");
        let one = Bundle::make(root.path(), "one", &original).unwrap();
        let two = Bundle::make(root.path(), "two", &original).unwrap();
        assert!(one.filter().unwrap().is_some_and(|filter| filter.len() > 4));
        assert_eq!(one.filter().unwrap(), two.filter().unwrap());
        assert_eq!(fs::read_dir(root.path().join(FILTERS)).unwrap().count(), 1);
        let spec = Spec::load(one.dir().join("config.json")).unwrap();
        assert_eq!(spec.linux().as_ref().unwrap().seccomp(), &None);
        assert!(spec.root().as_ref().unwrap().path().is_absolute());
        assert_eq!(one.original().unwrap(), original);
        one.remove().unwrap();
        one.remove().unwrap();
        assert!(!one.dir().exists());
    }

    /// libcontainer 0.7 has mask and value the wrong way round: `clone` with any flags was allowed.
    #[test]
    fn what_libcontainer_compiles_has_its_masks_turned() {
        let root = bundle(false);
        let bundle = Bundle::make(root.path(), "one", &root.path().join("mine")).unwrap();
        assert_eq!(bundle.filter().unwrap(), None);
        let spec = Spec::load(bundle.dir().join("config.json")).unwrap();
        let profile = spec.linux().as_ref().unwrap().seccomp().as_ref().unwrap();
        let clone = &profile.syscalls().as_ref().unwrap()[1].args().as_ref().unwrap()[0];
        assert_eq!((clone.value(), clone.value_two()), (0, Some(2_114_060_288)));
    }
}
