//! OCI runtime specs: from what the user asked for, and what the image says, to `config.json`.

use capstan_sdk::contract::containers::{ContainerSpec, NamespaceKind};
use capstan_sdk::contract::runtime::ProcessSpec;
use capstan_sdk::oci::ImageConfig;
use capstan_sdk::{ContainerId, Error, Result};
use serde_json::{Value, json};

use crate::user::{User, Wish};
use crate::{Config, bounds, capability, devices, hooks, mounts, namespaces, resources, seccomp};

/// The version of runtime-spec that is written: what runc 1.1 and crun 1.8 take.
const OCI_VERSION: &str = "1.0.2";

const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Longest host name that the kernel takes (HOST_NAME_MAX).
const MAX_HOSTNAME: usize = 64;

/// What new files are not, in a container (Docker's and runc's). Said always: a container must not
/// inherit that of the shim, which is stricter.
const UMASK: u32 = 0o022;

/// How mounts of the root filesystem may be shared (mount_namespaces(7)).
const PROPAGATIONS: [&str; 8] =
    ["private", "rprivate", "slave", "rslave", "shared", "rshared", "unbindable", "runbindable"];

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
///
/// # Errors
/// `InvalidArgument`: it is none.
pub(crate) fn wanted_user<'a>(spec: &'a ContainerSpec, image: &'a ImageConfig) -> Result<Wish<'a>> {
    let user = if spec.user.is_empty() { &image.user } else { &spec.user };
    Wish::parse(user)?.with_groups(&spec.group_add)
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
    let spec = parts.spec;
    namespaces::check_mappings(spec, parts.user)?;
    let mut made = json!({
        "ociVersion": OCI_VERSION,
        "process": process(parts, &capabilities)?,
        "root": { "path": "rootfs", "readonly": spec.is_read_only },
        "mounts": mounts::all(spec)?,
        "linux": linux(parts, &capabilities)?,
    });
    if let Some(hostname) = hostname(parts)? {
        made["hostname"] = hostname.into();
    }
    if !spec.annotations.is_empty() {
        made["annotations"] = json!(spec.annotations);
    }
    let hooks = hooks::all(&parts.config.hooks)?;
    if !hooks.is_null() {
        made["hooks"] = hooks;
    }
    bounds::check(&made)
}

