//! The plugin.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use actix::{
    Actor, Addr, AsyncContext as _, Context as Cell, Handler, ResponseFuture, WrapFuture as _,
};
use capstan_sdk::contract::containers::{
    Audit, Container, ContainerSpec, ContainersAddr, Create, Delete, Get, Label, List, ListAll,
    MakeProcess, MakeSpec, Nodes, Rootfs, Update,
};
use capstan_sdk::contract::events::NewEvent;
use capstan_sdk::contract::graph::{Finding, Node};
use capstan_sdk::contract::images::{Manifest, Resolve};
use capstan_sdk::contract::metadata::{self, Commit, ScanAll, Step};
use capstan_sdk::contract::restart::RestartPolicy;
use capstan_sdk::contract::snapshotter::{
    Ask, LABEL_EPHEMERAL, LABEL_OWNER, LABEL_SIZE, Mounts, Prepare, Remove, Stat, View,
};
use capstan_sdk::contract::transfer::Unpack;
use capstan_sdk::contract::{
    Containers, Images, Listed, Metadata, Namespaces, Snapshotter, Tasks, Transfer,
};
use capstan_sdk::oci::ImageConfig;
use capstan_sdk::{
    Algorithm, Class, ContainerId, Context, Digest, Error, Exports, Info, Labels, Link, Mount,
    Namespace, Platform, Plugin, Result, blocking, clock, export_plugin, mount, rpc,
};
use sha2::{Digest as _, Sha256};
use tracing::warn;

use crate::spec::{self, Parts};
use crate::sweep::{self, Leftover, OWNER};
use crate::user::{User, Wish};
use crate::{Config, record};

/// The state directory of a daemon that nobody configured.
const USUAL_STATE: &str = "/run/capstan";

/// containers.local.
#[derive(Clone)]
pub struct LocalContainers {
    pub(crate) context: Context,
    pub(crate) config: Arc<Config>,
    pub(crate) metadata: Link<Metadata>,
    images: Link<Images>,
    transfer: Link<Transfer>,
    cgroup_parent: String,
    /// An empty directory, for looks into root filesystems.
    place: PathBuf,
    leftovers: Arc<std::sync::Mutex<Vec<Leftover>>>,
}

impl std::fmt::Debug for LocalContainers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LocalContainers")
    }
}

export_plugin!(LocalContainers);

impl Plugin for LocalContainers {
    const INFO: Info = Info {
        id: "containers.local",
        version: env!("CARGO_PKG_VERSION"),
        about: "container records and OCI runtime specs",
        requires: &["metadata", "images", "namespaces", "snapshotter", "transfer"],
        rank: 0,
    };
    type Config = Config;

    async fn build(config: Config, context: Context) -> Result<Self> {
        let metadata = context.link::<Metadata>()?;
        let place = context.state_dir()?.join("mnt");
        std::fs::create_dir_all(&place)
            .map_err(|error| Error::io(format!("make {}", place.display()), error))?;
        let cgroup_parent = cgroup_parent(&config, &context.kernel()?.daemon().state)?;
        let snapshotters = snapshotters(&context)?;
        let leftovers =
            sweep::find(&metadata, &snapshotters, &context.link::<Namespaces>()?).await?;
        Ok(Self {
            config: Arc::new(config),
            metadata,
            images: context.link::<Images>()?,
            transfer: context.link::<Transfer>()?,
            cgroup_parent,
            place,
            leftovers: Arc::new(std::sync::Mutex::new(leftovers)),
            context,
        })
    }

    fn export(addr: &Addr<Self>, context: &Context, exports: &mut Exports) {
        exports.contract::<Containers>(ContainersAddr::from(addr));
        let link = context.link_self::<Containers>();
        let tasks = context.link_late::<Tasks>();
        exports.service(move |_peer, namespace| {
            rpc::containers::serve(link.clone(), tasks.clone(), namespace)
        });
    }
}

