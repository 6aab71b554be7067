//! The root filesystem of a container with a user namespace: mounted so that the ids on disk are ids of
//! the container. Nothing on disk is changed.
//!
//! A bind is mapped itself, any other file system once it is mounted. An overlay cannot be, so each of its layers is mapped, in a place of the
//! task's own, and the overlay is made of these. It is made as the container's root, so that what the
//! kernel puts into the upper layer by itself belongs to an id that is mapped.

use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;

use capstan_schema::shim_capnp::id_mapping;
use capstan_schema::{Error, Result};
use nix::mount::MsFlags;
use nix::unistd::{Gid, Uid, setfsgid, setfsuid};
use rustix::fs::CWD;
use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};
use rustix::thread::{
    CapabilitiesSecureBits, capabilities_secure_bits, set_capabilities_secure_bits,
};

use crate::create::RawMount;
use crate::sys::idmap::{set_ids, user_namespace};

/// Where mapped layers are, in the task's directory.
const LAYERS: &str = "layers";

/// A line of a map.
pub(crate) struct IdMapping {
    is_group: bool,
    container: u32,
    host: u32,
    size: u32,
}

impl IdMapping {
    pub(crate) fn read(reader: id_mapping::Reader<'_>) -> Self {
        Self {
            is_group: reader.get_is_group(),
            container: reader.get_container(),
            host: reader.get_host(),
            size: reader.get_size(),
        }
    }
}

#[cfg(test)]
impl IdMapping {
    pub(crate) fn of(is_group: bool, container: u32, host: u32, size: u32) -> Self {
        Self { is_group, container, host, size }
    }
}

/// The kernel's text of a map.
fn lines(mappings: &[IdMapping], is_group: bool) -> String {
    let line = |m: &IdMapping| format!("{} {} {}\n", m.container, m.host, m.size);
    mappings.iter().filter(|mapping| mapping.is_group == is_group).map(line).collect()
}

/// Who the container's root is outside.
fn root_of(mappings: &[IdMapping], is_group: bool) -> Result<u32> {
    let zero = mappings.iter().find(|m| m.is_group == is_group && m.container == 0 && m.size > 0);
    zero.map(|mapping| mapping.host)
        .ok_or_else(|| Error::invalid("the user namespace has no id 0: map that too"))
}

/// Mounts all in order on `target`, with mapped ids if there are mappings.
pub(crate) fn mount_all(
    mounts: &[RawMount],
    mappings: &[IdMapping],
    home: &Path,
    target: &Path,
) -> Result<()> {
    if mappings.is_empty() {
        return mounts.iter().try_for_each(|mount| mount.mount(home, target));
    }
    let namespace = user_namespace(&lines(mappings, false), &lines(mappings, true))?;
    let root = (root_of(mappings, false)?, root_of(mappings, true)?);
    for mount in mounts {
        if mount.kind.is_empty() {
            let is_recursive = mount.flags & MsFlags::MS_REC.bits() != 0;
            let tree = mapped(&mount.source, &namespace, is_recursive, mount.of_bind())?;
            put(&tree, target)?;
        } else if mount.kind == "overlay" {
            let layers = overlay(mount, &namespace, home)?;
            as_user(root, || layers.mount(home, target))??;
        } else {
            // What is mounted has ids that can be mapped; what it is mounted from has not.
            let place = home.join(LAYERS);
            std::fs::create_dir_all(&place)
                .map_err(|error| Error::io(format!("make {}", place.display()), error))?;
            mount.mount(home, &place)?;
            put(&mapped(&place.to_string_lossy(), &namespace, false, MsFlags::empty())?, target)?;
        }
    }
    Ok(())
}