fn process(parts: &Parts<'_>, capabilities: &[&str]) -> Result<Value> {
    let Parts { spec, image, user, config, .. } = parts;
    if !(-1000..=1000).contains(&spec.oom_score_adj) {
        return Err(Error::invalid(format!(
            "oom score {}: it goes from -1000 to 1000",
            spec.oom_score_adj
        )));
    }
    let mut process = json!({
        "terminal": spec.has_terminal,
        "user": { "uid": user.uid, "gid": user.gid, "umask": UMASK },
        "args": args(spec, image)?,
        "env": env(spec, image)?,
        "cwd": workdir(spec, image)?,
        // Inheritable and ambient ones stay empty (CVE-2022-24769).
        "capabilities": {
            "bounding": capabilities, "effective": capabilities, "permitted": capabilities,
        },
        "rlimits": resources::rlimits(&spec.ulimits, config.open_files)?,
        "noNewPrivileges": spec.no_new_privileges.unwrap_or(!spec.is_privileged),
        // Said always: a container must not inherit how the shim is protected.
        "oomScoreAdj": spec.oom_score_adj,
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

/// `None`: it has that of the namespace that it is in.
fn hostname(parts: &Parts<'_>) -> Result<Option<String>> {
    let is_own = namespaces::is_own(parts.spec, NamespaceKind::Uts);
    let name = match parts.spec.hostname.as_str() {
        "" if !is_own => return Ok(None),
        // The id is longer than a host name may be; its beginning tells it well enough.
        "" => return Ok(Some(parts.id.as_str().chars().take(MAX_HOSTNAME - 1).collect())),
        name => name,
    };
    if !is_own {
        return Err(Error::invalid(format!(
            "host name {name:?}: the container has none of its own; leave out --uts"
        )));
    }
    let is_good = name.len() < MAX_HOSTNAME
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b));
    if !is_good {
        return Err(Error::invalid(format!(
            "host name {name:?}: at most {} letters, digits, '-', '.', '_'",
            MAX_HOSTNAME - 1
        )));
    }
    Ok(Some(name.to_owned()))
}

fn linux(parts: &Parts<'_>, capabilities: &[&str]) -> Result<Value> {
    let spec = parts.spec;
    let devices = devices::all(&spec.devices, spec.is_privileged)?;
    let mut resources = resources::limits(&spec.resources, parts.config.pids_limit)?;
    resources["devices"] = devices.rules.into();
    let mut linux = json!({
        "resources": resources,
        "cgroupsPath": parts.cgroups_path,
        "namespaces": namespaces::all(spec)?,
    });
    if !devices.nodes.is_empty() {
        linux["devices"] = devices.nodes.into();
    }
    let (masked, read_only) = mounts::fences(spec)?;
    if !masked.is_empty() {
        linux["maskedPaths"] = json!(masked);
    }
    if !read_only.is_empty() {
        linux["readonlyPaths"] = json!(read_only);
    }
    if !spec.id_mappings.is_empty() {
        let mappings = namespaces::mappings(spec);
        linux["uidMappings"] = json!(mappings);
        linux["gidMappings"] = json!(mappings);
    }
    if !spec.sysctls.is_empty() {
        let is_own = |kind| namespaces::is_own(spec, kind);
        let (network, ipc) = (is_own(NamespaceKind::Network), is_own(NamespaceKind::Ipc));
        namespaces::check_sysctls(&spec.sysctls, network, ipc)?;
        linux["sysctl"] = json!(spec.sysctls);
    }
    match spec.rootfs_propagation.as_str() {
        "" => {}
        word if PROPAGATIONS.contains(&word) => linux["rootfsPropagation"] = word.into(),
        word => {
            return Err(Error::invalid(format!(
                "root filesystem propagation {word:?}: use one of {}",
                PROPAGATIONS.join(", ")
            )));
        }
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
        let umask = process["user"]["umask"].take();
        process["user"] = json!({
            "uid": user.uid, "gid": user.gid, "additionalGids": user.additional_gids,
        });
        if !umask.is_null() {
            process["user"]["umask"] = umask;
        }
    }
    Ok(serde_json::to_vec(&process).expect("a JSON value is JSON"))
}

/// Checks a spec that the user brought, and puts it where the runtime will find the root filesystem.
///
/// # Errors
/// `InvalidArgument`: it is none, or has something in it that users may not ask for.
pub(crate) fn adopt(bytes: &[u8], cgroups_path: &str) -> Result<Vec<u8>> {
    let bad = |why: String| Error::invalid(format!("runtime spec (--config): {why}"));
    serde_json::from_slice::<oci_spec::runtime::Spec>(bytes)
        .map_err(|error| bad(error.to_string()))?;
    let mut spec: Value = serde_json::from_slice(bytes).map_err(|error| bad(error.to_string()))?;
    if spec["process"]["args"].as_array().is_none_or(Vec::is_empty) {
        return Err(bad("it has no process.args".into()));
    }
    if spec["hooks"].as_object().is_some_and(|hooks| !hooks.is_empty()) {
        return Err(bad("hooks come from the daemon's configuration alone; take them out".into()));
    }
    check_own_sysctls(&spec)?;
    if spec["root"].is_null() {
        spec["root"] = json!({ "readonly": false });
    }
    spec["root"]["path"] = "rootfs".into();
    if spec["linux"]["cgroupsPath"].as_str().is_none_or(str::is_empty) {
        spec["linux"]["cgroupsPath"] = cgroups_path.into();
    }
    if spec["process"]["user"]["umask"].is_null() {
        spec["process"]["user"]["umask"] = UMASK.into();
    }
    if spec["process"]["oomScoreAdj"].is_null() {
        spec["process"]["oomScoreAdj"] = 0.into();
    }
    bounds::check(&spec)
}

/// The cgroup of a stored spec.
pub(crate) fn cgroup(bytes: &[u8]) -> Option<String> {
    let spec: Value = serde_json::from_slice(bytes).ok()?;
    Some(spec["linux"]["cgroupsPath"].as_str()?.to_owned())
}

/// Kernel parameters of a spec that a user brought: no others than those that can be asked for.
fn check_own_sysctls(spec: &Value) -> Result<()> {
    let Some(sysctls) = spec["linux"]["sysctl"].as_object() else { return Ok(()) };
    let has = |kind: &str| {
        let namespaces = spec["linux"]["namespaces"].as_array();
        namespaces.is_some_and(|list| {
            list.iter().any(|n| n["type"] == kind && n["path"].as_str().is_none_or(str::is_empty))
        })
    };
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let sysctls = sysctls.iter().map(|(key, value)| (key.clone(), text(value))).collect();
    namespaces::check_sysctls(&sysctls, has("network"), has("ipc"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use capstan_sdk::contract::containers::{
        ContainerMount, Device, IdMapping, NamespaceWish, Network, Ulimit,
    };
    use capstan_sdk::contract::resources::Resources;
    use capstan_sdk::{Class, Labels};

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

    /// F-266: all of what is there unless something else is said.
    #[test]
    fn generate_spec() {
        let bare = ImageConfig { cmd: vec!["sh".into()], ..ImageConfig::default() };
        let spec = made(&ContainerSpec::default(), &bare).unwrap();
        assert_eq!(spec["root"], json!({ "path": "rootfs", "readonly": false }));
        let process = &spec["process"];
        assert_eq!((&process["cwd"], &process["terminal"]), (&json!("/"), &json!(false)));
        assert_eq!(process["env"], json!([DEFAULT_PATH]));
        assert_eq!(process["user"], json!({ "uid": 0, "gid": 0, "umask": 0o022 }));
        let files = json!([{ "type": "RLIMIT_NOFILE", "soft": 1024, "hard": 1024 }]);
        assert_eq!(process["rlimits"], files);
        let mut all = [
            "AUDIT_WRITE",
            "CHOWN",
            "DAC_OVERRIDE",
            "FOWNER",
            "FSETID",
            "KILL",
            "MKNOD",
            "NET_BIND_SERVICE",
            "NET_RAW",
            "SETFCAP",
            "SETGID",
            "SETPCAP",
            "SETUID",
            "SYS_CHROOT",
        ]
        .map(|name| format!("CAP_{name}"))
        .to_vec();
        // What the daemon has not, it cannot give.
        all.retain(|name| capability::available().contains(name.as_str()));
        for set in ["bounding", "effective", "permitted"] {
            let set = process["capabilities"][set].as_array().unwrap();
            let mut names: Vec<&str> = set.iter().map(|name| name.as_str().unwrap()).collect();
            names.sort_unstable();
            assert_eq!(names, all);
        }
        assert!(process["capabilities"]["ambient"].is_null());
        let words = |mount: &Value| {
            let options = mount["options"].as_array().unwrap();
            let options: Vec<&str> = options.iter().map(|word| word.as_str().unwrap()).collect();
            let text = |name: &str| mount[name].as_str().unwrap().to_owned();
            format!("{} {} {}", text("destination"), text("type"), options.join(","))
        };
        let mounts: Vec<String> = spec["mounts"].as_array().unwrap().iter().map(words).collect();
        assert_eq!(
            mounts,
            [
                "/proc proc nosuid,noexec,nodev",
                "/dev tmpfs nosuid,strictatime,mode=755,size=65536k",
                "/dev/pts devpts nosuid,noexec,newinstance,ptmxmode=0666,mode=0620,gid=5",
                "/dev/shm tmpfs nosuid,noexec,nodev,mode=1777,size=65536k",
                "/dev/mqueue mqueue nosuid,noexec,nodev",
                "/sys sysfs nosuid,noexec,nodev,ro",
                "/run tmpfs nosuid,strictatime,mode=755,size=65536k",
            ]
        );
        let kinds = spec["linux"]["namespaces"].as_array().unwrap();
        let mut kinds: Vec<&str> = kinds.iter().map(|one| one["type"].as_str().unwrap()).collect();
        kinds.sort_unstable();
        assert_eq!(kinds, ["ipc", "mount", "network", "pid", "uts"]);
        let devices = &spec["linux"]["resources"]["devices"];
        assert_eq!(devices[0], json!({ "allow": false, "access": "rwm" }));
        assert!(spec["linux"]["uidMappings"].is_null() && spec["hooks"].is_null());
    }

    #[test]
    fn what_was_asked_for_goes_over_the_image() {
        let wish = ContainerSpec {
            args: vec!["mine".into()],
            env: vec!["A=2".into(), "B=3".into()],
            workdir: "/".into(),
            has_terminal: true,
            resources: Resources { pids_limit: 5, cpu_shares: 2, ..Resources::default() },
            network: Network::Host,
            seccomp: "unconfined".into(),
            ..ContainerSpec::default()
        };
        let spec = made(&wish, &image()).unwrap();
        assert_eq!(spec["process"]["args"], json!(["/entry", "mine"]));
        assert_eq!(spec["process"]["env"], json!(["A=2", "PATH=/bin", "B=3", "TERM=xterm"]));
        assert_eq!(spec["process"]["cwd"], "/");
        let resources = &spec["linux"]["resources"];
        assert_eq!(resources["cpu"], json!({ "shares": 2 }));
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
        check(|w| w.oom_score_adj = 1001, Class::InvalidArgument);
        check(|w| w.rootfs_propagation = "no".into(), Class::InvalidArgument);
        check(|w| w.sysctls = [("kernel.panic".into(), "1".into())].into(), Class::InvalidArgument);
        check(
            |w| w.annotations = [("run.oci.x".into(), "1".into())].into(),
            Class::InvalidArgument,
        );
        check(|w| w.resources.cpu_shares = 1, Class::InvalidArgument);
        let long = |w: &mut ContainerSpec| {
            let mount = ContainerMount {
                kind: "tmpfs".into(),
                destination: format!("/{}", "x".repeat(4000)),
                ..ContainerMount::default()
            };
            w.mounts = vec![mount; 17];
        };
        check(long, Class::InvalidArgument);
        let renamed = |w: &mut ContainerSpec| {
            w.hostname = "x".into();
            let path = String::new();
            w.namespaces = vec![NamespaceWish { kind: NamespaceKind::Uts, path }];
        };
        check(renamed, Class::InvalidArgument);
        let bare = ImageConfig::default();
        assert_eq!(
            made(&ContainerSpec::default(), &bare).unwrap_err().class(),
            Class::InvalidArgument
        );
    }

    #[test]
    fn each_option_has_its_place_in_the_spec() {
        let check = |change: fn(&mut ContainerSpec), pointer: &str, want: Value| {
            let mut wish = ContainerSpec::default();
            change(&mut wish);
            let spec = made(&wish, &image()).unwrap();
            assert_eq!(spec.pointer(pointer).unwrap_or(&Value::Null), &want, "{pointer}");
        };
        let labels = |key: &str| Labels::from([(key.into(), "1".into())]);
        let none = Value::Null;
        check(|_| (), "/process/oomScoreAdj", json!(0));
        check(|_| (), "/process/user/umask", json!(0o022));
        check(|w| w.oom_score_adj = 500, "/process/oomScoreAdj", json!(500));
        check(|w| w.no_new_privileges = Some(false), "/process/noNewPrivileges", json!(false));
        check(|w| w.is_read_only = true, "/root/readonly", json!(true));
        let core = |w: &mut ContainerSpec| {
            w.ulimits = vec![Ulimit { kind: "core".into(), soft: 1, hard: 2 }];
        };
        check(core, "/process/rlimits/1/type", json!("RLIMIT_CORE"));
        let zero = |w: &mut ContainerSpec| {
            let host = "/dev/zero".into();
            w.devices = vec![Device { host, container: "/dev/z".into(), access: String::new() }];
        };
        check(zero, "/linux/devices/0/path", json!("/dev/z"));
        check(zero, "/linux/resources/devices/1/access", json!("rwm"));
        check(
            |w| w.rootfs_propagation = "slave".into(),
            "/linux/rootfsPropagation",
            json!("slave"),
        );
        check(|w| w.mask = vec!["/x".into()], "/linux/maskedPaths/12", json!("/x"));
        check(|w| w.unmask = vec!["all".into()], "/linux/readonlyPaths", none.clone());
        let sysctl = |w: &mut ContainerSpec| w.sysctls = [("kernel.sem".into(), "1".into())].into();
        check(sysctl, "/linux/sysctl", json!(labels("kernel.sem")));
        let annotation = |w: &mut ContainerSpec| w.annotations = [("a".into(), "1".into())].into();
        check(annotation, "/annotations", json!(labels("a")));
        let mapped = |w: &mut ContainerSpec| {
            w.id_mappings = vec![IdMapping { container: 0, host: 100_000, size: 65_536 }];
        };
        let mapping = json!([{ "containerID": 0, "hostID": 100_000, "size": 65_536 }]);
        check(mapped, "/linux/uidMappings", mapping.clone());
        check(mapped, "/linux/gidMappings", mapping);
        check(mapped, "/linux/namespaces/5/type", json!("user"));
        let shared = |w: &mut ContainerSpec| {
            let host = |kind| NamespaceWish { kind, path: String::new() };
            w.namespaces = vec![host(NamespaceKind::Uts), host(NamespaceKind::Pid)];
        };
        check(shared, "/hostname", none.clone());
        check(shared, "/linux/namespaces/2/type", json!("network"));
        check(shared, "/linux/namespaces/3", none);
        let joined = |w: &mut ContainerSpec| {
            let path = "/proc/self/ns/net".into();
            w.namespaces = vec![NamespaceWish { kind: NamespaceKind::Network, path }];
        };
        check(joined, "/linux/namespaces/4/path", json!("/proc/self/ns/net"));
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
        assert_eq!(
            process["user"],
            json!({ "uid": 5, "gid": 6, "additionalGids": [7], "umask": 0o022 })
        );
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
        let bytes = adopt(own, "/c").unwrap();
        let spec: Value = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(spec["process"]["terminal"], true);
        assert_eq!(spec["root"], json!({ "path": "rootfs", "readonly": true }));
        assert_eq!(spec["linux"]["cgroupsPath"], "/c");
        assert_eq!(spec["x-mine"], 1);
        for bad in ["", "{}", r#"{"ociVersion":"1.0.2"}"#, "[]"] {
            assert_eq!(adopt(bad.as_bytes(), "/c").unwrap_err().class(), Class::InvalidArgument);
        }
        let refused = |pointer: &str, value: Value| {
            let mut spec: Value = serde_json::from_slice(own).unwrap();
            spec["linux"] = json!({ "namespaces": [{ "type": "ipc" }] });
            let (parent, name) = pointer.rsplit_once('/').unwrap();
            spec.pointer_mut(parent).unwrap()[name] = value;
            let bytes = serde_json::to_vec(&spec).unwrap();
            let error = adopt(&bytes, "/c").expect_err(pointer);
            assert_eq!(error.class(), Class::InvalidArgument, "{pointer}: {error}");
        };
        refused("/hooks", json!({ "poststart": [{ "path": "/bin/true" }] }));
        refused("/linux/cgroupsPath", json!("/"));
        refused("/linux/cgroupsPath", json!("/a/../.."));
        refused("/linux/sysctl", json!({ "net.ipv4.ip_forward": "1" }));
        refused("/linux/sysctl", json!({ "kernel.core_pattern": "|/x" }));
        refused("/annotations", json!({ "org.systemd.property.X": "1" }));
    }
}