/// The cgroup of this daemon's containers.
fn cgroup_parent(config: &Config, state: &Path) -> Result<String> {
    match config.cgroup_parent.as_str() {
        "" if state == Path::new(USUAL_STATE) => Ok("/capstan".into()),
        "" => {
            let hash = Sha256::digest(state.as_os_str().as_encoded_bytes());
            let digest = Digest::from_hash(Algorithm::Sha256, &hash);
            Ok(format!("/capstan-{}", &digest.hex()[..8]))
        }
        parent => {
            let is_path = |part: &str| !part.is_empty() && part != "." && part != "..";
            let parts = parent.trim_end_matches('/').strip_prefix('/');
            if parts.is_some_and(|parts| parts.split('/').all(is_path)) {
                return Ok(parent.trim_end_matches('/').into());
            }
            Err(Error::invalid(format!(
                "[plugins.\"containers.local\"] cgroup_parent = {parent:?}: write an absolute path, not \
                 the root"
            )))
        }
    }
}

fn snapshotters(context: &Context) -> Result<Vec<Link<Snapshotter>>> {
    let plugins = context.kernel()?.plugins();
    let names = plugins.iter().filter_map(|plugin| plugin.id.strip_prefix("snapshotter."));
    names.map(|name| context.link_named::<Snapshotter>(name)).collect()
}

impl Actor for LocalContainers {
    type Context = Cell<Self>;

    fn started(&mut self, cell: &mut Cell<Self>) {
        let mut leftovers =
            self.leftovers.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let leftovers = std::mem::take(&mut *leftovers);
        cell.spawn(sweep::remove(leftovers).into_actor(self));
    }
}

pub(crate) fn missing(id: &ContainerId) -> Error {
    Error::not_found(format!("container {id} does not exist; see `capstan containers ls`"))
}

/// Where a container's root filesystem comes from.
enum Source {
    /// An image, on a snapshotter of this name.
    Image { manifest: Box<Manifest>, snapshotter: String },
    /// A directory that is used as it is.
    Directory(String),
}

impl LocalContainers {
    pub(crate) async fn get(&self, namespace: &Namespace, id: &ContainerId) -> Result<Container> {
        let bytes = self.metadata.send(metadata::Get(record::key(namespace, id))).await?;
        let bytes = bytes.ok_or_else(|| missing(id))?;
        record::read(id.as_str(), &bytes).map_err(|error| error.at(format!("container {id}")))
    }

    /// Below the parent that the user named, if so; two daemons share no cgroup there either. That it
    /// is a good path is checked with the whole spec.
    pub(crate) fn cgroups_path(
        &self,
        namespace: &Namespace,
        id: &ContainerId,
        parent: &str,
    ) -> String {
        format!("{}{}/{namespace}/{id}", parent.trim_end_matches('/'), self.cgroup_parent)
    }

    async fn source(&self, namespace: &Namespace, spec: &ContainerSpec) -> Result<Source> {
        match (spec.rootfs.as_str(), spec.image.as_str()) {
            ("", "") => {
                Err(Error::invalid("which root filesystem? name an image, or use --rootfs"))
            }
            ("", image) => {
                let resolve = Resolve {
                    namespace: namespace.clone(),
                    name: image.into(),
                    platform: Platform::host(),
                };
                let (_, manifest) = self.images.send(resolve).await?;
                // Stored by name, so that a change of the preferred one does not lose the container.
                let id = self.context.link_named::<Snapshotter>(&spec.snapshotter)?.id()?;
                let snapshotter = id.split_once('.').map_or(&*id, |(_, name)| name).to_owned();
                Ok(Source::Image { manifest: Box::new(manifest), snapshotter })
            }
            (rootfs, "") => {
                let about = std::fs::metadata(rootfs)
                    .map_err(|error| Error::io(format!("root filesystem {rootfs}"), error))?;
                if !rootfs.starts_with('/') || !about.is_dir() {
                    return Err(Error::invalid(format!(
                        "root filesystem {rootfs:?}: write an absolute path of a directory"
                    )));
                }
                Ok(Source::Directory(rootfs.into()))
            }
            (_, _) => Err(Error::invalid("an image and --rootfs at once: choose one")),
        }
    }

