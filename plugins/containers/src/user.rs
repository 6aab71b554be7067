//! Users: from what an image or a person says to numbers, by the image's own files.
//!
//! All digits are a number, never a name that happens to look like one (CVE-2024-40635,
//! CVE-2026-46680). The files are opened beneath the root of the image and read within bounds: an
//! image must not make the daemon read a host file, or all of its memory full.

use std::fs::File;
use std::io::Read as _;
use std::os::fd::OwnedFd;

use capstan_sdk::{Error, Result};
use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};

/// The most bytes of /etc/passwd and of /etc/group. Ten thousand users are less than 1 MiB.
const MAX_FILE: u64 = 4 << 20;

/// The largest id; the kernel's -1 means "no change", and some tools treat ids as signed.
const MAX_ID: u32 = i32::MAX as u32;

/// The most supplementary groups that a process may have (NGROUPS_MAX).
const MAX_GROUPS: usize = 65_536;

/// A user, in numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) additional_gids: Vec<u32>,
}

/// `user[:group]`, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wish<'t> {
    user: Part<'t>,
    group: Option<Part<'t>>,
    /// Besides those that the image's files name.
    additional: Vec<Part<'t>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part<'t> {
    Id(u32),
    Name(&'t str),
}

impl<'t> Wish<'t> {
    /// Empty text is root.
    ///
    /// # Errors
    /// `InvalidArgument`.
    pub(crate) fn parse(text: &'t str) -> Result<Self> {
        let (user, group) = match text.split_once(':') {
            Some((user, group)) => (user, Some(group)),
            None => (text, None),
        };
        let user = if user.is_empty() { Part::Id(0) } else { part(text, user)? };
        let group = group.filter(|group| !group.is_empty()).map(|group| part(text, group));
        Ok(Self { user, group: group.transpose()?, additional: Vec::new() })
    }

    /// With these groups too, names or numbers.
    ///
    /// # Errors
    /// `InvalidArgument`.
    pub(crate) fn with_groups(mut self, groups: &'t [String]) -> Result<Self> {
        for group in groups {
            if group.is_empty() {
                return Err(Error::invalid("an additional group has no name"));
            }
            self.additional.push(part(group, group)?);
        }
        Ok(self)
    }

    /// The numbers, by the files of a running container.
    ///
    /// # Errors
    /// As [`Wish::resolve`]; `FailedPrecondition`: it has ended.
    pub(crate) fn resolve_in_process(&self, pid: u32) -> Result<User> {
        if let Some(user) = self.without_files() {
            return Ok(user);
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(format!("/proc/{pid}/root"), flags, Mode::empty())
            .map_err(|_| Error::precondition("the container has ended"))?;
        self.resolve(&root)
    }

    /// The numbers, if the image's files can add nothing: for root.
    pub(crate) fn without_files(&self) -> Option<User> {
        match (self.user, self.group) {
            (Part::Id(0), None | Some(Part::Id(0))) if self.additional.is_empty() => {
                Some(User::default())
            }
            _ => None,
        }
    }

    /// The numbers, by the files of the image.
    ///
    /// # Errors
    /// `NotFound`: no such user or group. `ResourceExhausted`: a file that is too large.
    pub(crate) fn resolve(&self, root: &OwnedFd) -> Result<User> {
        let passwd = read(root, "etc/passwd")?;
        let group = read(root, "etc/group")?;
        self.look_up(&passwd, &group)
    }

    fn look_up(&self, passwd: &str, group: &str) -> Result<User> {
        let entry = find_user(passwd, self.user);
        let (uid, own_gid, name) = match (self.user, entry) {
            (_, Some(entry)) => (entry.uid, entry.gid, Some(entry.name)),
            // A number needs no entry; it has no groups of its own then.
            (Part::Id(uid), None) => (uid, 0, None),
            (Part::Name(name), None) => {
                return Err(Error::not_found(format!(
                    "user {name:?} is not in the image's /etc/passwd; use a number, or another name"
                )));
            }
        };
        let number = |wanted: Part<'_>| {
            match wanted {
            Part::Id(gid) => Ok(gid),
            Part::Name(wanted) => find_group(group, wanted).ok_or_else(|| {
                Error::not_found(format!(
                    "group {wanted:?} is not in the image's /etc/group; use a number, or another name"
                ))
            }),
        }
        };
        let gid = self.group.map_or(Ok(own_gid), number)?;
        // With a group of their own choice people get that one alone, as Docker and podman do.
        let mut additional_gids = match (name, self.group) {
            (Some(name), None) => groups_of(group, name),
            _ => Vec::new(),
        };
        for &group in &self.additional {
            additional_gids.push(number(group)?);
        }
        additional_gids.retain(|&other| other != gid);
        additional_gids.sort_unstable();
        additional_gids.dedup();
        Ok(User { uid, gid, additional_gids })
    }
}

fn part<'t>(whole: &str, text: &'t str) -> Result<Part<'t>> {
    let bad = |why: &str| Error::invalid(format!("user {whole:?}: {why}"));
    if text.bytes().all(|b| b.is_ascii_digit()) {
        return match text.parse::<u32>() {
            Ok(id) if id <= MAX_ID => Ok(Part::Id(id)),
            _ => Err(bad(&format!("ids go from 0 to {MAX_ID}"))),
        };
    }
    let is_name = |c: char| !c.is_control() && !c.is_whitespace() && c != ':' && c != '/';
    if text.len() > 256 || text.starts_with(['-', '+']) || !text.chars().all(is_name) {
        return Err(bad("write USER[:GROUP], names or numbers"));
    }
    Ok(Part::Name(text))
}