/// A copy of a mounted tree, with mapped ids.
fn mapped(
    source: &str,
    namespace: &OwnedFd,
    is_recursive: bool,
    of_bind: MsFlags,
) -> Result<OwnedFd> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    if is_recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    let tree = open_tree(CWD, source, flags)
        .map_err(|error| Error::io(format!("copy the mount of {source}"), error))?;
    set_ids(&tree, namespace, is_recursive, of_bind).map_err(|error| {
        match error.raw_os_error() {
            // Its file system has no such mounts, or it has been given other ids already.
            Some(nix::libc::EINVAL | nix::libc::EPERM | nix::libc::EOPNOTSUPP) => {
                Error::precondition(format!(
                    "user namespace: the file system of {source} cannot have its ids mapped on this \
                     kernel ({error}); keep it on ext4, xfs, btrfs or tmpfs, or run without --userns"
                ))
            }
            _ => Error::io(format!("map the ids of {source}"), error),
        }
    })?;
    Ok(tree)
}

fn put(tree: &OwnedFd, target: &Path) -> Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    move_mount(tree.as_fd(), "", CWD, target, flags)
        .map_err(|error| Error::io(format!("mount on {}", target.display()), error))
}

/// The same overlay, of mapped layers.
fn overlay(mount: &RawMount, namespace: &OwnedFd, home: &Path) -> Result<RawMount> {
    let absolute = |dir: &str| Path::new(&mount.workdir).join(dir).to_string_lossy().into_owned();
    let mut count = 0;
    let mut place = |source: &str| -> Result<String> {
        let name = format!("{LAYERS}/{count}");
        count += 1;
        let dir = home.join(&name);
        std::fs::create_dir_all(&dir)
            .map_err(|error| Error::io(format!("make {}", dir.display()), error))?;
        put(&mapped(source, namespace, false, MsFlags::empty())?, &dir)?;
        Ok(name)
    };
    let mut words = Vec::new();
    // Upper and work directory must be in one mount.
    let mut upper: Option<(String, String)> = None;
    for word in mount.data.split(',') {
        let word = match word.split_once('=') {
            Some(("lowerdir", layers)) => {
                let layers = layers.split(':').map(|layer| place(&absolute(layer)));
                format!("lowerdir={}", layers.collect::<Result<Vec<_>>>()?.join(":"))
            }
            Some((key @ ("upperdir" | "workdir"), dir)) => {
                let dir = absolute(dir);
                let (parent, name) = dir
                    .rsplit_once('/')
                    .ok_or_else(|| Error::internal(format!("{key} {dir} has no parent")))?;
                let place = match &upper {
                    Some((known, place)) if known == parent => place.clone(),
                    _ => place(parent)?,
                };
                upper = Some((parent.to_owned(), place.clone()));
                format!("{key}={place}/{name}")
            }
            _ => word.to_owned(),
        };
        words.push(word);
    }
    Ok(RawMount {
        kind: mount.kind.clone(),
        source: mount.source.clone(),
        flags: mount.flags,
        data: words.join(","),
        is_read_only_bind: mount.is_read_only_bind,
        workdir: home.to_string_lossy().into_owned(),
    })
}

/// Does something to files as another user, with all our rights.
fn as_user<T>((uid, gid): (u32, u32), work: impl FnOnce() -> T) -> Result<T> {
    let fail = |error: rustix::io::Errno| Error::io("become the container's root", error);
    let before = capabilities_secure_bits().map_err(fail)?;
    set_capabilities_secure_bits(before | CapabilitiesSecureBits::NO_SETUID_FIXUP).map_err(fail)?;
    setfsgid(Gid::from_raw(gid));
    setfsuid(Uid::from_raw(uid));
    let done = work();
    setfsuid(Uid::from_raw(0));
    setfsgid(Gid::from_raw(0));
    set_capabilities_secure_bits(before).map_err(fail)?;
    Ok(done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_are_the_kernels_lines() {
        let mapping = |is_group, container, host| IdMapping { is_group, container, host, size: 9 };
        let mappings = [mapping(false, 0, 5), mapping(true, 0, 6), mapping(false, 9, 100)];
        assert_eq!(lines(&mappings, false), "0 5 9\n9 100 9\n");
        assert_eq!(lines(&mappings, true), "0 6 9\n");
        assert_eq!((root_of(&mappings, false).unwrap(), root_of(&mappings, true).unwrap()), (5, 6));
        assert!(root_of(&mappings[2..], false).is_err());
    }
}
