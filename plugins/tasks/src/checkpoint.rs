//! Checkpoint and restore: a task as an image in the content store, and back.
//!
//! ```text
//! <state>/tasks.local/dumps/<namespace>/<id>/files/   while a checkpoint is made: CRIU's files
//!                                           paused   it was paused for that
//!                                           view     a snapshot that was made for that
//! <state>/tasks.local/restores/<namespace>/<id>/files/   from `restore` to `start`: CRIU's files
//!                                           made     the container was made for that
//! ```
//!
//! Both are removed however it ends; what a daemon that was killed left is swept by the next one.

use std::fs::{self, DirBuilder};
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use capstan_sdk::contract::containers::{self, Container, ContainerSpec, Rootfs};
use capstan_sdk::contract::content::{Abort, Ingests, Open, OpenIngest};
use capstan_sdk::contract::differ::{Apply, Diff, LayerSink, LayerStream, Whiteouts};
use capstan_sdk::contract::images::Get;
use capstan_sdk::contract::leases::{Hold, TakeHold};
use capstan_sdk::contract::runtime::{self, Inspect, Pause, Resume, Status, TaskInfo, TaskKey};
use capstan_sdk::contract::snapshotter::{LABEL_OWNER, Remove, Stat, View};
use capstan_sdk::contract::tasks::{Checkpoint, Restore};
use capstan_sdk::contract::{Content, Differ, Images, Leases, Runtime};
use capstan_sdk::oci::MAX_DOCUMENT;
use capstan_sdk::oci::media::{OCI_INDEX, OCI_LAYER, OCI_MANIFEST};
use capstan_sdk::{
    Class, ContainerId, Context, Descriptor, Error, Labels, Link, Mount, Namespace, Result,
    blocking, random, tree,
};
use tokio::sync::mpsc;
use tracing::{info, warn};

use crate::document::{self, CONFIG, DUMP, Parts, Saved};
use crate::router::{Router, has_terminal};
use crate::{dump, naming};

/// Bytes that go to the content store at a time, and how many times those may wait there.
const CHUNK: usize = 256 << 10;
const CHUNKS: usize = 4;

/// CRIU's files, in our directories.
const FILES: &str = "files";

/// Beside the files of a dump: its task was paused for that.
const PAUSED: &str = "paused";

/// Beside the files of a restore: the container was made for it.
const MADE: &str = "made";

/// How often, and how many times, it is looked whether a start ends that an earlier daemon began.
const START_LOOK: Duration = Duration::from_millis(200);
const START_LOOKS: u32 = 300;

/// Beside the files of a dump: the snapshotter and the key of a view that was made for it.
const VIEW: &str = "view";

/// The owner of such views.
const OWNER: &str = "checkpoint";

/// The beginning of the names of our ingests and views.
const INGEST: &str = "checkpoint-";

/// What makes checkpoints and restores them. The plugins that it needs need not be there.
#[derive(Clone)]
pub(crate) struct Checkpoints {
    router: Router,
    content: Link<Content>,
    differ: Link<Differ>,
    images: Link<Images>,
    leases: Link<Leases>,
    state: PathBuf,
}

/// A directory that is removed when it is let go of.
struct TemporaryDir(PathBuf);

impl TemporaryDir {
    async fn make(path: PathBuf) -> Result<Self> {
        blocking::run("make a directory", move || {
            let fail = |error| Error::io(format!("make {}", path.display()), error);
            if let Some(parent) = path.parent() {
                DirBuilder::new().recursive(true).mode(0o700).create(parent).map_err(fail)?;
            }
            DirBuilder::new().mode(0o700).create(&path).map_err(fail)?;
            Ok(Self(path))
        })
        .await
    }

    /// It stays.
    fn keep(mut self) {
        self.0 = PathBuf::new();
    }

    /// Removes it now.
    async fn remove(mut self) {
        remove(std::mem::take(&mut self.0)).await;
    }
}

impl Drop for TemporaryDir {
    fn drop(&mut self) {
        let path = std::mem::take(&mut self.0);
        if path.as_os_str().is_empty() {
            return;
        }
        // Only if what made it was dropped on the way. It may be large, and this is the thread of the actors.
        tokio::task::spawn_blocking(move || {
            if let Err(error) = tree::remove(&path) {
                warn!(path = %path.display(), %error, "a dump is left; the next start removes it");
            }
        });
    }
}

