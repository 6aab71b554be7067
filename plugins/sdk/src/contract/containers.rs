//! containers: records, with a root filesystem each. They run nothing.

use capstan_schema::{ContainerId, Labels, Mount, Namespace};

use crate::contract::graph::{Finding, Node};
use crate::contract::resources::Resources;
use crate::contract::restart::RestartPolicy;
use crate::contract::runtime::ProcessSpec;
use crate::contract::{Listed, Page};

/// A mount that the user asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ContainerMount {
    /// `bind` if empty.
    pub kind: String,
    /// What.
    pub source: String,
    /// Where in the container.
    pub destination: String,
    /// fstab words.
    pub options: Vec<String>,
}

/// What network a container has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Network {
    /// A namespace of its own, with loopback.
    #[default]
    Private,
    /// The host's.
    Host,
}

/// A device of the host in the container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Device {
    /// Path of a character or block device.
    pub host: String,
    /// Below `/dev`; empty = the same.
    pub container: String,
    /// Of `rwm`; empty = all three.
    pub access: String,
}

/// A limit of setrlimit(2); `u64::MAX` = unlimited.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ulimit {
    /// `nofile`.
    pub kind: String,
    /// What is enforced.
    pub soft: u64,
    /// How far the process may raise it.
    pub hard: u64,
}

/// A stretch of ids of a user namespace, of users and groups alike.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IdMapping {
    /// The first, inside.
    pub container: u32,
    /// The first, outside.
    pub host: u32,
    /// How many.
    pub size: u32,
}

/// A kind of namespace that a container may share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NamespaceKind {
    /// Of processes.
    Pid,
    /// Of System V and POSIX objects.
    Ipc,
    /// Of host names.
    Uts,
    /// Of networks.
    Network,
}

/// A namespace that is not to be a new one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamespaceWish {
    /// Which.
    pub kind: NamespaceKind,
    /// The one to join; empty = the host's.
    pub path: String,
}

/// What the user asked for; the meaning of each field is in container.capnp.
#[derive(Clone, Debug, Default)]
pub struct ContainerSpec {
    /// Name of an image that is present.
    pub image: String,
    /// Empty = the image's.
    pub args: Vec<String>,
    /// Added to the image's.
    pub env: Vec<String>,
    /// Empty = the image's.
    pub workdir: String,
    /// Empty = the image's.
    pub user: String,
    /// Empty = the container id.
    pub hostname: String,
    /// Added to the default ones.
    pub mounts: Vec<ContainerMount>,
    /// The root filesystem.
    pub is_read_only: bool,
    /// Limits; no limit of processes = the default one.
    pub resources: Resources,
    /// Added to the default ones.
    pub cap_add: Vec<String>,
    /// Taken from them.
    pub cap_drop: Vec<String>,
    /// All capabilities, all devices, no masks, no seccomp.
    pub is_privileged: bool,
    /// Empty = default profile; `unconfined`; else JSON.
    pub seccomp: String,
    /// What network.
    pub network: Network,
    /// Whether init gets a terminal.
    pub has_terminal: bool,
    /// A directory to use as it is.
    pub rootfs: String,
    /// A complete `config.json`.
    pub oci_spec: Vec<u8>,
    /// Name without kind.
    pub snapshotter: String,
    /// Name of a runtime.
    pub runtime: String,
    /// Labels.
    pub labels: Labels,
    /// Container and snapshot go when the task ends.
    pub is_ephemeral: bool,
    /// Restart policy as users write it; empty = none.
    pub restart: String,
    /// Of the host.
    pub devices: Vec<Device>,
    /// In addition to the default one.
    pub ulimits: Vec<Ulimit>,
    /// Additional groups, names or numbers.
    pub group_add: Vec<String>,
    /// Kernel parameters of the container's own namespaces.
    pub sysctls: Labels,
    /// -1000 to 1000.
    pub oom_score_adj: i16,
    /// Empty = the daemon's.
    pub cgroup_parent: String,
    /// `None` = yes, unless it is privileged.
    pub no_new_privileges: Option<bool>,
    /// Not empty: a user namespace.
    pub id_mappings: Vec<IdMapping>,
    /// Those that are not new.
    pub namespaces: Vec<NamespaceWish>,
    /// Masked besides the default ones.
    pub mask: Vec<String>,
    /// Neither masked nor read-only; `ALL`.
    pub unmask: Vec<String>,
    /// Empty = the runtime's default.
    pub rootfs_propagation: String,
    /// For the runtime and for hooks.
    pub annotations: Labels,
    /// Of `/dev/shm`; 0 = 64 MiB.
    pub shm_bytes: u64,
    /// What the writable layer may take; 0 = no limit. Only with `image`.
    pub storage_bytes: u64,
}

