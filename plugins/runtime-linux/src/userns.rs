//! What a container with a user namespace needs: its maps, and a way to its root filesystem.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use capstan_sdk::{Error, Result};

/// Leave to go through a directory to a name that one knows, without leave to see what is in it.
const WAY_THROUGH: u32 = 0o011;

/// What the names of both maps end with.
const MAPS: &[u8] = b"idMappings";

/// A line of a map of ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct IdMapping {
    pub(crate) is_group: bool,
    pub(crate) container: u32,
    pub(crate) host: u32,
    pub(crate) size: u32,
}

/// The maps of a runtime spec; none without a user namespace.
///
/// # Errors
/// `InvalidArgument`: it is no spec, or has a user namespace without maps.
pub(crate) fn mappings(spec: &[u8]) -> Result<Vec<IdMapping>> {
    // Few have one, and a spec is long.
    if !spec.windows(MAPS.len()).any(|window| window == MAPS) {
        return Ok(Vec::new());
    }
    let spec: serde_json::Value = serde_json::from_slice(spec)
        .map_err(|error| Error::invalid(format!("runtime spec: {error}")))?;
    let linux = &spec["linux"];
    let mut namespaces = linux["namespaces"].as_array().into_iter().flatten();
    // One that is joined has its maps.
    if !namespaces.any(|n| n["type"] == "user" && n["path"].as_str().is_none_or(str::is_empty)) {
        return Ok(Vec::new());
    }
    let mut mappings = Vec::new();
    for (is_group, name) in [(false, "uidMappings"), (true, "gidMappings")] {
        let before = mappings.len();
        for line in linux[name].as_array().into_iter().flatten() {
            let number = |key: &str| {
                let number = line[key].as_u64().and_then(|number| u32::try_from(number).ok());
                number.ok_or_else(|| Error::invalid(format!("linux.{name}: {key} is no id")))
            };
            mappings.push(IdMapping {
                is_group,
                container: number("containerID")?,
                host: number("hostID")?,
                size: number("size")?,
            });
        }
        if mappings.len() == before {
            return Err(Error::invalid(format!("a user namespace needs linux.{name}")));
        }
    }
    Ok(mappings)
}

/// libcontainer 0.7 writes a map of one line alone, and leaves others to newuidmap(1), which knows only
/// what /etc/subuid gives to root.
///
/// # Errors
/// `Unimplemented`: there are more lines.
pub(crate) fn check_embedded(mappings: &[IdMapping]) -> Result<()> {
    let lines = |is_group| mappings.iter().filter(|m| m.is_group == is_group).count();
    if lines(false) > 1 || lines(true) > 1 {
        return Err(Error::unimplemented(
            "user namespace: the embedded runtime takes one mapping; use --runtime runc or crun",
        ));
    }
    Ok(())
}

/// Lets the container's root, who is nobody here, through to the root filesystem in a task's directory.
/// Directories of ours, from `state` on, are opened; what is above is not ours to change.
///
/// # Errors
/// `FailedPrecondition`: a directory above lets nobody through.
pub(crate) fn open_way(dir: &Path, state: &Path) -> Result<()> {
    let mut steps: Vec<&Path> = dir.ancestors().collect();
    steps.reverse();
    for step in steps {
        let fail =
            |error| Error::io(format!("let a user namespace into {}", step.display()), error);
        let mode = fs::metadata(step).map_err(fail)?.permissions().mode();
        if mode & 0o001 != 0 {
            continue;
        }
        if !step.starts_with(state) {
            return Err(Error::precondition(format!(
                "user namespace: {} lets nobody but its owner through to the state directory; chmod o+x \
                 it, or run without --userns",
                step.display()
            )));
        }
        fs::set_permissions(step, Permissions::from_mode(mode | WAY_THROUGH)).map_err(fail)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use capstan_sdk::Class;

    #[test]
    fn maps_are_read_from_the_spec() {
        let read = |text: &str| mappings(text.as_bytes()).map_err(|error| error.class());
        assert_eq!(read("{}"), Ok(Vec::new()));
        let user = r#""namespaces":[{"type":"user"}]"#;
        let line = r#"[{"containerID":0,"hostID":100000,"size":65536}]"#;
        let spec = format!(r#"{{"linux":{{{user},"uidMappings":{line},"gidMappings":{line}}}}}"#);
        let mapping = |is_group| IdMapping { is_group, container: 0, host: 100_000, size: 65_536 };
        assert_eq!(read(&spec), Ok(vec![mapping(false), mapping(true)]));
        assert!(check_embedded(&[mapping(false), mapping(true)]).is_ok());
        let class = check_embedded(&[mapping(true), mapping(true)]).unwrap_err().class();
        assert_eq!(class, Class::Unimplemented);
        let spec = format!(r#"{{"linux":{{{user},"uidMappings":{line}}}}}"#);
        assert_eq!(read(&spec), Err(Class::InvalidArgument));
        assert_eq!(read(r#"{"uidMappings":"#), Err(Class::InvalidArgument));
        let joined = r#"{"linux":{"namespaces":[{"type":"user","path":"/proc/1/ns/user"}]}}"#;
        assert_eq!(read(joined), Ok(Vec::new()));
    }

    #[test]
    fn only_directories_of_ours_are_opened() {
        let top = tempfile::tempdir().unwrap();
        let state = top.path().join("state");
        let dir = state.join("tasks/web");
        fs::create_dir_all(&dir).unwrap();
        let set =
            |dir: &Path, mode| fs::set_permissions(dir, Permissions::from_mode(mode)).unwrap();
        let mode = |dir: &Path| fs::metadata(dir).unwrap().permissions().mode() & 0o777;
        for dir in [top.path(), &state, &dir] {
            set(dir, 0o700);
        }
        assert_eq!(open_way(&dir, &state).unwrap_err().class(), Class::FailedPrecondition);
        assert_eq!(mode(&dir), 0o700);
        set(top.path(), 0o701);
        open_way(&dir, &state).unwrap();
        assert_eq!((mode(&state), mode(&dir)), (0o711, 0o711));
    }
}
