//! Lengths that the kernel, and so a runtime, cannot take: refused before anything is made or forked for
//! them. A runtime may not notice, and hang, or cut what it passes on (CVE-2021-43784).

use capstan_sdk::{Error, Result};
use serde_json::Value;

/// `PATH_MAX` of the kernel without the NUL at the end, in bytes.
const MAX_PATH: usize = 4095;

/// The longest host name (uname(2)), in bytes.
const MAX_HOSTNAME: usize = 64;

/// Checks the paths and names of a spec.
///
/// # Errors
/// `InvalidArgument`: one is too long; which.
pub(crate) fn check(spec: &Value) -> Result<()> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use capstan_sdk::Class;
    use serde_json::json;

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
            let checked = check(&spec);
            assert_eq!(checked.is_ok(), is_fine, "{checked:?}");
            assert!(checked.err().is_none_or(|error| error.class() == Class::InvalidArgument));
        }
    }
}
