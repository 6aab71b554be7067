//! The flags that describe a container: shared by `run`, `containers create` and `oci spec`.

mod parse;

use std::collections::BTreeMap;

use capstan_client::schema::container_capnp::{Choice, NamespaceKind, Network, container_spec};
use capstan_client::schema::{write_labels, write_texts};
use capstan_client::{Error, Result};
use clap::Args;

use crate::args::pair;
use crate::cmd::limits::LimitFlags;
use parse::{
    DeviceFlag, Idmap, MountFlag, Security, Shared, UlimitFlag, device, idmap, mount, net,
    security, shared, tmpfs, ulimit, volume,
};
pub(crate) use parse::{bytes, cpus, storage, swap};

#[derive(Debug, Args)]
pub(crate) struct SpecFlags {
    /// Give init a terminal
    #[arg(short, long)]
    pub(crate) tty: bool,
    /// Environment, added to the image's
    #[arg(short, long, value_name = "K=V")]
    env: Vec<String>,
    /// Working directory [default: the image's, else /]
    #[arg(short, long, value_name = "D")]
    workdir: Option<String>,
    /// User, by name or number [default: the image's, else root]
    #[arg(short, long, value_name = "U[:G]")]
    user: Option<String>,
    /// Mount: type=bind,src=/a,dst=/b,options=ro:nosuid
    #[arg(long, value_parser = mount)]
    mount: Vec<MountFlag>,
    /// Mount a directory or file of the daemon's machine; options such as ro,nosuid
    #[arg(short, long, value_name = "SRC:DST[:OPT,..]", value_parser = volume)]
    volume: Vec<MountFlag>,
    /// Mount a tmpfs; options such as size=64m,mode=700
    #[arg(long, value_name = "DST[:OPT,..]", value_parser = tmpfs)]
    tmpfs: Vec<MountFlag>,
    /// Size of /dev/shm [default: 64m]
    #[arg(long, value_name = "BYTES", value_parser = bytes)]
    shm_size: Option<u64>,
    /// How mounts below the root filesystem are shared: private, rprivate, slave, rslave, ...
    #[arg(long, value_name = "HOW")]
    rootfs_propagation: Option<String>,
    /// Make the root filesystem read-only
    #[arg(long)]
    read_only: bool,
    #[command(flatten)]
    limits: LimitFlags,
    /// size=BYTES: what the writable layer may take, such as size=10g; the snapshotter's file system must keep quotas
    #[arg(long, value_name = "size=BYTES")]
    storage_opt: Option<String>,
    /// A device of the daemon's machine
    #[arg(long, value_name = "HOST[:CONTAINER[:rwm]]", value_parser = device)]
    device: Vec<DeviceFlag>,
    /// A limit of setrlimit(2), such as nofile=1024:4096 or core=unlimited
    #[arg(long, value_name = "TYPE=SOFT[:HARD]", value_parser = ulimit)]
    ulimit: Vec<UlimitFlag>,
    /// An additional group, by name or number
    #[arg(long, value_name = "G")]
    group_add: Vec<String>,
    /// A kernel parameter of the container's own namespaces, such as net.ipv4.ip_forward=1
    #[arg(long, value_name = "K=V", value_parser = pair)]
    sysctl: Vec<(String, String)>,
    /// How much earlier (or, below 0, later) than others it is killed for want of memory
    #[arg(long, value_name = "-1000..1000", allow_negative_numbers = true)]
    oom_score_adj: Option<i16>,
    /// The cgroup above that of the container [default: the daemon's]
    #[arg(long, value_name = "PATH")]
    cgroup_parent: Option<String>,
    /// Add a capability, or ALL
    #[arg(long, value_name = "C")]
    cap_add: Vec<String>,
    /// Drop a capability, or ALL
    #[arg(long, value_name = "C")]
    cap_drop: Vec<String>,
    /// All capabilities and devices, no masks, no seccomp
    #[arg(long)]
    privileged: bool,
    /// A seccomp profile (OCI JSON), or "unconfined" [default: the built-in profile]
    #[arg(long, value_name = "FILE|unconfined")]
    seccomp: Option<String>,
    /// Whether programs may gain rights as they start, as with setuid [default: true, they may not]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true,
          default_missing_value = "true")]
    no_new_privileges: Option<bool>,
    /// no-new-privileges[=BOOL], seccomp=FILE|unconfined, mask=PATH[:PATH], unmask=ALL|PATH[:PATH]
    #[arg(long, value_name = "WHAT", value_parser = security)]
    security_opt: Vec<Security>,
    /// A user namespace: ids in the container, on the machine, and how many
    #[arg(long, value_name = "CONTAINER:HOST:SIZE[,..]", value_parser = idmap)]
    userns: Option<Idmap>,
    /// Processes: private, host, or ns:PATH
    #[arg(long, value_name = "WHOSE", value_parser = shared)]
    pid: Option<Shared>,
    /// System V and POSIX objects: private, host, or ns:PATH
    #[arg(long, value_name = "WHOSE", value_parser = shared)]
    ipc: Option<Shared>,
    /// Host name: private, host, or ns:PATH
    #[arg(long, value_name = "WHOSE", value_parser = shared)]
    uts: Option<Shared>,
    /// Host name [default: the container id]
    #[arg(long, value_name = "H")]
    hostname: Option<String>,
    /// Network: private or none (loopback alone), host, or ns:PATH
    #[arg(long, value_name = "WHOSE", value_parser = net, default_value = "private")]
    net: Shared,
    /// Snapshotter for the root filesystem [default: the preferred one]
    #[arg(long, value_name = "NAME")]
    pub(crate) snapshotter: Option<String>,
    /// OCI runtime: embedded, runc, crun, ... [default: the daemon's]
    #[arg(long, value_name = "NAME")]
    runtime: Option<String>,
    /// Labels
    #[arg(short, long, value_name = "K=V", value_parser = pair)]
    label: Vec<(String, String)>,
    /// For the runtime and for hooks
    #[arg(long, value_name = "K=V", value_parser = pair)]
    annotation: Vec<(String, String)>,
    /// What happens when it ends by itself: no, on-failure[:N], always; not with --rm
    #[arg(long, value_name = "POLICY")]
    pub(crate) restart: Option<String>,
    /// Use this directory as root filesystem, as it is, instead of an image
    #[arg(long, value_name = "DIR")]
    rootfs: Option<String>,
    /// Use this runtime spec instead of one that is made from flags and image
    #[arg(long, value_name = "SPEC.json")]
    config: Option<String>,
}

