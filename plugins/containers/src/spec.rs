//! OCI runtime specs: from what the user asked for, and what the image says, to `config.json`.

use std::collections::BTreeSet;
use std::path::Path;

use capstan_sdk::contract::containers::{ContainerSpec, Network};
use capstan_sdk::contract::runtime::ProcessSpec;
use capstan_sdk::oci::ImageConfig;
use capstan_sdk::{ContainerId, Error, Result};
use serde_json::{Value, json};

use crate::user::User;
use crate::{Config, capability, limits, mounts, seccomp};

/// The version of runtime-spec that is written: what runc 1.1 and crun 1.8 take.
const OCI_VERSION: &str = "1.0.2";

const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A CPU limit is counted over so many microseconds (the kernel's and Docker's default).
const CPU_PERIOD_MICROS: u64 = 100_000;

/// Longest host name that the kernel takes (HOST_NAME_MAX).
const MAX_HOSTNAME: usize = 64;

/// Everything that a spec is made of.
pub(crate) struct Parts<'a> {
    pub(crate) id: &'a ContainerId,
    pub(crate) spec: &'a ContainerSpec,
    pub(crate) image: &'a ImageConfig,
    pub(crate) user: &'a User,
    pub(crate) cgroups_path: &'a str,
    pub(crate) config: &'a Config,
}

/// The user that a container is to have: what was asked for, else what the image says.
pub(crate) fn wanted_user<'a>(spec: &'a ContainerSpec, image: &'a ImageConfig) -> &'a str {
    if spec.user.is_empty() { &image.user } else { &spec.user }
}

/// Makes the spec.
///
/// # Errors
/// `InvalidArgument`: something that was asked for, by field. `NotFound`: the source of a mount.
pub(crate) fn make(parts: &Parts<'_>) -> Result<Vec<u8>> {
    let capabilities = capability::select(
        &parts.spec.cap_add,
        &parts.spec.cap_drop,
        parts.spec.is_privileged,
        &capability::available(),
    )?;
    let spec = json!({
        "ociVersion": OCI_VERSION,
        "process": process(parts, &capabilities)?,
        "root": { "path": "rootfs", "readonly": parts.spec.is_read_only },
        "hostname": hostname(parts)?,
        "mounts": mounts::all(parts.spec)?,
        "linux": linux(parts, &capabilities)?,
    });
    limits::check(&spec)?;
    Ok(serde_json::to_vec(&spec).expect("a JSON value is JSON"))
}

fn process(parts: &Parts<'_>, capabilities: &[&str]) -> Result<Value> {
    let Parts { spec, image, user, config, .. } = parts;
    let rlimit = json!({
        "type": "RLIMIT_NOFILE", "hard": config.open_files, "soft": config.open_files,
    });
    let mut process = json!({
        "terminal": spec.has_terminal,
        "user": { "uid": user.uid, "gid": user.gid },
        "args": args(spec, image)?,
        "env": env(spec, image)?,
        "cwd": workdir(spec, image)?,
        // Inheritable and ambient ones stay empty (CVE-2022-24769).
        "capabilities": {
            "bounding": capabilities, "effective": capabilities, "permitted": capabilities,
        },
        "rlimits": [rlimit],
        "noNewPrivileges": !spec.is_privileged,
    });
    if !user.additional_gids.is_empty() {
        process["user"]["additionalGids"] = json!(user.additional_gids);
    }
    Ok(process)
}

/// The image's entrypoint, then what was asked for, or else the image's command.
fn args(spec: &ContainerSpec, image: &ImageConfig) -> Result<Vec<String>> {
    let tail = if spec.args.is_empty() { &image.cmd } else { &spec.args };
    let args: Vec<String> = image.entrypoint.iter().chain(tail).cloned().collect();
    match args.first() {
        None => Err(Error::invalid("which command? the image names none")),
        Some(command) if command.is_empty() => Err(Error::invalid("the command is empty")),
        Some(_) if args.iter().any(|arg| arg.contains('\0')) => {
            Err(Error::invalid("an argument has a NUL in it"))
        }
        Some(_) => Ok(args),
    }
}