struct Entry<'f> {
    name: &'f str,
    uid: u32,
    gid: u32,
}

fn find_user<'f>(passwd: &'f str, wanted: Part<'_>) -> Option<Entry<'f>> {
    passwd.lines().filter_map(passwd_entry).find(|entry| match wanted {
        Part::Id(uid) => entry.uid == uid,
        Part::Name(name) => entry.name == name,
    })
}

/// passwd(5): `name:password:uid:gid:...`. A line that is not one is no user.
fn passwd_entry(line: &str) -> Option<Entry<'_>> {
    let mut fields = line.split(':');
    let name = fields.next().filter(|name| !name.is_empty())?;
    let (_, uid, gid) = (fields.next()?, fields.next()?, fields.next()?);
    Some(Entry { name, uid: id(uid)?, gid: id(gid)? })
}

/// group(5): `name:password:gid:user,user`.
fn group_entry(line: &str) -> Option<(&str, u32, &str)> {
    let mut fields = line.split(':');
    let name = fields.next().filter(|name| !name.is_empty())?;
    let (_, gid) = (fields.next()?, fields.next()?);
    Some((name, id(gid)?, fields.next().unwrap_or_default()))
}

fn id(text: &str) -> Option<u32> {
    text.parse().ok().filter(|&id| id <= MAX_ID)
}

fn find_group(group: &str, wanted: &str) -> Option<u32> {
    let mut entries = group.lines().filter_map(group_entry);
    entries.find(|(name, _, _)| *name == wanted).map(|(_, gid, _)| gid)
}

fn groups_of(group: &str, user: &str) -> Vec<u32> {
    let mut gids: Vec<u32> = group
        .lines()
        .filter_map(group_entry)
        .filter(|(_, _, members)| members.split(',').any(|member| member.trim() == user))
        .map(|(_, gid, _)| gid)
        .take(MAX_GROUPS)
        .collect();
    gids.sort_unstable();
    gids.dedup();
    gids
}