fn count<T>(list: &[T]) -> u32 {
    u32::try_from(list.len()).unwrap_or(u32::MAX)
}

fn read(path: &str, limit: u64) -> Result<Vec<u8>> {
    use std::io::Read as _;
    let fail = |error| Error::io(format!("read {path}"), error);
    let mut bytes = Vec::new();
    std::fs::File::open(path)
        .map_err(fail)?
        .take(limit + 1)
        .read_to_end(&mut bytes)
        .map_err(fail)?;
    if bytes.len() as u64 > limit {
        return Err(Error::invalid(format!("{path}: larger than {limit} bytes")));
    }
    Ok(bytes)
}

/// Longest spec or profile that makes sense, in bytes.
const MAX_DOCUMENT: u64 = 4 << 20;

impl SpecFlags {
    /// Writes the flags into a request. `image` is a name, or a directory with `--rootfs`.
    pub(crate) fn write(
        &self,
        image: &str,
        args: &[String],
        mut out: container_spec::Builder<'_>,
    ) -> Result<()> {
        out.set_image(image);
        write_texts(args, out.reborrow().init_args(count(args)));
        write_texts(&self.env, out.reborrow().init_env(count(&self.env)));
        out.set_workdir(self.workdir.as_deref().unwrap_or_default());
        out.set_user(self.user.as_deref().unwrap_or_default());
        out.set_hostname(self.hostname.as_deref().unwrap_or_default());
        let all: Vec<_> = self.mount.iter().chain(&self.volume).chain(&self.tmpfs).collect();
        let mut mounts = out.reborrow().init_mounts(count(&all));
        for (index, mount) in (0..).zip(all) {
            let mut out = mounts.reborrow().get(index);
            out.set_type(&mount.kind);
            out.set_source(&mount.source);
            out.set_destination(&mount.destination);
            write_texts(&mount.options, out.init_options(count(&mount.options)));
        }
        out.set_read_only(self.read_only);
        self.limits.write(out.reborrow().init_resources());
        write_texts(&self.cap_add, out.reborrow().init_cap_add(count(&self.cap_add)));
        write_texts(&self.cap_drop, out.reborrow().init_cap_drop(count(&self.cap_drop)));
        out.set_privileged(self.privileged);
        self.write_security(out.reborrow())?;
        self.write_devices(out.reborrow());
        self.write_namespaces(out.reborrow());
        out.set_terminal(self.tty);
        out.set_rootfs(self.rootfs.as_deref().unwrap_or_default());
        if let Some(path) = &self.config {
            out.set_oci_spec(&read(path, MAX_DOCUMENT)?);
        }
        out.set_snapshotter(self.snapshotter.as_deref().unwrap_or_default());
        out.set_runtime(self.runtime.as_deref().unwrap_or_default());
        out.set_shm_bytes(self.shm_size.unwrap_or(0));
        if let Some(option) = &self.storage_opt {
            out.set_storage_bytes(storage(option)?);
        }
        out.set_rootfs_propagation(self.rootfs_propagation.as_deref().unwrap_or_default());
        out.set_oom_score_adj(self.oom_score_adj.unwrap_or(0));
        out.set_cgroup_parent(self.cgroup_parent.as_deref().unwrap_or_default());
        out.set_restart(self.restart.as_deref().unwrap_or_default());
        write_texts(&self.group_add, out.reborrow().init_group_add(count(&self.group_add)));
        let labels = |list: &[(String, String)]| list.iter().cloned().collect::<BTreeMap<_, _>>();
        let length = |labels: &BTreeMap<_, _>| u32::try_from(labels.len()).unwrap_or(u32::MAX);
        let sysctls = labels(&self.sysctl);
        write_labels(&sysctls, out.reborrow().init_sysctls(length(&sysctls)));
        let annotations = labels(&self.annotation);
        write_labels(&annotations, out.reborrow().init_annotations(length(&annotations)));
        let labels = labels(&self.label);
        write_labels(&labels, out.init_labels(length(&labels)));
        Ok(())
    }

