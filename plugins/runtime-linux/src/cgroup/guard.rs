//! Which cgroups may be touched: those of containers, and never one on which the machine or the daemon hangs.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Component, Path, PathBuf};

use capstan_sdk::{Error, Result, mount};

/// A hierarchy, where it is mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Hierarchy {
    /// Empty for version 2.
    controllers: Vec<String>,
    point: PathBuf,
    /// What of it the mount shows.
    root: PathBuf,
}

/// The hierarchies of the machine, and where we are in each.
#[derive(Debug)]
pub(crate) struct Guard {
    hierarchies: Vec<Hierarchy>,
    /// Controllers, joined with commas, and path.
    ours: Vec<(String, PathBuf)>,
}

impl Guard {
    /// As they are now.
    ///
    /// # Errors
    /// /proc cannot be read.
    pub(crate) fn read() -> Result<Self> {
        let read = |path: &str| {
            fs::read_to_string(path).map_err(|error| Error::io(format!("read {path}"), error))
        };
        Ok(Self::parse(&read("/proc/self/mountinfo")?, &read("/proc/self/cgroup")?))
    }

    /// From a mountinfo file, and the lines `number:controllers:path` of cgroups(7).
    fn parse(mountinfo: &str, cgroup: &str) -> Self {
        let ours = cgroup.lines().filter_map(|line| {
            let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
            Some((controllers.to_owned(), PathBuf::from(path)))
        });
        Self {
            hierarchies: mount::listed(mountinfo).filter_map(hierarchy).collect(),
            ours: ours.collect(),
        }
    }

    /// Those that may be touched.
    pub(crate) fn allowed(&self, dirs: &[String]) -> Vec<PathBuf> {
        let dirs = dirs.iter().map(PathBuf::from);
        dirs.filter(|dir| self.is_allowed(dir)).collect()
    }

    /// Whether a directory is a cgroup, not the root of its hierarchy, and not one that we are in or below.
    fn is_allowed(&self, dir: &Path) -> bool {
        let is_plain = |part| matches!(part, Component::RootDir | Component::Normal(_));
        if !dir.is_absolute() || !dir.components().all(is_plain) {
            return false;
        }
        let around = self.hierarchies.iter().filter(|one| dir.starts_with(&one.point));
        let Some(found) = around.max_by_key(|one| one.point.components().count()) else {
            return false;
        };
        // Without knowing where we are, none is safe.
        let Some(own) = self.own(found) else { return false };
        dir != found.point && !own.starts_with(dir)
    }

    /// Our own directory in a hierarchy.
    fn own(&self, hierarchy: &Hierarchy) -> Option<PathBuf> {
        let known = &hierarchy.controllers;
        let is_it = |names: &str| match known.is_empty() {
            true => names.is_empty(),
            false => names.split(',').any(|name| known.iter().any(|known| known == name)),
        };
        let (_, path) = self.ours.iter().find(|(names, _)| is_it(names))?;
        match path.strip_prefix(&hierarchy.root) {
            Ok(below) => Some(hierarchy.point.join(below)),
            // We are outside of what the mount shows, so in none of its directories.
            Err(_) => Some(hierarchy.point.clone()),
        }
    }

    /// The directories of a spec's `path`, one for each hierarchy: those that may be touched. systemd's form
    /// is no path, and has none.
    pub(crate) fn places(&self, path: &Path) -> Vec<PathBuf> {
        let Ok(below) = path.strip_prefix("/") else { return Vec::new() };
        let places = self.hierarchies.iter().map(|one| one.point.join(below));
        places.filter(|dir| self.is_allowed(dir)).collect()
    }

    /// The two above a container's own, in each hierarchy, that a runtime makes for a spec's `path`.
    fn parents(&self, path: &Path) -> BTreeSet<PathBuf> {
        path.ancestors().skip(1).take(2).flat_map(|above| self.places(above)).collect()
    }
}

fn hierarchy(seen: mount::Seen) -> Option<Hierarchy> {
    let mount::Seen { root, target: point, kind, options, .. } = seen;
    let known = |word: &String| !matches!(word.as_str(), "rw" | "ro");
    let controllers = match kind.as_str() {
        "cgroup" => options.into_iter().filter(known).collect(),
        "cgroup2" => Vec::new(),
        _ => return None,
    };
    Some(Hierarchy { controllers, point, root })
}