/// The files of a container, and what they were made of.
struct Files {
    tree: Vec<Mount>,
    parent: Vec<Mount>,
}

/// Writes for an ingest on a thread for blocking work.
fn on_a_thread(
    write: impl FnOnce(&mut Feed) -> Result<()> + Send + 'static,
) -> impl AsyncFnOnce(Feed) -> Result<()> {
    async move |mut feed: Feed| {
        let work = move || {
            write(&mut feed)?;
            feed.flush().map_err(|error| Error::io("write to the content store", error))
        };
        blocking::run("write to the content store", work).await
    }
}

/// What a thread writes for an ingest.
struct Feed {
    chunks: mpsc::Sender<Bytes>,
    buffer: Vec<u8>,
}

impl Write for Feed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= CHUNK {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let chunk = Bytes::from(std::mem::take(&mut self.buffer));
        // Why nobody takes it is told by the store.
        self.chunks.blocking_send(chunk).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

impl Checkpoints {
    pub(crate) fn new(context: &Context, router: Router) -> Result<Self> {
        Ok(Self {
            router,
            content: context.link::<Content>()?,
            differ: context.link::<Differ>()?,
            images: context.link::<Images>()?,
            leases: context.link::<Leases>()?,
            state: context.state_dir()?,
        })
    }

    fn dumps(&self) -> PathBuf {
        self.state.join("dumps")
    }

    fn restores(&self) -> PathBuf {
        self.state.join("restores")
    }

    fn restore_dir(&self, key: &TaskKey) -> PathBuf {
        self.restores().join(key.namespace.as_str()).join(key.id.as_str())
    }

    /// A deployment may do without these; then it has no checkpoints.
    fn check_plugins(&self) -> Result<()> {
        let missing = [
            ("content", self.content.id().is_err()),
            ("differ", self.differ.id().is_err()),
            ("images", self.images.id().is_err()),
        ];
        match missing.iter().find(|(_, is_missing)| *is_missing) {
            Some((kind, _)) => Err(Error::precondition(format!(
                "checkpoints need a plugin of kind {kind}, and this daemon has none"
            ))),
            None => Ok(()),
        }
    }

    /// Keeps what is stored from now on until it has a name. Where there are no leases nothing is collected.
    async fn hold(&self, key: &TaskKey, what: &str) -> Result<Option<Hold>> {
        if self.leases.id().is_err() {
            return Ok(None);
        }
        let owner = format!("{what} {}", key.id);
        let take = TakeHold { namespace: key.namespace.clone(), owner };
        self.leases.send(take).await.map(Some)
    }

    /// Writes a task to the content store; answers the digest of the index.
    pub(crate) async fn checkpoint(&self, checkpoint: Checkpoint) -> Result<String> {
        let Checkpoint { key, image, is_exit } = checkpoint;
        self.check_plugins()?;
        let _hold = self.hold(&key, "checkpoint").await?;
        let container = self.router.container(&key).await?;
        let runtime = self.router.runtime(&container.runtime)?;
        let status = runtime.send(Inspect(key.clone())).await?.status;
        if !matches!(status, Status::Running | Status::Paused) {
            return Err(Error::precondition(format!("container {} does not run", key.id)));
        }
        // What is wrong is found before anything is done to the container.
        let base = self.base(&key.namespace, &container).await?;
        let tree = match container.rootfs.is_empty() {
            true => Some(self.rootfs(&key).await?),
            false => None,
        };
        let dir = self.dumps().join(key.namespace.as_str()).join(key.id.as_str());
        let dir = TemporaryDir::make(dir).await.map_err(|error| match error.class() {
            Class::AlreadyExists => Error::unavailable(format!(
                "a checkpoint of container {} is being made; try again",
                key.id
            )),
            _ => error,
        })?;
        let is_paused = (!is_exit && status == Status::Running).then(|| dir.0.join(PAUSED));
        let name = random::hex::<8>()?;
        let written = async {
            let files = match tree {
                Some(tree) => {
                    let parent = self.view(&key.namespace, &container, &name, &dir.0).await?;
                    Some(Files { tree, parent })
                }
                None => None,
            };
            self.write(&runtime, &key, &name, &dir.0, files, is_paused, is_exit).await
        };
        let written = written.await;
        self.remove_view(&key.namespace, &dir.0).await;
        let named = async {
            let (dump, layer) = written?;
            let namespace = &key.namespace;
            let config = self.store_config(namespace, &name, &container).await?;
            let bytes = document::manifest(&Parts { config, dump, layer });
            let manifest = self.store_bytes(namespace, &name, OCI_MANIFEST, bytes).await?;
            let base = base.as_ref().map(|base| (container.image.as_str(), base));
            let bytes = document::index(&manifest, base);
            let index = self.store_bytes(namespace, &name, OCI_INDEX, bytes).await?;
            let digest = index.digest.to_string();
            if !image.is_empty() {
                let places = (&self.images, &self.content);
                naming::name(places, namespace, image, index, is_exit).await?;
            }
            Ok(digest)
        };
        let digest: Result<String> = named.await;
        // The last: it is what tells the next daemon that something was left on the way.
        dir.remove().await;
        let digest = digest?;
        info!(task = %key, digest, "checkpoint");
        Ok(digest)
    }