/// The image's variables with the user's over them; a PATH if there is none.
pub(crate) fn merge_env(base: &[String], over: &[String]) -> Result<Vec<String>> {
    let mut env: Vec<String> = Vec::with_capacity(base.len() + over.len() + 2);
    for variable in base.iter().chain(over) {
        let Some((key, _)) = variable.split_once('=').filter(|(key, _)| !key.is_empty()) else {
            return Err(Error::invalid(format!("environment {variable:?}: write K=V")));
        };
        if variable.contains('\0') {
            return Err(Error::invalid(format!("environment {key}: it has a NUL in it")));
        }
        match env.iter_mut().find(|old| old.split('=').next() == Some(key)) {
            Some(old) => variable.clone_into(old),
            None => env.push(variable.clone()),
        }
    }
    Ok(env)
}

fn env(spec: &ContainerSpec, image: &ImageConfig) -> Result<Vec<String>> {
    let mut env = merge_env(&image.env, &spec.env)?;
    let has = |env: &[String], key: &str| env.iter().any(|v| v.split('=').next() == Some(key));
    if !has(&env, "PATH") {
        env.insert(0, DEFAULT_PATH.into());
    }
    if spec.has_terminal && !has(&env, "TERM") {
        env.push("TERM=xterm".into());
    }
    Ok(env)
}

fn workdir(spec: &ContainerSpec, image: &ImageConfig) -> Result<String> {
    let dir = match (spec.workdir.as_str(), image.workdir.as_str()) {
        ("", "") => "/",
        ("", dir) | (dir, _) => dir,
    };
    checked_workdir(dir).map(str::to_owned)
}

fn checked_workdir(dir: &str) -> Result<&str> {
    if !dir.starts_with('/') || dir.contains('\0') || dir.split('/').any(|part| part == "..") {
        return Err(Error::invalid(format!(
            "working directory {dir:?}: write an absolute path without \"..\""
        )));
    }
    Ok(dir)
}

fn hostname(parts: &Parts<'_>) -> Result<String> {
    let name = match parts.spec.hostname.as_str() {
        // The id is longer than a host name may be; its beginning tells it well enough.
        "" => return Ok(parts.id.as_str().chars().take(MAX_HOSTNAME - 1).collect()),
        name => name,
    };
    let is_good = name.len() < MAX_HOSTNAME
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b));
    if !is_good {
        return Err(Error::invalid(format!(
            "host name {name:?}: at most {} letters, digits, '-', '.', '_'",
            MAX_HOSTNAME - 1
        )));
    }
    Ok(name.to_owned())
}

fn linux(parts: &Parts<'_>, capabilities: &[&str]) -> Result<Value> {
    let spec = parts.spec;
    let mut namespaces = vec!["pid", "ipc", "uts", "mount"];
    if spec.network == Network::Private {
        namespaces.push("network");
    }
    let namespaces: Vec<Value> =
        namespaces.into_iter().map(|kind| json!({ "type": kind })).collect();
    let mut linux = json!({
        "resources": resources(parts),
        "cgroupsPath": parts.cgroups_path,
        "namespaces": namespaces,
    });
    if spec.is_privileged {
        linux["devices"] = Value::Array(host_devices());
    } else {
        linux["maskedPaths"] = json!(mounts::MASKED_PATHS);
        linux["readonlyPaths"] = json!(mounts::READ_ONLY_PATHS);
    }
    match spec.seccomp.as_str() {
        "unconfined" => {}
        "" if spec.is_privileged => {}
        "" => linux["seccomp"] = seccomp::default_profile(capabilities),
        profile => {
            let profile: oci_spec::runtime::LinuxSeccomp = serde_json::from_str(profile)
                .map_err(|error| Error::invalid(format!("seccomp profile: {error}")))?;
            linux["seccomp"] = serde_json::to_value(profile).expect("a profile is JSON");
        }
    }
    Ok(linux)
}