    fn write_security(&self, mut out: container_spec::Builder<'_>) -> Result<()> {
        let (mut seccomp, mut no_new) = (self.seccomp.as_deref(), self.no_new_privileges);
        let (mut mask, mut unmask) = (Vec::new(), Vec::new());
        for option in &self.security_opt {
            match option {
                Security::NoNewPrivileges(choice) => no_new = Some(*choice),
                Security::Seccomp(profile) => seccomp = Some(profile),
                Security::Mask(paths) => mask.extend(paths.clone()),
                Security::Unmask(paths) => unmask.extend(paths.clone()),
            }
        }
        out.set_no_new_privileges(match no_new {
            None => Choice::Default,
            Some(false) => Choice::No,
            Some(true) => Choice::Yes,
        });
        write_texts(&mask, out.reborrow().init_mask(count(&mask)));
        write_texts(&unmask, out.reborrow().init_unmask(count(&unmask)));
        match seccomp {
            None => {}
            Some("unconfined") => out.set_seccomp("unconfined"),
            Some(path) => {
                let profile = read(path, MAX_DOCUMENT)?;
                let profile = String::from_utf8(profile)
                    .map_err(|_| Error::invalid(format!("{path}: a seccomp profile is JSON")))?;
                out.set_seccomp(&*profile);
            }
        }
        Ok(())
    }

    fn write_devices(&self, mut out: container_spec::Builder<'_>) {
        let mut devices = out.reborrow().init_devices(count(&self.device));
        for (index, device) in (0..).zip(&self.device) {
            let mut out = devices.reborrow().get(index);
            out.set_host(&device.host);
            out.set_container(&device.container);
            out.set_access(&device.access);
        }
        let mut ulimits = out.init_ulimits(count(&self.ulimit));
        for (index, ulimit) in (0..).zip(&self.ulimit) {
            let mut out = ulimits.reborrow().get(index);
            out.set_type(&ulimit.kind);
            out.set_soft(ulimit.soft);
            out.set_hard(ulimit.hard);
        }
    }

    fn write_namespaces(&self, mut out: container_spec::Builder<'_>) {
        out.set_network(match &self.net {
            Shared::Host => Network::Host,
            _ => Network::Private,
        });
        let wishes = [
            (NamespaceKind::Pid, self.pid.as_ref()),
            (NamespaceKind::Ipc, self.ipc.as_ref()),
            (NamespaceKind::Uts, self.uts.as_ref()),
            (NamespaceKind::Network, Some(&self.net)),
        ];
        let wishes: Vec<(NamespaceKind, &str)> =
            wishes.into_iter().filter_map(|(kind, wish)| Some((kind, wish?.path()?))).collect();
        let mut list = out.reborrow().init_namespaces(count(&wishes));
        for (index, (kind, path)) in (0..).zip(wishes) {
            let mut out = list.reborrow().get(index);
            out.set_kind(kind);
            out.set_path(path);
        }
        let mappings = self.userns.as_ref().map_or(&[][..], |map| &map.0);
        let mut list = out.init_id_mappings(count(mappings));
        for (index, &(container, host, size)) in (0..).zip(mappings) {
            let mut out = list.reborrow().get(index);
            out.set_container(container);
            out.set_host(host);
            out.set_size(size);
        }
    }

    /// Whether it is to be started again when it has ended.
    pub(crate) fn is_restarted(&self) -> bool {
        self.restart.as_deref().is_some_and(|policy| policy != "no")
    }

    /// Whether the first argument is part of the command, not an image.
    pub(crate) fn has_rootfs(&self) -> bool {
        self.rootfs.is_some()
    }
}
