//! Whether overlayfs works on a directory's file system: tried, not guessed.

use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;

use capstan_sdk::{Class, Error, Mount, Result, mount, tree};

/// Mounts a small overlay below `root`, where nobody sees it, and looks into it.
///
/// # Errors
/// `FailedPrecondition`, with what to do.
pub(crate) fn overlay(root: &Path) -> Result<()> {
    let dir = root.join("probe");
    tree::remove(&dir)?;
    let outcome = try_in(&dir);
    let cleaned = tree::remove(&dir);
    outcome.map_err(|error| match error.class() {
        Class::ResourceExhausted => error,
        _ => Error::precondition(format!(
            "overlayfs does not work on {} ({}); use another file system, such as ext4 or xfs with \
             ftype=1, or another snapshotter ([prefer] snapshotter = \"native\")",
            root.display(),
            error.message()
        )),
    })?;
    cleaned
}

fn try_in(dir: &Path) -> Result<()> {
    for name in ["lower", "upper", "work", "merged"] {
        let path = dir.join(name);
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&path)
            .map_err(|error| Error::io(format!("make {}", path.display()), error))?;
    }
    fs::write(dir.join("lower/file"), "")
        .map_err(|error| Error::io(format!("write below {}", dir.display()), error))?;
    let path = |name: &str| dir.join(name).to_string_lossy().into_owned();
    let mounts = [Mount {
        kind: "overlay".into(),
        source: "overlay".into(),
        options: vec![
            format!("workdir={}", path("work")),
            format!("upperdir={}", path("upper")),
            format!("lowerdir={}", path("lower")),
        ],
    }];
    mount::with_mounted(&mounts, &dir.join("merged"), |root| {
        // Without d_type in the lower file system whiteouts show as files.
        let mut types = rustix::fs::Dir::read_from(&root)
            .map_err(|error| Error::io("list the probe", error))?
            .filter_map(std::result::Result::ok)
            .map(|entry| entry.file_type());
        if types.any(|kind| kind == rustix::fs::FileType::Unknown) {
            return Err(Error::precondition("the file system has no d_type"));
        }
        rustix::fs::unlinkat(&root, "file", rustix::fs::AtFlags::empty())
            .map_err(|error| Error::io("remove a file in the probe", error))
    })
}

/// In a user namespace only `user.` attributes can be written: overlayfs keeps its own there then.
pub(crate) const USER_XATTR: &str = "userxattr";

/// The words that mounts need here, so that a layer stands for itself, whatever it is put on. `index` ties an upper
/// layer to its lower ones; with `metacopy` and `redirect_dir` files of a layer lie in those below. The kernel's
/// own defaults are left alone where they are off.
pub(crate) fn words() -> Vec<String> {
    let is_on = |name: &&str| {
        let path = Path::new("/sys/module/overlay/parameters").join(name);
        fs::read_to_string(path).is_ok_and(|value| value.trim() == "Y")
    };
    let words = ["index", "metacopy", "redirect_dir"].into_iter().filter(is_on);
    let mut words: Vec<String> = words.map(|name| format!("{name}=off")).collect();
    let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    if is_in_user_namespace(&map) {
        words.push(USER_XATTR.into());
    }
    words
}

/// user_namespaces(7): the first one maps all ids to themselves.
fn is_in_user_namespace(map: &str) -> bool {
    let words: Vec<&str> = map.split_whitespace().collect();
    !words.is_empty() && words != ["0", "0", "4294967295"]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// F-090: overlayfs mounts there, and would show whiteouts as files.
    #[test]
    fn dtype() {
        for (kind, words, is_fine) in
            [("ext4", &[][..], true), ("xfs", &[], true), ("ext4", &["-O", "^filetype"], false)]
        {
            let disk = capstan_sdk::testing_disk::LoopDisk::with(kind, 400, words);
            let probed = overlay(disk.path());
            assert!(!disk.path().join("probe").exists(), "nothing is left");
            let Err(error) = probed else {
                assert!(is_fine, "{kind} {words:?}");
                continue;
            };
            assert!(!is_fine, "{kind}: {error}");
            assert_eq!(error.class(), Class::FailedPrecondition);
            assert!(error.message().contains("no d_type"), "{error}");
            assert!(error.message().contains("snapshotter = \"native\""), "{error}");
        }
    }

    #[test]
    fn a_user_namespace_is_seen_by_its_map() {
        assert!(!is_in_user_namespace("         0          0 4294967295\n"));
        assert!(is_in_user_namespace("         0       1000          1\n"));
        assert!(is_in_user_namespace("0 0 1\n1 100000 65536\n"));
        assert!(!is_in_user_namespace(""));
    }
}