fn resources(parts: &Parts<'_>) -> Value {
    let spec = parts.spec;
    let mut resources = json!({
        "devices": [{ "allow": spec.is_privileged, "access": "rwm" }],
    });
    if spec.memory_bytes > 0 {
        // No swap beyond it, or the limit would be none.
        resources["memory"] = json!({ "limit": spec.memory_bytes, "swap": spec.memory_bytes });
    }
    if spec.cpu_millis > 0 {
        let quota = spec.cpu_millis.saturating_mul(CPU_PERIOD_MICROS) / 1000;
        resources["cpu"] = json!({ "quota": quota.max(1000), "period": CPU_PERIOD_MICROS });
    }
    let pids = if spec.pids_limit > 0 { spec.pids_limit } else { parts.config.pids_limit };
    if pids > 0 {
        resources["pids"] = json!({ "limit": pids });
    }
    resources
}

/// Every device of the host that is not one of those that each container gets anew.
fn host_devices() -> Vec<Value> {
    use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
    const OWN: [&str; 9] =
        ["null", "zero", "full", "random", "urandom", "tty", "console", "ptmx", "pts"];
    const SKIPPED: [&str; 4] = ["shm", "mqueue", "fd", "core"];
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
                    devices.push(json!({
                        "path": path,
                        "type": if kind.is_block_device() { "b" } else { "c" },
                        "major": rustix::fs::major(about.rdev()),
                        "minor": rustix::fs::minor(about.rdev()),
                        "fileMode": about.mode() & 0o7777,
                        "uid": about.uid(),
                        "gid": about.gid(),
                    }));
                }
            }
        }
    }
    devices
}

/// The process object of an exec: the container's own with what was asked for over it.
///
/// # Errors
/// `InvalidArgument`: something in the wish.
pub(crate) fn exec_process(
    stored: &[u8],
    wish: &ProcessSpec,
    user: Option<&User>,
) -> Result<Vec<u8>> {
    let mut spec: Value = serde_json::from_slice(stored)
        .map_err(|error| Error::corrupt(format!("the container's spec: {error}")))?;
    let mut process = spec["process"].take();
    if wish.args.first().is_none_or(String::is_empty) {
        return Err(Error::invalid("which command? say what to run"));
    }
    if wish.args.iter().any(|arg| arg.contains('\0')) {
        return Err(Error::invalid("an argument has a NUL in it"));
    }
    process["args"] = json!(wish.args);
    let base: Vec<String> = process["env"]
        .as_array()
        .map(|env| env.iter().filter_map(|v| v.as_str().map(str::to_owned)).collect())
        .unwrap_or_default();
    let mut env = merge_env(&base, &wish.env)?;
    if wish.has_terminal && !env.iter().any(|v| v.starts_with("TERM=")) {
        env.push("TERM=xterm".into());
    }
    process["env"] = json!(env);
    process["terminal"] = wish.has_terminal.into();
    if !wish.workdir.is_empty() {
        process["cwd"] = checked_workdir(&wish.workdir)?.into();
    }
    if let Some(user) = user {
        process["user"] = json!({
            "uid": user.uid, "gid": user.gid, "additionalGids": user.additional_gids,
        });
    }
    Ok(serde_json::to_vec(&process).expect("a JSON value is JSON"))
}

