//! `Containers` of container.capnp.

use std::rc::Rc;

use capnp::capability::Client;
use capstan_schema::{
    ContainerId, Namespace, Result, container_capnp as wire, read_labels, read_texts, write_labels,
};

use super::resources::read_resources;
use super::{answer, length, page, text};
use crate::Link;
use crate::contract::containers::{
    Container, ContainerMount, ContainerSpec, Create, Device, Get, IdMapping, Label, List,
    MakeSpec, NamespaceKind, NamespaceWish, Network, Ulimit, Update,
};
use crate::contract::restart::RestartPolicy;
use crate::contract::tasks;
use crate::contract::{Containers, Tasks};

struct Server {
    link: Link<Containers>,
    tasks: Link<Tasks>,
    namespace: Namespace,
}

/// The interface for one peer, bound to a namespace.
///
/// Deleting goes through `tasks`, which knows whether there is one.
pub fn serve(link: Link<Containers>, tasks: Link<Tasks>, namespace: Namespace) -> Client {
    capnp_rpc::new_client::<wire::containers::Client, _>(Server { link, tasks, namespace }).client
}

fn id(reader: capnp::Result<capnp::text::Reader<'_>>) -> Result<ContainerId> {
    ContainerId::parse(&text(reader)?)
}

/// Reads what a user asked for; `tasks` takes one too.
pub(super) fn read_spec(reader: wire::container_spec::Reader<'_>) -> Result<ContainerSpec> {
    let mut mounts = Vec::new();
    for mount in reader.get_mounts()? {
        mounts.push(ContainerMount {
            kind: text(mount.get_type())?,
            source: text(mount.get_source())?,
            destination: text(mount.get_destination())?,
            options: read_texts(mount.get_options()?)?,
        });
    }
    Ok(ContainerSpec {
        image: text(reader.get_image())?,
        args: read_texts(reader.get_args()?)?,
        env: read_texts(reader.get_env()?)?,
        workdir: text(reader.get_workdir())?,
        user: text(reader.get_user())?,
        hostname: text(reader.get_hostname())?,
        mounts,
        is_read_only: reader.get_read_only(),
        resources: read_resources(reader.get_resources()?)?,
        cap_add: read_texts(reader.get_cap_add()?)?,
        cap_drop: read_texts(reader.get_cap_drop()?)?,
        is_privileged: reader.get_privileged(),
        seccomp: text(reader.get_seccomp())?,
        network: match reader.get_network()? {
            wire::Network::Private | wire::Network::None => Network::Private,
            wire::Network::Host => Network::Host,
        },
        has_terminal: reader.get_terminal(),
        rootfs: text(reader.get_rootfs())?,
        oci_spec: reader.get_oci_spec()?.to_vec(),
        snapshotter: text(reader.get_snapshotter())?,
        runtime: text(reader.get_runtime())?,
        labels: read_labels(reader.get_labels()?)?,
        is_ephemeral: reader.get_ephemeral(),
        restart: text(reader.get_restart())?,
        devices: collect(reader.get_devices()?, |device| {
            Ok(Device {
                host: text(device.get_host())?,
                container: text(device.get_container())?,
                access: text(device.get_access())?,
            })
        })?,
        ulimits: collect(reader.get_ulimits()?, |ulimit| {
            Ok(Ulimit {
                kind: text(ulimit.get_type())?,
                soft: ulimit.get_soft(),
                hard: ulimit.get_hard(),
            })
        })?,
        group_add: read_texts(reader.get_group_add()?)?,
        sysctls: read_labels(reader.get_sysctls()?)?,
        oom_score_adj: reader.get_oom_score_adj(),
        cgroup_parent: text(reader.get_cgroup_parent())?,
        no_new_privileges: match reader.get_no_new_privileges()? {
            wire::Choice::Default => None,
            wire::Choice::No => Some(false),
            wire::Choice::Yes => Some(true),
        },
        id_mappings: collect(reader.get_id_mappings()?, |mapping| {
            Ok(IdMapping {
                container: mapping.get_container(),
                host: mapping.get_host(),
                size: mapping.get_size(),
            })
        })?,
        namespaces: collect(reader.get_namespaces()?, |wish| {
            let kind = match wish.get_kind()? {
                wire::NamespaceKind::Pid => NamespaceKind::Pid,
                wire::NamespaceKind::Ipc => NamespaceKind::Ipc,
                wire::NamespaceKind::Uts => NamespaceKind::Uts,
                wire::NamespaceKind::Network => NamespaceKind::Network,
            };
            Ok(NamespaceWish { kind, path: text(wish.get_path())? })
        })?,
        mask: read_texts(reader.get_mask()?)?,
        unmask: read_texts(reader.get_unmask()?)?,
        rootfs_propagation: text(reader.get_rootfs_propagation())?,
        annotations: read_labels(reader.get_annotations()?)?,
        shm_bytes: reader.get_shm_bytes(),
        storage_bytes: reader.get_storage_bytes(),
    })
}

/// Reads each element of a list of structs.
fn collect<'a, S: capnp::traits::OwnedStruct, T>(
    list: capnp::struct_list::Reader<'a, S>,
    read: impl Fn(S::Reader<'a>) -> Result<T>,
) -> Result<Vec<T>> {
    list.iter().map(read).collect()
}

