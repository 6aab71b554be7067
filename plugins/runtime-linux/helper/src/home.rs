//! HOME, for a process whose environment lacks it.
//!
//! libcontainer 0.7 asks the C library for it, after it has entered the container's root and before the
//! seccomp filter is in force. The C library would load whatever module the image's nsswitch.conf names,
//! into our process (the way of CVE-2019-14271). So it never has to ask.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use libcontainer::oci_spec::runtime::Process;
use rustix::fs::{Mode, OFlags, ResolveFlags, open, openat2};

/// The most that is read of an image's /etc/passwd: ten thousand users are less.
const MAX_FILE: u64 = 1 << 20;

/// What runc takes where /etc/passwd does not know the user.
const DEFAULT: &str = "/";

/// Adds HOME to a process's environment, if that has none.
pub(crate) fn ensure(process: &mut Process, root: &Path) -> Result<()> {
    let mut env = process.env().clone().unwrap_or_default();
    if env.iter().any(|pair| pair.starts_with("HOME=")) {
        return Ok(());
    }
    let home = look_up(root, process.user().uid())
        .with_context(|| format!("look a user up in {}", root.display()))?;
    env.push(format!("HOME={}", home.as_deref().unwrap_or(DEFAULT)));
    process.set_env(Some(env));
    Ok(())
}

/// By the file of the image, opened inside its root; one that is missing or no file knows nobody.
fn look_up(root: &Path, uid: u32) -> Result<Option<String>> {
    let dir = open(root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let Ok(file) = openat2(&dir, "etc/passwd", flags, Mode::empty(), resolve) else {
        return Ok(None);
    };
    let file = File::from(file);
    if !file.metadata()?.is_file() {
        return Ok(None);
    }
    let mut text = String::new();
    // What is no text, or longer than anybody's, is not for us.
    let is_text = file.take(MAX_FILE).read_to_string(&mut text).is_ok();
    Ok(is_text.then(|| home_of(&text, uid)).flatten())
}

/// passwd(5): the first line with this number counts.
fn home_of(passwd: &str, uid: u32) -> Option<String> {
    let home = |line: &str| {
        let fields: Vec<&str> = line.split(':').collect();
        let is_it = fields.get(2)?.parse() == Ok(uid);
        let home = fields.get(5).filter(|home| home.starts_with('/'))?;
        is_it.then(|| (*home).to_owned())
    };
    passwd.lines().find_map(home)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    #[test]
    fn the_images_file_says_where_home_is() {
        let check = |passwd: &str, uid: u32, home: Option<&str>| {
            assert_eq!(home_of(passwd, uid).as_deref(), home, "{passwd:?}");
        };
        let passwd = "root:x:0:0:root:/root:/bin/sh\na:x:1000:1000::/home/a:/bin/sh\n";
        check(passwd, 0, Some("/root"));
        check(passwd, 1000, Some("/home/a"));
        check(passwd, 1001, None);
        check("root:x:0:0:root:relative:/bin/sh\n", 0, None);
        check("root:x:0\n\n::::::\n", 0, None);
    }

    #[test]
    fn a_file_outside_is_not_read() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        fs::create_dir_all(root.join("etc")).unwrap();
        assert_eq!(look_up(&root, 0).unwrap(), None);
        fs::write(dir.path().join("passwd"), "root:x:0:0::/outside:\n").unwrap();
        symlink("../../passwd", root.join("etc/passwd")).unwrap();
        assert_eq!(look_up(&root, 0).unwrap(), None);
        fs::write(root.join("passwd"), "root:x:0:0::/inside:\n").unwrap();
        assert_eq!(look_up(&root, 0).unwrap().as_deref(), Some("/inside"));
    }
}