/// Checks a spec that the user brought, and puts it where the runtime will find the root filesystem.
/// Answers it with whether it wants a terminal.
///
/// # Errors
/// `InvalidArgument`: it is none.
pub(crate) fn adopt(bytes: &[u8], cgroups_path: &str) -> Result<(Vec<u8>, bool)> {
    let bad = |why: String| Error::invalid(format!("runtime spec (--config): {why}"));
    serde_json::from_slice::<oci_spec::runtime::Spec>(bytes)
        .map_err(|error| bad(error.to_string()))?;
    let mut spec: Value = serde_json::from_slice(bytes).map_err(|error| bad(error.to_string()))?;
    if spec["process"]["args"].as_array().is_none_or(Vec::is_empty) {
        return Err(bad("it has no process.args".into()));
    }
    if spec["root"].is_null() {
        spec["root"] = json!({ "readonly": false });
    }
    spec["root"]["path"] = "rootfs".into();
    if spec["linux"]["cgroupsPath"].as_str().is_none_or(str::is_empty) {
        spec["linux"]["cgroupsPath"] = cgroups_path.into();
    }
    limits::check(&spec)?;
    let has_terminal = spec["process"]["terminal"].as_bool().unwrap_or(false);
    Ok((serde_json::to_vec(&spec).expect("a JSON value is JSON"), has_terminal))
}

#[cfg(test)]
mod tests {
    use super::*;
    use capstan_sdk::Class;

    fn image() -> ImageConfig {
        ImageConfig {
            env: vec!["A=1".into(), "PATH=/bin".into()],
            entrypoint: vec!["/entry".into()],
            cmd: vec!["cmd".into()],
            workdir: "/work".into(),
            ..ImageConfig::default()
        }
    }

    fn made(spec: &ContainerSpec, image: &ImageConfig) -> Result<Value> {
        let parts = Parts {
            id: &ContainerId::parse("web").unwrap(),
            spec,
            image,
            user: &User::default(),
            cgroups_path: "/capstan/default/web",
            config: &Config::default(),
        };
        let bytes = make(&parts)?;
        serde_json::from_slice::<oci_spec::runtime::Spec>(&bytes).expect("it is a runtime spec");
        Ok(serde_json::from_slice(&bytes).unwrap())
    }

    #[test]
    fn an_image_alone_gives_a_whole_spec() {
        let spec = made(&ContainerSpec::default(), &image()).unwrap();
        assert_eq!(spec["process"]["args"], json!(["/entry", "cmd"]));
        assert_eq!(spec["process"]["env"], json!(["A=1", "PATH=/bin"]));
        assert_eq!(spec["process"]["cwd"], "/work");
        assert_eq!(spec["process"]["noNewPrivileges"], true);
        assert!(spec["process"]["capabilities"]["inheritable"].is_null());
        assert_eq!(spec["hostname"], "web");
        assert_eq!(spec["linux"]["cgroupsPath"], "/capstan/default/web");
        assert_eq!(spec["linux"]["resources"]["pids"]["limit"], 2048);
        assert_eq!(spec["linux"]["seccomp"]["defaultAction"], "SCMP_ACT_ERRNO");
        assert_eq!(spec["linux"]["namespaces"].as_array().unwrap().len(), 5);
    }

    #[test]
    fn what_was_asked_for_goes_over_the_image() {
        let wish = ContainerSpec {
            args: vec!["mine".into()],
            env: vec!["A=2".into(), "B=3".into()],
            workdir: "/".into(),
            has_terminal: true,
            memory_bytes: 64 << 20,
            cpu_millis: 1500,
            pids_limit: 5,
            network: Network::Host,
            seccomp: "unconfined".into(),
            ..ContainerSpec::default()
        };
        let spec = made(&wish, &image()).unwrap();
        assert_eq!(spec["process"]["args"], json!(["/entry", "mine"]));
        assert_eq!(spec["process"]["env"], json!(["A=2", "PATH=/bin", "B=3", "TERM=xterm"]));
        assert_eq!(spec["process"]["cwd"], "/");
        let resources = &spec["linux"]["resources"];
        assert_eq!(resources["memory"]["limit"], 64 << 20);
        assert_eq!(resources["cpu"], json!({ "quota": 150_000, "period": 100_000 }));
        assert_eq!(resources["pids"]["limit"], 5);
        assert!(spec["linux"]["seccomp"].is_null());
        assert_eq!(spec["linux"]["namespaces"].as_array().unwrap().len(), 4);
    }