/// The cgroups above those of a container that could not be made: its runtime may have made them. They are
/// to be removed when they are empty.
pub(crate) fn parents_in_spec(spec: &[u8]) -> BTreeSet<PathBuf> {
    let spec: serde_json::Value = serde_json::from_slice(spec).unwrap_or_default();
    let path = spec["linux"]["cgroupsPath"].as_str().unwrap_or_default();
    // systemd's form is no path, and systemd removes its own.
    match (path.starts_with('/'), Guard::read()) {
        (true, Ok(guard)) => guard.parents(Path::new(path)),
        _ => BTreeSet::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIXED: &str = "31 25 0:27 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu,cpuacct\n\
         32 25 0:28 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd\n\
         33 25 0:29 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n\
         34 25 0:30 /part /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
         22 1 8:1 / / rw - ext4 /dev/vda rw\n";
    const OURS: &str = "5:cpu,cpuacct:/\n4:memory:/part/a/b\n3:name=systemd:/s\n0::/u/v\n";

    #[test]
    fn the_root_and_what_we_are_in_are_never_touched() {
        let guard = Guard::parse(MIXED, OURS);
        for (dir, want) in [
            ("/sys/fs/cgroup/cpu", false),
            ("/sys/fs/cgroup/cpu/", false),
            ("/sys/fs/cgroup/cpu/c/web", true),
            ("/sys/fs/cgroup/cpu/c/../..", false),
            ("/sys/fs/cgroup/memory/a", false),
            ("/sys/fs/cgroup/memory/a/b", false),
            ("/sys/fs/cgroup/memory/a/b/c", true),
            ("/sys/fs/cgroup/memory/ab", true),
            ("/sys/fs/cgroup/systemd/s", false),
            ("/sys/fs/cgroup/unified/u/v", false),
            ("/sys/fs/cgroup/unified/u", false),
            ("/sys/fs/cgroup/unified/c/web", true),
            ("/sys/fs/cgroup/pids/c/web", false),
            ("/sys/fs/cgroup", false),
            ("/", false),
            ("/etc", false),
            ("c/web", false),
            ("", false),
        ] {
            assert_eq!(guard.is_allowed(Path::new(dir)), want, "{dir}");
        }
        let dirs = ["/sys/fs/cgroup/cpu", "/sys/fs/cgroup/cpu/c/web"].map(str::to_owned);
        assert_eq!(guard.allowed(&dirs), [Path::new("/sys/fs/cgroup/cpu/c/web")]);
    }

    #[test]
    fn what_the_daemon_is_in_is_found_in_each_hierarchy() {
        let guard = Guard::parse(
            "31 25 0:27 / /cg/cpu rw - cgroup cgroup rw,cpu,cpuacct\n\
             32 25 0:28 / /cg/systemd rw - cgroup cgroup rw,name=systemd\n\
             33 25 0:29 / /cg/unified rw - cgroup2 cgroup2 rw\n\
             22 1 8:1 / / rw - ext4 /dev/vda rw\n",
            "3:cpu,cpuacct:/a/b\n2:name=systemd:/\n0::/a\n",
        );
        let own: Vec<PathBuf> =
            guard.hierarchies.iter().map(|one| guard.own(one).unwrap()).collect();
        assert_eq!(own, ["/cg/cpu/a/b", "/cg/systemd/", "/cg/unified/a"].map(Path::new));
        for (dir, want) in [
            ("/", false),
            ("/cg", false),
            ("/cg/cpu", false),
            ("/cg/cpu/", false),
            ("/cg/cpu/a", false),
            ("/cg/cpu/a/b", false),
            ("/cg/cpu/a/b/c", true),
            ("/cg/cpu/ab", true),
            ("/cg/cpu/x/../a", false),
            ("/cg/unified/a", false),
            ("/cg/systemd/a", true),
            ("/home", false),
        ] {
            assert_eq!(guard.is_allowed(Path::new(dir)), want, "{dir}");
        }
    }

    #[test]
    fn a_hierarchy_in_which_we_are_nowhere_is_not_touched() {
        let guard = Guard::parse(MIXED, "5:cpu,cpuacct:/\n");
        assert!(!guard.is_allowed(Path::new("/sys/fs/cgroup/memory/c/web")));
        let unified = "33 25 0:29 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate\n";
        let guard = Guard::parse(unified, "0::/system.slice/capstan.service\n");
        assert!(guard.is_allowed(Path::new("/sys/fs/cgroup/c/web")));
        assert!(!guard.is_allowed(Path::new("/sys/fs/cgroup/system.slice")));
        assert!(!guard.is_allowed(Path::new("/sys/fs/cgroup/system.slice/capstan.service")));
        assert!(guard.is_allowed(Path::new("/sys/fs/cgroup/system.slice/capstan.service/c")));
    }

    #[test]
    fn the_machines_own_roots_are_refused() {
        let guard = Guard::read().unwrap();
        for hierarchy in &guard.hierarchies {
            assert!(!guard.is_allowed(&hierarchy.point), "{hierarchy:?}");
            let own = guard.own(hierarchy).unwrap();
            assert!(!guard.is_allowed(&own), "{}", own.display());
        }
        assert!(!guard.hierarchies.is_empty());
    }

    #[test]
    fn parents_are_those_between_the_root_and_the_container() {
        let guard =
            Guard::parse(MIXED, "5:cpu,cpuacct:/\n4:memory:/part\n3:name=systemd:/\n0::/\n");
        let parents = guard.parents(Path::new("/capstan/default/web"));
        assert_eq!(parents.len(), 8, "{parents:?}");
        assert!(parents.contains(Path::new("/sys/fs/cgroup/cpu/capstan")));
        assert!(parents.contains(Path::new("/sys/fs/cgroup/memory/capstan/default")));
        assert_eq!(guard.parents(Path::new("/web")), BTreeSet::new());
        assert_eq!(guard.parents(Path::new("system.slice:capstan:web")), BTreeSet::new());
    }
}