    /// Dumps a task, and stores the dump and the layer. It is paused meanwhile if `pause` has a place to say so.
    #[expect(
        clippy::too_many_arguments,
        reason = "one step of `checkpoint`, for what must be undone after it"
    )]
    async fn write(
        &self,
        runtime: &Link<Runtime>,
        key: &TaskKey,
        name: &str,
        dir: &Path,
        changes: Option<Files>,
        pause: Option<PathBuf>,
        is_exit: bool,
    ) -> Result<(Descriptor, Option<Descriptor>)> {
        let files = dir.join(FILES);
        let fail = |error| Error::io(format!("make {}", files.display()), error);
        DirBuilder::new().mode(0o700).create(&files).map_err(fail)?;
        // Its files must be those of the moment at which its memory was.
        let is_paused = match pause {
            Some(note) => self.pause(runtime, key, &note).await?,
            None => false,
        };
        let directory = files.to_string_lossy().into_owned();
        let dump = runtime::Checkpoint { key: key.clone(), directory, is_exit };
        let written = async {
            runtime.send(dump).await?;
            self.store_layer(&key.namespace, name, changes).await
        };
        let written = written.await;
        if is_paused && let Err(error) = runtime.send(Resume(key.clone())).await {
            // It may have been killed meanwhile, which is no failure of ours.
            warn!(task = %key, %error, "it was not resumed after a checkpoint");
        }
        let layer = written?;
        Ok((self.store_dump(&key.namespace, name, &files).await?, layer))
    }

    /// Pauses a task, and notes that it is to be resumed should we not live to do it. Answers whether its
    /// runtime can do that.
    async fn pause(&self, runtime: &Link<Runtime>, key: &TaskKey, note: &Path) -> Result<bool> {
        fs::write(note, "")
            .map_err(|error| Error::io(format!("write {}", note.display()), error))?;
        match runtime.send(Pause(key.clone())).await {
            Ok(()) => Ok(true),
            Err(error) if error.class() == Class::Unimplemented => {
                warn!(task = %key, "its runtime cannot pause: its files may be newer than its memory");
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// The image that a container was made of; that of a restored one is in its checkpoint.
    async fn base(
        &self,
        namespace: &Namespace,
        container: &Container,
    ) -> Result<Option<Descriptor>> {
        if container.image.is_empty() {
            return Ok(None);
        }
        let get = Get { namespace: namespace.clone(), name: container.image.clone() };
        let target = self.images.send(get).await?.target;
        let bytes = self.read(namespace, &target).await?;
        match document::read_index(&bytes)? {
            Some((_, Some(image))) => Ok(Some(image)),
            Some((_, None)) => Err(Error::corrupt(format!(
                "image {}: a checkpoint without an image",
                container.image
            ))),
            None => Ok(Some(target)),
        }
    }

    async fn rootfs(&self, key: &TaskKey) -> Result<Vec<Mount>> {
        let rootfs = Rootfs { namespace: key.namespace.clone(), id: key.id.clone() };
        self.router.containers.send(rootfs).await
    }

    /// What a snapshot began as; nothing if it began empty. The view is noted in `dir`.
    async fn view(
        &self,
        namespace: &Namespace,
        container: &Container,
        name: &str,
        dir: &Path,
    ) -> Result<Vec<Mount>> {
        let snapshotter = self.router.snapshotter(&container.snapshotter)?;
        let key = container.snapshot_key.clone();
        let parent = snapshotter.send(Stat { namespace: namespace.clone(), key }).await?.parent;
        if parent.is_empty() {
            return Ok(Vec::new());
        }
        let view = View {
            namespace: namespace.clone(),
            key: format!("{INGEST}{name}"),
            parent,
            labels: Labels::from([(LABEL_OWNER.into(), OWNER.into())]),
        };
        fs::write(dir.join(VIEW), format!("{}\n{}", container.snapshotter, view.key))
            .map_err(|error| Error::io(format!("write {}", dir.display()), error))?;
        snapshotter.send(view).await
    }

    /// Removes the view that is noted in a directory, if there is one.
    async fn remove_view(&self, namespace: &Namespace, dir: &Path) {
        let Ok(text) = fs::read_to_string(dir.join(VIEW)) else { return };
        let Some((snapshotter, key)) = text.split_once('\n') else { return };
        let removed = async {
            let remove = Remove { namespace: namespace.clone(), key: key.into() };
            self.router.snapshotter(snapshotter)?.send(remove).await
        };
        match removed.await {
            Err(error) if error.class() != Class::NotFound => {
                warn!(key, %error, "a view that was made for a checkpoint is left");
            }
            _ => {}
        }
    }

    async fn store_layer(
        &self,
        namespace: &Namespace,
        name: &str,
        changes: Option<Files>,
    ) -> Result<Option<Descriptor>> {
        let Some(Files { tree, parent }) = changes else { return Ok(None) };
        let write = async |feed: Feed| {
            let (media_type, out) = (OCI_LAYER.into(), LayerSink(Box::new(feed)));
            self.differ.send(Diff { parent, tree, media_type, out }).await.map(|_| ())
        };
        self.store(namespace, &format!("{name}-layer"), OCI_LAYER, write).await.map(Some)
    }

    async fn store_dump(
        &self,
        namespace: &Namespace,
        name: &str,
        dir: &Path,
    ) -> Result<Descriptor> {
        let dir = dir.to_owned();
        let write = move |feed: &mut Feed| dump::pack(&dir, feed);
        self.store(namespace, &format!("{name}-dump"), DUMP, on_a_thread(write)).await
    }

    async fn store_config(
        &self,
        namespace: &Namespace,
        name: &str,
        container: &Container,
    ) -> Result<Descriptor> {
        let spec = serde_json::from_slice(&container.spec)
            .map_err(|error| Error::corrupt(format!("the spec of the container: {error}")))?;
        let saved = Saved {
            image: container.image.clone(),
            runtime: container.runtime.clone(),
            snapshotter: container.snapshotter.clone(),
            rootfs: container.rootfs.clone(),
            labels: container.labels.clone(),
            storage_bytes: container.storage_bytes,
            spec,
        };
        let bytes = serde_json::to_vec(&saved).expect("plain values are JSON");
        self.store_bytes(namespace, name, CONFIG, bytes).await
    }

    async fn store_bytes(
        &self,
        namespace: &Namespace,
        name: &str,
        media_type: &str,
        bytes: Vec<u8>,
    ) -> Result<Descriptor> {
        let write = move |feed: &mut Feed| {
            feed.write_all(&bytes).map_err(|error| Error::io("write a document", error))
        };
        self.store(namespace, &format!("{name}-document"), media_type, on_a_thread(write)).await
    }

    /// Stores what is written meanwhile. After an error nothing is left of it.
    async fn store(
        &self,
        namespace: &Namespace,
        name: &str,
        media_type: &str,
        write: impl AsyncFnOnce(Feed) -> Result<()>,
    ) -> Result<Descriptor> {
        let open = OpenIngest::new(namespace, format!("{INGEST}{name}"));
        let ingest = self.content.send(open).await?;
        let (chunks, taken) = mpsc::channel(CHUNKS);
        let store = async {
            // It is let go of at the end, and then nobody can write any more.
            let mut taken = taken;
            while let Some(chunk) = taken.recv().await {
                ingest.write(chunk).await?;
            }
            Ok(())
        };
        let feed = Feed { chunks, buffer: Vec::with_capacity(CHUNK) };
        let (stored, written): (Result<()>, _) = tokio::join!(store, write(feed));
        // That the store takes no more is why the writer failed.
        match stored.and(written) {
            Ok(()) => {
                let (digest, size) = ingest.commit(None, 0).await?;
                Ok(Descriptor { media_type: media_type.into(), digest, size, platform: None })
            }
            Err(error) => {
                if let Err(error) = ingest.abort().await {
                    warn!(name, %error, "what was written of a checkpoint is left");
                }
                Err(error)
            }
        }
    }

    async fn read(&self, namespace: &Namespace, descriptor: &Descriptor) -> Result<Vec<u8>> {
        let open = Open { namespace: namespace.clone(), digest: descriptor.digest.clone() };
        let blob = self.content.send(open).await?;
        blocking::run("read a document", move || blob.read_all(MAX_DOCUMENT)).await
    }

    /// Makes a task from a checkpoint. Answers it, and whether the container was made for it.
    ///
    /// After an error nothing is left.
    pub(crate) async fn restore(&self, restore: Restore) -> Result<(TaskInfo, bool)> {
        let Restore { key, checkpoint, stdio } = restore;
        self.check_plugins()?;
        let _hold = self.hold(&key, "restore").await?;
        let namespace = &key.namespace;
        let get = Get { namespace: namespace.clone(), name: checkpoint.clone() };
        let target = self.images.send(get).await?.target;
        let index = self.read(namespace, &target).await?;
        let Some((manifest, _)) = document::read_index(&index)? else {
            return Err(Error::precondition(format!(
                "image {checkpoint} is no checkpoint; make one with `capstan tasks checkpoint`"
            )));
        };
        let parts = document::read_manifest(&self.read(namespace, &manifest).await?)?;
        let saved: Saved = serde_json::from_slice(&self.read(namespace, &parts.config).await?)
            .map_err(|error| Error::corrupt(format!("checkpoint {checkpoint}: {error}")))?;
        let dir = TemporaryDir::make(self.restore_dir(&key)).await.map_err(|error| match error
            .class()
        {
            Class::AlreadyExists => Error::already_exists(format!(
                "container {} is being restored from a checkpoint; start or delete its task first",
                key.id
            )),
            _ => error,
        })?;
        let made = self.make(&key, &dir.0, &checkpoint, saved, &parts, stdio).await;
        match made.is_ok() {
            true => dir.keep(),
            false => dir.remove().await,
        }
        made
    }

    /// Makes the container, unless it is there, and the task.
    async fn make(
        &self,
        key: &TaskKey,
        dir: &Path,
        checkpoint: &str,
        saved: Saved,
        parts: &Parts,
        stdio: runtime::Stdio,
    ) -> Result<(TaskInfo, bool)> {
        let (container, is_made) = match self.router.container(key).await {
            Ok(container) => (container, false),
            Err(error) if error.class() == Class::NotFound => {
                // Before it is made: a crash must not leave one that looks whole and lacks its files.
                fs::write(dir.join(MADE), "")
                    .map_err(|error| Error::io(format!("write {}", dir.display()), error))?;
                (self.make_container(key, checkpoint, saved).await?, true)
            }
            Err(error) => return Err(error),
        };
        let made = async {
            if let (true, Some(layer)) = (is_made, &parts.layer) {
                self.apply(key, layer).await?;
            }
            self.make_task(key, dir, &container, &parts.dump, stdio).await
        };
        let made = made.await;
        if made.is_err() && is_made {
            self.remove_container(key).await;
        }
        Ok((made?, is_made))
    }

    async fn remove_container(&self, key: &TaskKey) {
        let delete = containers::Delete { namespace: key.namespace.clone(), id: key.id.clone() };
        match self.router.containers.send(delete).await {
            Err(error) if error.class() != Class::NotFound => {
                warn!(task = %key, %error, "a container that came to nothing could not be removed");
            }
            _ => {}
        }
    }

    async fn make_container(
        &self,
        key: &TaskKey,
        checkpoint: &str,
        saved: Saved,
    ) -> Result<Container> {
        let mut oci_spec = saved.spec;
        // It gets a cgroup of its own name.
        oci_spec["linux"]["cgroupsPath"] = "".into();
        // It may come from anywhere, and no image says which programs are run on the host.
        if oci_spec.as_object_mut().is_some_and(|spec| spec.remove("hooks").is_some()) {
            warn!(task = %key, checkpoint, "the hooks of a checkpoint are left out");
        }
        let spec = ContainerSpec {
            // Whoever looks for the image in a checkpoint finds it.
            image: if saved.image.is_empty() { String::new() } else { checkpoint.into() },
            rootfs: saved.rootfs,
            oci_spec: serde_json::to_vec(&oci_spec).expect("a JSON value is JSON"),
            snapshotter: saved.snapshotter,
            runtime: saved.runtime,
            labels: saved.labels,
            storage_bytes: saved.storage_bytes,
            ..ContainerSpec::default()
        };
        let create =
            containers::Create { namespace: key.namespace.clone(), id: key.id.clone(), spec };
        self.router.containers.send(create).await
    }

    /// Puts what was changed over the files of the image.
    async fn apply(&self, key: &TaskKey, layer: &Descriptor) -> Result<()> {
        let open = Open { namespace: key.namespace.clone(), digest: layer.digest.clone() };
        let blob = self.content.send(open).await?;
        let apply = Apply {
            layer: LayerStream(Box::new(blob.reader())),
            media_type: layer.media_type.clone(),
            mounts: self.rootfs(key).await?,
            whiteouts: Whiteouts::Remove,
        };
        self.differ.send(apply).await.map(drop)
    }

    async fn make_task(
        &self,
        key: &TaskKey,
        dir: &Path,
        container: &Container,
        dump: &Descriptor,
        stdio: runtime::Stdio,
    ) -> Result<TaskInfo> {
        let open = Open { namespace: key.namespace.clone(), digest: dump.digest.clone() };
        let blob = self.content.send(open).await?;
        let files = dir.join(FILES);
        let place = files.clone();
        blocking::run("unpack a dump", move || {
            let fail = |error| Error::io(format!("make {}", place.display()), error);
            DirBuilder::new().mode(0o700).create(&place).map_err(fail)?;
            dump::unpack(blob.reader(), &place)
        })
        .await?;
        let create = runtime::Create {
            key: key.clone(),
            runtime: container.runtime.clone(),
            spec: Arc::from(container.spec.as_slice()),
            rootfs: self.rootfs(key).await?,
            stdio,
            has_terminal: has_terminal(&container.spec),
        };
        let directory = files.to_string_lossy().into_owned();
        let restore = runtime::Restore { create, directory };
        self.router.runtime(&container.runtime)?.send(restore).await
    }

    /// A task was started, or deleted: what it was to be restored from is needed no more.
    pub(crate) async fn settle(&self, key: &TaskKey) {
        let dir = self.restore_dir(key);
        // Nearly no task has one.
        if !dir.exists() {
            return;
        }
        if let Err(error) = blocking::run("remove a dump", move || tree::remove(&dir)).await {
            warn!(task = %key, %error, "a dump is left; the next start removes it");
        }
    }

    /// What an earlier daemon left. To be looked for before anything new is made.
    pub(crate) fn leftovers(&self) -> Leftovers {
        Leftovers { dumps: list(&self.dumps()), restores: list(&self.restores()) }
    }

    /// Removes what an earlier daemon left. A task that is still to be restored keeps its files.
    pub(crate) async fn sweep(self, left: Leftovers) {
        for (namespace, id, path) in left.dumps {
            info!(path = %path.display(), "an unfinished checkpoint is swept");
            if path.join(PAUSED).exists() {
                self.resume(&namespace, &id).await;
            }
            if let Ok(namespace) = Namespace::parse(&namespace)
                && let Err(error) = self.abort_ingests(&namespace).await
            {
                warn!(%namespace, %error, "what was written of a checkpoint is left");
            }
            if let Ok(namespace) = Namespace::parse(&namespace) {
                self.remove_view(&namespace, &path).await;
            }
            remove(path).await;
        }
        for (namespace, id, path) in left.restores {
            let this = self.clone();
            actix::spawn(async move { this.sweep_restore(&namespace, &id, path).await });
        }
    }

    async fn sweep_restore(&self, namespace: &str, id: &str, path: PathBuf) {
        if let Some(key) = key(namespace, id) {
            let mut looks = 0;
            loop {
                let runtime = self.router.runtime_of(&key).await;
                let task = match runtime {
                    Ok(runtime) => runtime.send(Inspect(key.clone())).await,
                    Err(error) => Err(error),
                };
                match task {
                    // Its start may be under way, and if not its files wait for one.
                    Ok(task) if task.status == Status::Created && looks < START_LOOKS => {
                        looks += 1;
                        tokio::time::sleep(START_LOOK).await;
                        continue;
                    }
                    Ok(task) if task.status == Status::Created => return,
                    Err(error) if error.class() == Class::NotFound && path.join(MADE).exists() => {
                        self.remove_container(&key).await;
                    }
                    _ => {}
                }
                break;
            }
        }
        info!(path = %path.display(), "a dump that nobody restores is swept");
        remove(path).await;
    }

    /// Lets a task go on that was paused for a checkpoint which will not be.
    async fn resume(&self, namespace: &str, id: &str) {
        let Some(key) = key(namespace, id) else { return };
        let resumed = async {
            let runtime = self.router.runtime_of(&key).await?;
            for _ in 0..START_LOOKS {
                // It may still be on its way to be frozen.
                if runtime.send(Inspect(key.clone())).await?.status != Status::Pausing {
                    break;
                }
                tokio::time::sleep(START_LOOK).await;
            }
            runtime.send(Resume(key.clone())).await
        };
        // That it is not paused, or gone, is as good.
        if let Err(error) = resumed.await
            && !matches!(
                error.class(),
                Class::FailedPrecondition | Class::NotFound | Class::Unimplemented
            )
        {
            warn!(task = %key, %error, "it is still paused for a checkpoint that will not be");
        }
    }

    async fn abort_ingests(&self, namespace: &Namespace) -> Result<()> {
        for ingest in self.content.send(Ingests(namespace.clone())).await? {
            if ingest.reference.starts_with(INGEST) {
                let abort = Abort { namespace: namespace.clone(), reference: ingest.reference };
                match self.content.send(abort).await {
                    // That of a checkpoint which is made just now.
                    Err(error) if error.class() == Class::Unavailable => {}
                    outcome => outcome?,
                }
            }
        }
        Ok(())
    }
}

/// Directories that an earlier daemon left: namespace, id, path.
#[derive(Debug, Default)]
pub(crate) struct Leftovers {
    dumps: Vec<(String, String, PathBuf)>,
    restores: Vec<(String, String, PathBuf)>,
}

fn key(namespace: &str, id: &str) -> Option<TaskKey> {
    let (namespace, id) = (Namespace::parse(namespace).ok()?, ContainerId::parse(id).ok()?);
    Some(TaskKey { namespace, id })
}

async fn remove(path: PathBuf) {
    let shown = path.display().to_string();
    if let Err(error) = blocking::run("remove a dump", move || tree::remove(&path)).await {
        warn!(path = shown, %error, "a dump is left");
    }
}

/// Directories two levels down, with their names.
fn list(top: &Path) -> Vec<(String, String, PathBuf)> {
    let names = |dir: &Path| -> Vec<(String, PathBuf)> {
        let entries = fs::read_dir(dir).into_iter().flatten().flatten();
        entries
            .filter_map(|entry| Some((entry.file_name().into_string().ok()?, entry.path())))
            .collect()
    };
    let mut found = Vec::new();
    for (namespace, dir) in names(top) {
        found.extend(names(&dir).into_iter().map(|(name, path)| (namespace.clone(), name, path)));
    }
    found
}