    #[test]
    fn nonsense_is_refused() {
        let check = |change: fn(&mut ContainerSpec), class: Class| {
            let mut wish = ContainerSpec::default();
            change(&mut wish);
            assert_eq!(made(&wish, &image()).unwrap_err().class(), class);
        };
        check(|w| w.env = vec!["A".into()], Class::InvalidArgument);
        check(|w| w.env = vec!["=1".into()], Class::InvalidArgument);
        check(|w| w.workdir = "rel".into(), Class::InvalidArgument);
        check(|w| w.workdir = "/a/../..".into(), Class::InvalidArgument);
        check(|w| w.hostname = "a b".into(), Class::InvalidArgument);
        check(|w| w.hostname = "x".repeat(64), Class::InvalidArgument);
        check(|w| w.cap_add = vec!["NOPE".into()], Class::InvalidArgument);
        check(|w| w.seccomp = "{".into(), Class::InvalidArgument);
        check(|w| w.args = vec![String::new(), "\0".into()], Class::InvalidArgument);
        let bare = ImageConfig::default();
        assert_eq!(
            made(&ContainerSpec::default(), &bare).unwrap_err().class(),
            Class::InvalidArgument
        );
    }

    #[test]
    fn an_exec_is_the_containers_process_with_another_command() {
        let base = made(&ContainerSpec::default(), &image()).unwrap();
        let base = serde_json::to_vec(&base).unwrap();
        let wish = ProcessSpec {
            args: vec!["id".into()],
            env: vec!["A=9".into()],
            workdir: "/else".into(),
            ..ProcessSpec::default()
        };
        let user = User { uid: 5, gid: 6, additional_gids: vec![7] };
        let bytes = exec_process(&base, &wish, Some(&user)).unwrap();
        let process: Value = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(process["args"], json!(["id"]));
        assert_eq!(process["env"], json!(["A=9", "PATH=/bin"]));
        assert_eq!(process["cwd"], "/else");
        assert_eq!(process["user"], json!({ "uid": 5, "gid": 6, "additionalGids": [7] }));
        assert_eq!(process["noNewPrivileges"], true);
        let nothing = ProcessSpec::default();
        let error = exec_process(&base, &nothing, None).unwrap_err();
        assert_eq!(error.class(), Class::InvalidArgument);
    }

    #[test]
    fn a_privileged_container_has_no_fences() {
        let wish = ContainerSpec { is_privileged: true, ..ContainerSpec::default() };
        let spec = made(&wish, &image()).unwrap();
        assert!(spec["linux"]["seccomp"].is_null() && spec["linux"]["maskedPaths"].is_null());
        assert_eq!(spec["linux"]["resources"]["devices"][0]["allow"], true);
        assert_eq!(spec["process"]["noNewPrivileges"], false);
    }

    #[test]
    fn a_spec_of_the_users_own_is_adopted() {
        let own = br#"{"ociVersion":"1.0.2","process":{"terminal":true,"cwd":"/","args":["sh"],
            "user":{"uid":0,"gid":0}},"root":{"path":"/elsewhere","readonly":true},"x-mine":1}"#;
        let (bytes, has_terminal) = adopt(own, "/c").unwrap();
        let spec: Value = serde_json::from_slice(&bytes).unwrap();
        assert!(has_terminal);
        assert_eq!(spec["root"], json!({ "path": "rootfs", "readonly": true }));
        assert_eq!(spec["linux"]["cgroupsPath"], "/c");
        assert_eq!(spec["x-mine"], 1);
        for bad in ["", "{}", r#"{"ociVersion":"1.0.2"}"#, "[]"] {
            assert_eq!(adopt(bad.as_bytes(), "/c").unwrap_err().class(), Class::InvalidArgument);
        }
    }
}
