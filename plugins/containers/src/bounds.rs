//! What every runtime spec must keep to, made by us or brought by a user.

use capstan_sdk::{Error, Result};
use serde_json::Value;

/// Runtimes hand mounts and maps to their child in messages with 16-bit lengths, which a longer text
/// overflowed (CVE-2021-43784): so long may all mounts be together, and each map of ids, in bytes.
const MAX_TEXT: usize = 65_535;

/// The longest line of a map of ids, in bytes: three 32-bit numbers.
const MAPPING_LINE: usize = 33;

/// The largest spec, in bytes. Arguments and environment have 2 MiB by the kernel's rules.
const MAX_SPEC: usize = 4 << 20;

/// Annotations that some runtimes take as orders to systemd or to themselves (CVE-2024-3154).
const ORDERS: [&str; 2] = ["org.systemd.", "run.oci."];

/// `PATH_MAX` of the kernel without the NUL at the end, in bytes.
const MAX_PATH: usize = 4095;

/// The longest host name (uname(2)), in bytes.
const MAX_HOSTNAME: usize = 64;

/// Checks lengths, the cgroup and annotations; answers the spec's bytes.
///
/// # Errors
/// `InvalidArgument`.
pub(crate) fn check(spec: &Value) -> Result<Vec<u8>> {
    check_names(spec)?;
    let text = |value: &Value| value.as_str().map_or(0, |text| text.len() + 1);
    let list = |value: &Value| value.as_array().into_iter().flatten().map(text).sum::<usize>();
    let entries = spec["mounts"].as_array().into_iter().flatten();
    let mounts: usize = entries
        .map(|mount| {
            text(&mount["destination"])
                + text(&mount["source"])
                + text(&mount["type"])
                + list(&mount["options"])
        })
        .sum();
    if mounts > MAX_TEXT {
        return Err(Error::invalid(format!(
            "the mounts are {mounts} bytes of text together; {MAX_TEXT} is the most"
        )));
    }
    for map in ["uidMappings", "gidMappings"] {
        let lines = spec["linux"][map].as_array().map_or(0, Vec::len);
        if lines > MAX_TEXT / MAPPING_LINE {
            return Err(Error::invalid(format!("linux.{map}: {lines} lines are too many")));
        }
    }
    let cgroup = spec["linux"]["cgroupsPath"].as_str().unwrap_or_default();
    check_cgroup(cgroup, &std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default())?;
    for key in spec["annotations"].as_object().into_iter().flatten().map(|(key, _)| key) {
        if key.is_empty() || ORDERS.iter().any(|prefix| key.starts_with(prefix)) {
            return Err(Error::invalid(format!(
                "annotation {key:?}: some runtimes take it as an order; choose another name"
            )));
        }
    }
    let bytes = serde_json::to_vec(spec).expect("a JSON value is JSON");
    if bytes.len() > MAX_SPEC {
        return Err(Error::invalid(format!(
            "the runtime spec has {} bytes; {MAX_SPEC} is the most",
            bytes.len()
        )));
    }
    Ok(bytes)
}

/// Lengths that the kernel, and so a runtime, cannot take. A runtime may not notice, and hang.
///
/// # Errors
/// `InvalidArgument`: one is too long; which.
fn check_names(spec: &Value) -> Result<()> {
    let path = |what: &str, value: &Value| check_path(what, value.as_str().unwrap_or_default());
    let hostname = spec["hostname"].as_str().unwrap_or_default();
    check_length("the host name", hostname, MAX_HOSTNAME)?;
    path("process.cwd", &spec["process"]["cwd"])?;
    for mount in list(&spec["mounts"]) {
        path("the target of a mount", &mount["destination"])?;
        path("the source of a mount", &mount["source"])?;
    }
    let linux = &spec["linux"];
    path("linux.cgroupsPath", &linux["cgroupsPath"])?;
    for name in ["maskedPaths", "readonlyPaths"] {
        list(&linux[name]).iter().try_for_each(|value| path(name, value))?;
    }
    for name in ["namespaces", "devices"] {
        list(&linux[name]).iter().try_for_each(|value| path(name, &value["path"]))?;
    }
    Ok(())
}