    /// Makes the writable layer of a container; unpacks the image first where that was never done.
    async fn prepare(
        &self,
        namespace: &Namespace,
        id: &ContainerId,
        spec: &ContainerSpec,
        manifest: &Manifest,
        snapshotter: &str,
    ) -> Result<Vec<Mount>> {
        let link = self.context.link_named::<Snapshotter>(snapshotter)?;
        let parent = manifest.top_chain_id().map(ToString::to_string).unwrap_or_default();
        let mut labels: Labels = BTreeMap::from([(LABEL_OWNER.into(), OWNER.into())]);
        if spec.is_ephemeral {
            labels.insert(LABEL_EPHEMERAL.into(), "true".into());
        }
        if spec.storage_bytes > 0 {
            // What does not know the label would leave it at that.
            if !link.send(Ask).await?.can_limit {
                return Err(Error::unimplemented(format!(
                    "snapshotter {snapshotter} cannot limit the size of a writable layer (--storage-opt); leave that \
                     out, or choose another --snapshotter"
                )));
            }
            labels.insert(LABEL_SIZE.into(), spec.storage_bytes.to_string());
        }
        let prepare = Prepare { namespace: namespace.clone(), key: id.to_string(), parent, labels };
        let parent = Stat { namespace: namespace.clone(), key: prepare.parent.clone() };
        match link.send(prepare.clone()).await {
            Err(error) if error.class() == Class::NotFound => {}
            Err(error) if error.class() == Class::AlreadyExists => {
                return Err(taken(id));
            }
            prepared => return prepared,
        }
        if link.send(parent).await.is_err() {
            let unpack = Unpack {
                namespace: namespace.clone(),
                image: spec.image.clone(),
                platform: Platform::host(),
                snapshotter: snapshotter.into(),
            };
            self.transfer.send(unpack).await?;
        }
        link.send(prepare).await
    }

