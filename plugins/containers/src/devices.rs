//! Devices of the host in a container: the nodes, and the leave to use them.

use std::collections::BTreeSet;
use std::fs::Metadata;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::Path;

use capstan_sdk::contract::containers::Device;
use capstan_sdk::{Error, Result};
use serde_json::{Value, json};

/// Nodes that each container gets anew.
const OWN: [&str; 9] =
    ["null", "zero", "full", "random", "urandom", "tty", "console", "ptmx", "pts"];

/// What is in /dev and no device.
const SKIPPED: [&str; 4] = ["shm", "mqueue", "fd", "core"];

/// `linux.devices` and `linux.resources.devices`.
pub(crate) struct Devices {
    pub(crate) nodes: Vec<Value>,
    pub(crate) rules: Vec<Value>,
}

/// What the user asked for; with privileges, all of the host's.
///
/// # Errors
/// `InvalidArgument`: no device, or no place for one. `NotFound`: it does not exist.
pub(crate) fn all(wanted: &[Device], is_privileged: bool) -> Result<Devices> {
    // All others are denied: the runtime adds those that every container may use.
    let mut rules = vec![json!({ "allow": is_privileged, "access": "rwm" })];
    let mut nodes = if is_privileged { host_devices() } else { Vec::new() };
    for device in wanted {
        let (node, rule) = one(device)?;
        nodes.retain(|other| other["path"] != node["path"]);
        nodes.push(node);
        rules.push(rule);
    }
    Ok(Devices { nodes, rules })
}

fn one(device: &Device) -> Result<(Value, Value)> {
    let what = format!("device {:?}", device.host);
    let bad = |why: &str| Error::invalid(format!("{what}: {why}"));
    if !device.host.starts_with('/') {
        return Err(bad("write an absolute path"));
    }
    let about = std::fs::metadata(&device.host).map_err(|error| Error::io(&what, error))?;
    let kind = about.file_type();
    if !kind.is_block_device() && !kind.is_char_device() {
        return Err(bad("it is neither a character nor a block device"));
    }
    let path = if device.container.is_empty() { &device.host } else { &device.container };
    // There no link of an image's can be in the way: it is a file system of the container's own.
    let name = path.strip_prefix("/dev/").unwrap_or_default();
    let is_name = |part: &str| !part.is_empty() && part != "." && part != "..";
    if !name.split('/').all(is_name) || name.contains('\0') {
        return Err(bad("its place in the container must be below /dev, without \"..\""));
    }
    if OWN.contains(&name.split('/').next().unwrap_or_default()) {
        return Err(bad("every container has one of that name of its own"));
    }
    let access = if device.access.is_empty() { "rwm" } else { device.access.as_str() };
    let is_once = |c: char| "rwm".contains(c) && access.matches(c).count() == 1;
    if !access.chars().all(is_once) {
        return Err(bad("the access is some of r (read), w (write), m (make nodes)"));
    }
    let node = node(path, &about);
    let rule = json!({
        "allow": true, "type": node["type"], "major": node["major"], "minor": node["minor"],
        "access": access,
    });
    Ok((node, rule))
}

fn node(path: &str, about: &Metadata) -> Value {
    json!({
        "path": path,
        "type": if about.file_type().is_block_device() { "b" } else { "c" },
        "major": rustix::fs::major(about.rdev()),
        "minor": rustix::fs::minor(about.rdev()),
        "fileMode": about.mode() & 0o7777,
        "uid": about.uid(),
        "gid": about.gid(),
    })
}

/// Every device of the host that is not one of those that each container gets anew.
fn host_devices() -> Vec<Value> {
    let mut devices = Vec::new();
    let mut seen = BTreeSet::new();
    let mut open = vec![Path::new("/dev").to_owned()];
    while let Some(dir) = open.pop() {
        for entry in std::fs::read_dir(&dir).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            let is_top = dir == Path::new("/dev");
            if is_top && (OWN.contains(&&*name) || SKIPPED.contains(&&*name)) {
                continue;
            }
            let Ok(about) = entry.metadata() else { continue };
            let kind = about.file_type();
            if kind.is_dir() {
                open.push(entry.path());
            } else if kind.is_char_device() || kind.is_block_device() {
                let path = entry.path().to_string_lossy().into_owned();
                if seen.insert(path.clone()) {
                    devices.push(node(&path, &about));
                }
            }
        }
    }
    devices
}

#[cfg(test)]
mod tests {
    use super::*;
    use capstan_sdk::Class;

    fn device(host: &str, container: &str, access: &str) -> Device {
        Device { host: host.into(), container: container.into(), access: access.into() }
    }

    #[test]
    fn a_device_is_a_node_and_a_rule() {
        let devices = all(&[device("/dev/zero", "/dev/nothing", "r")], false).unwrap();
        let node = &devices.nodes[0];
        assert_eq!((&node["path"], &node["type"]), (&json!("/dev/nothing"), &json!("c")));
        assert_eq!((&node["major"], &node["minor"]), (&json!(1), &json!(5)));
        assert_eq!(devices.rules[0], json!({ "allow": false, "access": "rwm" }));
        let rule = json!({
            "allow": true, "type": "c", "major": 1, "minor": 5, "access": "r",
        });
        assert_eq!(devices.rules[1], rule);
    }

    #[test]
    fn what_is_no_device_is_refused() {
        let check = |host: &str, container: &str, access: &str, class: Class| {
            let got = one(&device(host, container, access)).unwrap_err();
            assert_eq!(got.class(), class, "{host}:{container}:{access}");
        };
        check("/no/such", "/dev/x", "", Class::NotFound);
        check("dev/zero", "/dev/x", "", Class::InvalidArgument);
        check("/etc/passwd", "/dev/x", "", Class::InvalidArgument);
        check("/dev", "/dev/x", "", Class::InvalidArgument);
        check("/dev/zero", "/dev/x", "rr", Class::InvalidArgument);
        check("/dev/zero", "/dev/x", "rx", Class::InvalidArgument);
        check("/dev/zero", "/x", "", Class::InvalidArgument);
        check("/dev/zero", "/dev/../x", "", Class::InvalidArgument);
        check("/dev/zero", "/dev/", "", Class::InvalidArgument);
        check("/dev/zero", "", "", Class::InvalidArgument);
        check("/dev/zero", "/dev/pts/7", "", Class::InvalidArgument);
    }
}