/// Checks one path.
///
/// # Errors
/// `InvalidArgument`: it is too long.
pub(crate) fn check_path(what: &str, path: &str) -> Result<()> {
    check_length(what, path, MAX_PATH)
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn check_length(what: &str, text: &str, most: usize) -> Result<()> {
    let length = text.len();
    if length <= most {
        return Ok(());
    }
    Err(Error::invalid(format!("{what} has {length} bytes; the kernel takes at most {most}")))
}

/// An absolute path, never the root nor a cgroup that we are in ourselves, for what is done to a
/// container's is done to all in it; or what systemd takes, `slice:prefix:name`. `own` is
/// `/proc/self/cgroup`.
fn check_cgroup(path: &str, own: &str) -> Result<()> {
    let bad = |why: &str| Err(Error::invalid(format!("cgroup {path:?}: {why}")));
    let is_name = |part: &str| !part.is_empty() && part != "." && part != "..";
    let is_path = match path.strip_prefix('/') {
        Some(parts) => parts.trim_end_matches('/').split('/').all(is_name),
        None => {
            let parts: Vec<&str> = path.split(':').collect();
            parts.len() == 3 && is_name(parts[2]) && !path.contains('/')
        }
    };
    if !is_path || path.contains('\0') {
        return bad("write an absolute path without \"..\", and not the root");
    }
    let mut own = own.lines().filter_map(|line| line.splitn(3, ':').nth(2));
    if own.any(|own| std::path::Path::new(own).starts_with(path)) {
        return bad("the daemon itself is in it; choose another");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use capstan_sdk::Class;
    use serde_json::json;

    #[test]
    fn a_long_spec_is_refused() {
        let good = |mounts: usize, mappings: usize, args: usize| {
            let mount = json!({ "destination": "x".repeat(998), "options": [] });
            check(&json!({
                "mounts": vec![mount; mounts],
                "process": { "args": ["x".repeat(args)] },
                "linux": { "cgroupsPath": "/c", "gidMappings": vec![json!({}); mappings] },
            }))
            .is_ok()
        };
        assert!(good(65, 0, 0));
        assert!(!good(66, 0, 0));
        assert!(good(0, 1985, 0));
        assert!(!good(0, 1986, 0));
        assert!(good(0, 0, 4 << 19));
        assert!(!good(0, 0, 4 << 20));
    }

    #[test]
    fn a_cgroup_is_never_the_root() {
        let good = |path: &str| check(&json!({ "linux": { "cgroupsPath": path } })).is_ok();
        for path in ["/a", "/a/b", "system.slice:capstan:web", ":capstan:web"] {
            assert!(good(path), "{path}");
        }
        for path in ["", "/", "//", "a", "/a/../..", "/a/./b", "/a//b", "a/b:c:d", "a:b:", "/a\0"] {
            assert!(!good(path), "{path}");
        }
    }

    #[test]
    fn a_cgroup_is_never_ours() {
        let own = "5:devices:/a/b\n0::/system.slice/x.service\n";
        let good = |path: &str| check_cgroup(path, own).is_ok();
        assert!(good("/a/c") && good("/a/b/c") && good("/system.slice/y"));
        assert!(!good("/a") && !good("/a/b") && !good("/system.slice") && !good("/a/"));
    }

    #[test]
    fn annotations_are_no_orders() {
        let good = |key: &str| {
            check(&json!({ "linux": { "cgroupsPath": "/a" }, "annotations": { key: "1" } })).is_ok()
        };
        assert!(good("com.example.owner"));
        assert!(!good("org.systemd.property.ExecStopPost"));
        assert!(!good("run.oci.systemd.subgroup"));
        assert!(!good(""));
    }

    #[test]
    fn what_the_kernel_cannot_take_is_refused() {
        let path = |length: usize| format!("/{}", "x".repeat(length - 1));
        for (spec, is_fine) in [
            (json!({}), true),
            (json!({ "mounts": [{ "destination": path(4095), "source": path(4095) }] }), true),
            (json!({ "mounts": [{ "destination": path(4096) }] }), false),
            (json!({ "mounts": [{ "source": path(70_000) }] }), false),
            (json!({ "process": { "cwd": path(4096) } }), false),
            (json!({ "hostname": "x".repeat(65) }), false),
            (json!({ "linux": { "maskedPaths": [path(4096)] } }), false),
            (json!({ "linux": { "namespaces": [{ "path": path(4096) }] } }), false),
            (json!({ "linux": { "cgroupsPath": path(4096) } }), false),
        ] {
            let checked = check_names(&spec);
            assert_eq!(checked.is_ok(), is_fine, "{checked:?}");
            assert!(checked.err().is_none_or(|error| error.class() == Class::InvalidArgument));
        }
    }
}