fn write(container: &Container, mut out: wire::container::Builder<'_>) {
    out.set_id(container.id.as_str());
    out.set_image(&container.image);
    out.set_runtime(&container.runtime);
    out.set_snapshotter(&container.snapshotter);
    out.set_snapshot_key(&container.snapshot_key);
    out.set_spec(&container.spec);
    out.set_created_at_unix_ns(container.created_at_unix_ns);
    out.set_updated_at_unix_ns(container.updated_at_unix_ns);
    out.set_ephemeral(container.is_ephemeral);
    out.set_rootfs(&container.rootfs);
    out.set_restart(container.restart.to_string());
    out.set_storage_bytes(container.storage_bytes);
    let count = u32::try_from(container.labels.len()).expect("labels are few");
    write_labels(&container.labels, out.init_labels(count));
}

/// Reads a record whose fields are to be taken.
fn read(reader: wire::container::Reader<'_>) -> Result<Container> {
    Ok(Container {
        id: id(reader.get_id())?,
        image: text(reader.get_image())?,
        runtime: text(reader.get_runtime())?,
        snapshotter: text(reader.get_snapshotter())?,
        snapshot_key: text(reader.get_snapshot_key())?,
        spec: reader.get_spec()?.to_vec(),
        labels: read_labels(reader.get_labels()?)?,
        created_at_unix_ns: reader.get_created_at_unix_ns(),
        updated_at_unix_ns: reader.get_updated_at_unix_ns(),
        is_ephemeral: reader.get_ephemeral(),
        rootfs: text(reader.get_rootfs())?,
        restart: RestartPolicy::parse(&text(reader.get_restart())?)?,
        storage_bytes: reader.get_storage_bytes(),
    })
}

impl wire::containers::Server for Server {
    async fn create(
        self: Rc<Self>,
        params: wire::containers::CreateParams,
        mut results: wire::containers::CreateResults,
    ) -> capnp::Result<()> {
        let work = async {
            let params = params.get()?;
            let message = Create {
                namespace: self.namespace.clone(),
                id: id(params.get_id())?,
                spec: read_spec(params.get_spec()?)?,
            };
            self.link.send(message).await
        };
        answer!(results, work, |out, container| write(&container, out.init_container()))
    }

    async fn get(
        self: Rc<Self>,
        params: wire::containers::GetParams,
        mut results: wire::containers::GetResults,
    ) -> capnp::Result<()> {
        let work = async {
            let id = id(params.get()?.get_id())?;
            self.link.send(Get { namespace: self.namespace.clone(), id }).await
        };
        answer!(results, work, |out, container| write(&container, out.init_container()))
    }

    async fn list(
        self: Rc<Self>,
        params: wire::containers::ListParams,
        mut results: wire::containers::ListResults,
    ) -> capnp::Result<()> {
        let work = async {
            let page = page(params.get()?.get_page())?;
            self.link.send(List { namespace: self.namespace.clone(), page }).await
        };
        answer!(results, work, |out, listed| {
            out.set_next(&listed.next);
            let mut list = out.init_containers(length(&listed.items));
            for (index, container) in (0..).zip(&listed.items) {
                write(container, list.reborrow().get(index));
            }
        })
    }

    async fn delete(
        self: Rc<Self>,
        params: wire::containers::DeleteParams,
        mut results: wire::containers::DeleteResults,
    ) -> capnp::Result<()> {
        let work = async {
            let id = id(params.get()?.get_id())?;
            let message = tasks::DeleteContainer { namespace: self.namespace.clone(), id };
            self.tasks.send(message).await
        };
        answer!(results, work)
    }

    async fn oci_spec(
        self: Rc<Self>,
        params: wire::containers::OciSpecParams,
        mut results: wire::containers::OciSpecResults,
    ) -> capnp::Result<()> {
        let work = async {
            let params = params.get()?;
            let message = MakeSpec {
                namespace: self.namespace.clone(),
                id: id(params.get_id())?,
                spec: read_spec(params.get_spec()?)?,
            };
            self.link.send(message).await
        };
        answer!(results, work, |out, spec| out.set_oci_spec(&spec))
    }

    async fn label(
        self: Rc<Self>,
        params: wire::containers::LabelParams,
        mut results: wire::containers::LabelResults,
    ) -> capnp::Result<()> {
        let work = async {
            let params = params.get()?;
            let message = Label {
                namespace: self.namespace.clone(),
                id: id(params.get_id())?,
                labels: read_labels(params.get_labels()?)?,
            };
            self.link.send(message).await
        };
        answer!(results, work, |out, container| write(&container, out.init_container()))
    }

    async fn update(
        self: Rc<Self>,
        params: wire::containers::UpdateParams,
        mut results: wire::containers::UpdateResults,
    ) -> capnp::Result<()> {
        let work = async {
            let params = params.get()?;
            let wanted = read(params.get_container()?)?;
            let message = Update {
                namespace: self.namespace.clone(),
                id: wanted.id.clone(),
                wanted,
                mask: read_texts(params.get_mask()?)?,
            };
            self.link.send(message).await
        };
        answer!(results, work, |out, container| write(&container, out.init_container()))
    }
}