/// A container's record.
#[derive(Clone, Debug)]
pub struct Container {
    /// Its id.
    pub id: ContainerId,
    /// The image's name, or empty.
    pub image: String,
    /// `embedded`, `runc`, ...
    pub runtime: String,
    /// Name without kind; empty with `rootfs`.
    pub snapshotter: String,
    /// The snapshot of its root filesystem.
    pub snapshot_key: String,
    /// OCI runtime spec, JSON.
    pub spec: Vec<u8>,
    /// Labels.
    pub labels: Labels,
    /// When it was made.
    pub created_at_unix_ns: i64,
    /// When it was changed.
    pub updated_at_unix_ns: i64,
    /// Goes when its task ends.
    pub is_ephemeral: bool,
    /// A directory that is used as it is, or empty.
    pub rootfs: String,
    /// When it is started again.
    pub restart: RestartPolicy,
    /// What its writable layer may take; 0 = no limit.
    pub storage_bytes: u64,
}

/// Makes a container: spec, snapshot, record. Unpacks the image first where it is not yet unpacked
/// for the snapshotter. After an error nothing is left.
///
/// `InvalidArgument`: something in the spec, by field. `AlreadyExists`: id. `NotFound`: image. `Unimplemented`: a limit of
/// the writable layer that the snapshotter, or its file system, cannot keep.
#[derive(Clone, Debug)]
pub struct Create {
    /// In which namespace.
    pub namespace: Namespace,
    /// Its id.
    pub id: ContainerId,
    /// What the user asked for.
    pub spec: ContainerSpec,
}

/// Looks one up. `NotFound`.
#[derive(Clone, Debug)]
pub struct Get {
    /// In which namespace.
    pub namespace: Namespace,
    /// Which.
    pub id: ContainerId,
}

/// Lists them by id.
#[derive(Clone, Debug)]
pub struct List {
    /// In which namespace.
    pub namespace: Namespace,
    /// Which slice.
    pub page: Page,
}

/// All containers of all namespaces; for recovery after a restart.
#[derive(Clone, Debug)]
pub struct ListAll;

/// Removes record and snapshot. `NotFound`. It does not know of tasks: ask `tasks` first.
#[derive(Clone, Debug)]
pub struct Delete {
    /// In which namespace.
    pub namespace: Namespace,
    /// Which.
    pub id: ContainerId,
}

/// The mounts that make its root filesystem. `NotFound`.
#[derive(Clone, Debug)]
pub struct Rootfs {
    /// In which namespace.
    pub namespace: Namespace,
    /// Which.
    pub id: ContainerId,
}

/// The runtime spec that [`Create`] would store; makes nothing.
#[derive(Clone, Debug)]
pub struct MakeSpec {
    /// In which namespace.
    pub namespace: Namespace,
    /// Its id.
    pub id: ContainerId,
    /// What the user asked for.
    pub spec: ContainerSpec,
}

/// The OCI process object of an exec: the container's own process with what was asked for over it.
///
/// `InvalidArgument`: something in the wish. `NotFound`: the container, or a user by name.
#[derive(Clone, Debug)]
pub struct MakeProcess {
    /// In which namespace.
    pub namespace: Namespace,
    /// Of which container.
    pub id: ContainerId,
    /// What the user asked for.
    pub process: ProcessSpec,
    /// The container's init process, in whose root users are looked up.
    pub init_pid: u32,
}

/// Sets labels and keeps the others; an empty value removes the key. `NotFound`.
#[derive(Clone, Debug)]
pub struct Label {
    /// Where.
    pub namespace: Namespace,
    /// Which.
    pub id: ContainerId,
    /// The changes.
    pub labels: Labels,
}

/// Changes what `mask` names and nothing else: `labels` (all of them), `labels.KEY`, `image`, `runtime`, `spec`,
/// `rootfs`; empty = these five. `NotFound`. `InvalidArgument`: another field, or a spec that is none.
#[derive(Clone, Debug)]
pub struct Update {
    /// Where.
    pub namespace: Namespace,
    /// Which.
    pub id: ContainerId,
    /// Of which the fields are taken.
    pub wanted: Container,
    /// Which fields.
    pub mask: Vec<String>,
}

/// The containers of a namespace, each a root with its snapshot and its image.
#[derive(Clone, Debug)]
pub struct Nodes(pub Namespace);

/// Containers of a namespace whose snapshot is not there.
#[derive(Clone, Debug)]
pub struct Audit(pub Namespace);

crate::contract! {
    /// The contract of kind `containers`.
    Containers ("containers") as ContainersAddr {
        create: Create => Container,
        get: Get => Container [again],
        list: List => Listed<Container> [again],
        list_all: ListAll => Vec<(Namespace, Container)> [again],
        delete: Delete => (),
        rootfs: Rootfs => Vec<Mount> [again],
        make_spec: MakeSpec => Vec<u8> [again],
        make_process: MakeProcess => Vec<u8> [again],
        label: Label => Container,
        update: Update => Container,
        nodes: Nodes => Vec<Node> [again],
        audit: Audit => Vec<Finding> [again],
    }
}