    async fn remove_snapshot(
        &self,
        namespace: &Namespace,
        snapshotter: &str,
        key: &str,
    ) -> Result<()> {
        let link = self.context.link_named::<Snapshotter>(snapshotter)?;
        match link.send(Remove { namespace: namespace.clone(), key: key.into() }).await {
            Err(error) if error.class() != Class::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// The user of the container, by the files of its root filesystem.
    async fn user(
        &self,
        spec: &ContainerSpec,
        image: &ImageConfig,
        mounts: Vec<Mount>,
    ) -> Result<User> {
        if let Some(user) = spec::wanted_user(spec, image)?.without_files() {
            return Ok(user);
        }
        let (spec, image) = (spec.clone(), image.clone());
        let (place, mounts) = (self.place.clone(), mount::for_reading(&mounts));
        blocking::run("look users up", move || {
            mount::with_mounted(&mounts, &place, |root| {
                spec::wanted_user(&spec, &image)?.resolve(&root)
            })
        })
        .await
    }

    async fn create(self, create: Create) -> Result<Container> {
        let Create { namespace, id, spec } = create;
        let restart = RestartPolicy::parse(&spec.restart)?;
        if restart != RestartPolicy::No && spec.is_ephemeral {
            return Err(Error::invalid(format!(
                "restart policy {restart} and --rm at once: choose one"
            )));
        }
        if self.metadata.send(metadata::Get(record::key(&namespace, &id))).await?.is_some() {
            return Err(taken(&id));
        }
        let source = self.source(&namespace, &spec).await?;
        let made = match &source {
            Source::Directory(_) if spec.storage_bytes > 0 => Err(Error::invalid(
                "a limit of the writable layer (--storage-opt) and --rootfs at once: a directory is used as it is",
            )),
            Source::Directory(rootfs) => {
                let mounts = bind(rootfs);
                self.make_spec(&namespace, &id, &spec, &ImageConfig::default(), mounts).await
            }
            Source::Image { manifest, snapshotter } => {
                let image = ImageConfig::parse(&manifest.config_json)?;
                // What is wrong with the wish is found before anything is made.
                self.dry_spec(&namespace, &id, &spec, &image)?;
                let mounts = self.prepare(&namespace, &id, &spec, manifest, snapshotter).await?;
                let made = self.make_spec(&namespace, &id, &spec, &image, mounts).await;
                if made.is_err() {
                    self.undo(&namespace, snapshotter, &id).await;
                }
                made
            }
        }?;
        let (snapshotter, rootfs) = match &source {
            Source::Image { snapshotter, .. } => (snapshotter.clone(), String::new()),
            Source::Directory(rootfs) => (String::new(), rootfs.clone()),
        };
        let now = clock::now_unix_ns();
        let container = Container {
            id: id.clone(),
            image: spec.image.clone(),
            runtime: if spec.runtime.is_empty() {
                self.config.runtime.clone()
            } else {
                spec.runtime
            },
            snapshot_key: if snapshotter.is_empty() { String::new() } else { id.to_string() },
            snapshotter: snapshotter.clone(),
            spec: made,
            labels: spec.labels,
            created_at_unix_ns: now,
            updated_at_unix_ns: now,
            is_ephemeral: spec.is_ephemeral,
            rootfs,
            restart,
            storage_bytes: spec.storage_bytes,
        };
        if let Err(error) = self.record(&namespace, &container).await {
            if !snapshotter.is_empty() {
                self.undo(&namespace, &snapshotter, &id).await;
            }
            return Err(error);
        }
        Ok(container)
    }

    async fn undo(&self, namespace: &Namespace, snapshotter: &str, id: &ContainerId) {
        if let Err(error) = self.remove_snapshot(namespace, snapshotter, id.as_str()).await {
            warn!(%id, %error, "the root filesystem of a container that failed is left; the next start sweeps it");
        }
    }

    async fn record(&self, namespace: &Namespace, container: &Container) -> Result<()> {
        let key = record::key(namespace, &container.id);
        let steps = vec![
            Step::absent(key.clone(), taken(&container.id)),
            Step::Put { key, value: record::write(container) },
        ];
        let event = NewEvent::new(namespace, "/containers/create")
            .with("id", &container.id)
            .with("image", &container.image)
            .with("runtime", &container.runtime);
        self.metadata.send(Commit { steps, events: vec![event] }).await.map(drop)
    }

    /// Checks everything of a wish that needs no root filesystem.
    fn dry_spec(
        &self,
        namespace: &Namespace,
        id: &ContainerId,
        spec: &ContainerSpec,
        image: &ImageConfig,
    ) -> Result<()> {
        spec::wanted_user(spec, image)?;
        self.write_spec(namespace, id, spec, image, &User::default()).map(drop)
    }

    fn write_spec(
        &self,
        namespace: &Namespace,
        id: &ContainerId,
        spec: &ContainerSpec,
        image: &ImageConfig,
        user: &User,
    ) -> Result<Vec<u8>> {
        let cgroups_path = self.cgroups_path(namespace, id, &spec.cgroup_parent);
        if !spec.oci_spec.is_empty() {
            return spec::adopt(&spec.oci_spec, &cgroups_path);
        }
        spec::make(&Parts {
            id,
            spec,
            image,
            user,
            cgroups_path: &cgroups_path,
            config: &self.config,
        })
    }

    async fn make_spec(
        &self,
        namespace: &Namespace,
        id: &ContainerId,
        spec: &ContainerSpec,
        image: &ImageConfig,
        mounts: Vec<Mount>,
    ) -> Result<Vec<u8>> {
        let user = match spec.oci_spec.is_empty() {
            true => self.user(spec, image, mounts).await?,
            false => User::default(),
        };
        self.write_spec(namespace, id, spec, image, &user)
    }

    /// What `create` would store. Users are looked up in a view of the image that is removed again.
    async fn only_spec(self, make: MakeSpec) -> Result<Vec<u8>> {
        let MakeSpec { namespace, id, spec } = make;
        let (manifest, snapshotter) = match self.source(&namespace, &spec).await? {
            Source::Directory(rootfs) => {
                let image = ImageConfig::default();
                return self.make_spec(&namespace, &id, &spec, &image, bind(&rootfs)).await;
            }
            Source::Image { manifest, snapshotter } => (manifest, snapshotter),
        };
        let image = ImageConfig::parse(&manifest.config_json)?;
        self.dry_spec(&namespace, &id, &spec, &image)?;
        let is_root = spec::wanted_user(&spec, &image)?.without_files().is_some();
        if is_root || !spec.oci_spec.is_empty() {
            return self.make_spec(&namespace, &id, &spec, &image, Vec::new()).await;
        }
        let link = self.context.link_named::<Snapshotter>(&snapshotter)?;
        let view = View {
            namespace: namespace.clone(),
            key: format!("spec-{}", clock::now_unix_ns()),
            parent: manifest.top_chain_id().map(ToString::to_string).unwrap_or_default(),
            labels: BTreeMap::from([(LABEL_OWNER.into(), OWNER.into())]),
        };
        let mounts = link.send(view.clone()).await?;
        let made = self.make_spec(&namespace, &id, &spec, &image, mounts).await;
        self.remove_snapshot(&namespace, &snapshotter, &view.key).await?;
        made
    }

    async fn make_process(self, make: MakeProcess) -> Result<Vec<u8>> {
        let container = self.get(&make.namespace, &make.id).await?;
        let process = make.process;
        let user = match process.user.is_empty() {
            true => None,
            false => {
                let (text, pid) = (process.user.clone(), make.init_pid);
                let look = move || Wish::parse(&text)?.resolve_in_process(pid);
                Some(blocking::run("look users up", look).await?)
            }
        };
        spec::exec_process(&container.spec, &process, user.as_ref())
    }

    async fn delete(self, delete: Delete) -> Result<()> {
        let Delete { namespace, id } = delete;
        let container = self.get(&namespace, &id).await?;
        let key = record::key(&namespace, &id);
        let steps = vec![Step::present(key.clone(), missing(&id)), Step::Delete(key)];
        let event = NewEvent::new(&namespace, "/containers/delete").with("id", &id);
        // The record first: a snapshot without one is swept, a record without a snapshot is broken.
        self.metadata.send(Commit { steps, events: vec![event] }).await?;
        if !container.snapshotter.is_empty() {
            let key = &container.snapshot_key;
            self.remove_snapshot(&namespace, &container.snapshotter, key).await?;
        }
        Ok(())
    }

    async fn rootfs(self, rootfs: Rootfs) -> Result<Vec<Mount>> {
        let container = self.get(&rootfs.namespace, &rootfs.id).await?;
        if !container.rootfs.is_empty() {
            return Ok(bind(&container.rootfs));
        }
        let link = self.context.link_named::<Snapshotter>(&container.snapshotter)?;
        link.send(Mounts { namespace: rootfs.namespace, key: container.snapshot_key }).await
    }
}

fn taken(id: &ContainerId) -> Error {
    Error::already_exists(format!(
        "container {id} exists; choose another --name, or remove it (capstan containers rm {id})"
    ))
}

/// A directory, as it is.
fn bind(directory: &str) -> Vec<Mount> {
    vec![Mount {
        kind: "bind".into(),
        source: directory.into(),
        options: vec!["rbind".into(), "rw".into()],
    }]
}

impl Handler<Create> for LocalContainers {
    type Result = ResponseFuture<Result<Container>>;
    fn handle(&mut self, create: Create, _: &mut Cell<Self>) -> Self::Result {
        Box::pin(self.clone().create(create))
    }
}

impl Handler<Get> for LocalContainers {
    type Result = ResponseFuture<Result<Container>>;
    fn handle(&mut self, get: Get, _: &mut Cell<Self>) -> Self::Result {
        let containers = self.clone();
        Box::pin(async move { containers.get(&get.namespace, &get.id).await })
    }
}

impl Handler<List> for LocalContainers {
    type Result = ResponseFuture<Result<Listed<Container>>>;
    fn handle(&mut self, list: List, _: &mut Cell<Self>) -> Self::Result {
        let metadata = self.metadata.clone();
        Box::pin(async move {
            let List { namespace, page } = list;
            Listed::scan(&metadata, record::BUCKET, Some(namespace), page, record::read).await
        })
    }
}

impl Handler<ListAll> for LocalContainers {
    type Result = ResponseFuture<Result<Vec<(Namespace, Container)>>>;
    fn handle(&mut self, _: ListAll, _: &mut Cell<Self>) -> Self::Result {
        let metadata = self.metadata.clone();
        Box::pin(async move {
            let rows = metadata.send(ScanAll(record::BUCKET.into())).await?;
            let read = |(key, bytes): (metadata::Key, Vec<u8>)| {
                let namespace = key.namespace?;
                Some(record::read(&key.name, &bytes).map(|container| (namespace, container)))
            };
            rows.into_iter().filter_map(read).collect()
        })
    }
}

impl Handler<Delete> for LocalContainers {
    type Result = ResponseFuture<Result<()>>;
    fn handle(&mut self, delete: Delete, _: &mut Cell<Self>) -> Self::Result {
        Box::pin(self.clone().delete(delete))
    }
}

impl Handler<Rootfs> for LocalContainers {
    type Result = ResponseFuture<Result<Vec<Mount>>>;
    fn handle(&mut self, rootfs: Rootfs, _: &mut Cell<Self>) -> Self::Result {
        Box::pin(self.clone().rootfs(rootfs))
    }
}

impl Handler<MakeProcess> for LocalContainers {
    type Result = ResponseFuture<Result<Vec<u8>>>;
    fn handle(&mut self, make: MakeProcess, _: &mut Cell<Self>) -> Self::Result {
        Box::pin(self.clone().make_process(make))
    }
}

impl Handler<MakeSpec> for LocalContainers {
    type Result = ResponseFuture<Result<Vec<u8>>>;
    fn handle(&mut self, make: MakeSpec, _: &mut Cell<Self>) -> Self::Result {
        Box::pin(self.clone().only_spec(make))
    }
}

impl Handler<Label> for LocalContainers {
    type Result = ResponseFuture<Result<Container>>;
    fn handle(&mut self, label: Label, _: &mut Cell<Self>) -> Self::Result {
        Box::pin(self.clone().label(label))
    }
}

impl Handler<Nodes> for LocalContainers {
    type Result = ResponseFuture<Result<Vec<Node>>>;
    fn handle(&mut self, Nodes(namespace): Nodes, _: &mut Cell<Self>) -> Self::Result {
        Box::pin(self.clone().nodes(namespace))
    }
}

impl Handler<Audit> for LocalContainers {
    type Result = ResponseFuture<Result<Vec<Finding>>>;
    fn handle(&mut self, Audit(namespace): Audit, _: &mut Cell<Self>) -> Self::Result {
        Box::pin(self.clone().audit(namespace))
    }
}

impl Handler<Update> for LocalContainers {
    type Result = ResponseFuture<Result<Container>>;
    fn handle(&mut self, update: Update, _: &mut Cell<Self>) -> Self::Result {
        Box::pin(self.clone().update(update))
    }
}