/// A file of the image; one that is not there is empty.
fn read(root: &OwnedFd, name: &str) -> Result<String> {
    let fail = |error: rustix::io::Errno| Error::io(format!("read the image's /{name}"), error);
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let file = match openat2(root, name, flags, Mode::empty(), resolve) {
        Ok(file) => File::from(file),
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => return Ok(String::new()),
        Err(error) => return Err(fail(error)),
    };
    let about = file.metadata().map_err(|error| Error::io(format!("read /{name}"), error))?;
    if !about.is_file() {
        return Err(Error::invalid(format!("the image's /{name} is no regular file")));
    }
    let mut bytes = Vec::new();
    file.take(MAX_FILE + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| Error::io(format!("read the image's /{name}"), error))?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(Error::exhausted(format!(
            "the image's /{name} is larger than {MAX_FILE} bytes; use a numeric user"
        )));
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use capstan_sdk::Class;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nweb:x:1000:1001::/:\n1234:x:0:0::/:\n\
                          broken\nhuge:x:4294967296:0::/:\n:x:5:5::/:\nalso:x:1000:7::/:\n";
    const GROUP: &str = "root:x:0:\nweb:x:1001:\nadm:x:4:other,web\nbig:x:50:web\nneg:x:-1:web\n";

    fn check(text: &str, want: std::result::Result<(u32, u32, &[u32]), Class>) {
        let got = Wish::parse(text).and_then(|wish| wish.look_up(PASSWD, GROUP));
        match (got, want) {
            (Ok(user), Ok((uid, gid, gids))) => {
                assert_eq!(
                    (user.uid, user.gid, user.additional_gids.as_slice()),
                    (uid, gid, gids),
                    "{text}"
                );
            }
            (Err(error), Err(class)) => assert_eq!(error.class(), class, "{text}: {error}"),
            (got, want) => panic!("{text}: {got:?}, want {want:?}"),
        }
    }

    #[test]
    fn users_become_numbers() {
        check("", Ok((0, 0, &[])));
        check("root", Ok((0, 0, &[])));
        check("web", Ok((1000, 1001, &[4, 50])));
        check("1000", Ok((1000, 1001, &[4, 50])));
        check("web:adm", Ok((1000, 4, &[])));
        check("web:77", Ok((1000, 77, &[])));
        check("5000", Ok((5000, 0, &[])));
        check("5000:6000", Ok((5000, 6000, &[])));
        check(":4", Ok((0, 4, &[])));
        check("web:", Ok((1000, 1001, &[4, 50])));
        // Digits are a number, although the image has a user of that name who is root.
        check("1234", Ok((1234, 0, &[])));
    }

    #[test]
    fn what_is_no_user_is_refused() {
        check("nobody", Err(Class::NotFound));
        check("broken", Err(Class::NotFound));
        check("huge", Err(Class::NotFound));
        check("web:nogroup", Err(Class::NotFound));
        check("web:neg", Err(Class::NotFound));
        check("4294967296", Err(Class::InvalidArgument));
        check("4294967296:0", Err(Class::InvalidArgument));
        check("2147483648", Err(Class::InvalidArgument));
        check("-1", Err(Class::InvalidArgument));
        check("a b", Err(Class::InvalidArgument));
        check("a:b:c", Err(Class::InvalidArgument));
        check("a/b", Err(Class::InvalidArgument));
    }

    #[test]
    fn groups_are_added_by_name_and_number() {
        let check = |text: &str, groups: &[&str], want: Option<&[u32]>| {
            let groups: Vec<String> = groups.iter().map(|&group| group.to_owned()).collect();
            let wish = Wish::parse(text).and_then(|wish| wish.with_groups(&groups));
            let got = wish.and_then(|wish| wish.look_up(PASSWD, GROUP)).ok();
            assert_eq!(got.map(|user| user.additional_gids).as_deref(), want, "{text} {groups:?}");
        };
        check("", &["adm"], Some(&[4]));
        check("", &["77", "adm", "4", "0"], Some(&[4, 77]));
        check("web", &["77"], Some(&[4, 50, 77]));
        check("web:adm", &["77", "adm"], Some(&[77]));
        check("", &["nogroup"], None);
        check("", &[""], None);
        check("", &["-1"], None);
        check("", &["a:b"], None);
    }

    #[test]
    fn only_root_needs_no_files() {
        let needs = |text: &str| Wish::parse(text).unwrap().without_files().is_none();
        assert!(!needs(""));
        assert!(!needs("0"));
        assert!(!needs("0:0"));
        assert!(needs("root"));
        assert!(needs("1000"));
    }

    #[test]
    fn a_link_out_of_the_image_stays_in_it() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("etc")).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", dir.path().join("etc/group")).unwrap();
        std::fs::write(dir.path().join("etc/passwd"), "inner:x:1:2::/:\n").unwrap();
        let root: OwnedFd = File::open(dir.path()).unwrap().into();
        assert_eq!(read(&root, "etc/group").unwrap(), "inner:x:1:2::/:\n");
        std::fs::remove_file(dir.path().join("etc/group")).unwrap();
        std::os::unix::fs::symlink("../../../../etc/hostname", dir.path().join("etc/group"))
            .unwrap();
        assert_eq!(read(&root, "etc/group").unwrap(), "");
    }
}
