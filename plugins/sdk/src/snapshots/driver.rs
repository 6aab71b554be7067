//! The plugin that every driver becomes.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use actix::{Actor, Addr, Context as Cell, Handler, ResponseFuture};
use capstan_schema::{Error, Labels, Mount, Namespace, Result};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tracing::{debug, info, warn};

use super::ledger::{Ledger, Snapshot};
use super::projects::Projects;
use crate::contract::graph::{Collected, Finding, Flaw, Node};
use crate::contract::snapshotter::{
    Abilities, Ask, Audit, Collect, Commit, CommitChain, Kind, LABEL_EPHEMERAL, LABEL_SCRATCH,
    LABEL_SIZE, Label, List, Measure, Mounts, Nodes, OwnLayer, Prepare, Remove, SnapshotInfo,
    SnapshotterAddr, Stack, Stat, Usage, Use, View, one_namespace, parse_size,
};
use crate::contract::{Listed, Metadata, Snapshotter};
use crate::{Context, Exports, Info, Plugin, blocking, failpoint, rpc, tree};

/// What differs from one snapshotter to the next. All methods but `mounts` and `path` block and are
/// called on the pool for that.
pub trait Driver: Send + Sync + Sized + 'static {
    /// The constant facts; it must require `metadata`.
    const INFO: Info;

    /// What it can do beyond the contract.
    const ABILITIES: Abilities;

    /// Its configuration section.
    type Config: Serialize + DeserializeOwned + Default + Send + 'static;

    /// Opens the driver's directory, `root`, and checks that it can work there. `state` is for what does not
    /// survive a reboot, such as mounts.
    ///
    /// # Errors
    /// Why it cannot.
    fn open(config: Self::Config, root: &Path, state: &Path) -> Result<Self>;

    /// The numbers of all snapshots that are on disk, with or without a record.
    ///
    /// # Errors
    /// What the system says.
    fn numbers(&self) -> Result<Vec<u64>>;

    /// Makes the directories of a new snapshot, with its limit ([`Snapshot::limit`]) if it can have one.
    ///
    /// # Errors
    /// What the system says; `Corrupt` if the parent is gone.
    fn make(&self, snapshot: &Snapshot) -> Result<()>;

    /// What limits are kept by, for a driver whose snapshots are directories.
    fn projects(&self) -> Option<&Projects> {
        None
    }

    /// Whether what a snapshot takes can be limited where the driver is. It is asked before one with a limit is made, and
    /// before each time that it is mounted; only with [`Abilities::can_limit`].
    ///
    /// # Errors
    /// `Unimplemented`: why not, and what to do.
    fn can_limit(&self) -> Result<()> {
        self.projects().map_or(Ok(()), Projects::check)
    }

    /// Changes the limit of an active snapshot. `None`: it has none from now on. Only with [`Abilities::can_limit`].
    ///
    /// # Errors
    /// `FailedPrecondition`: it was made without one. What the system says.
    fn limit(&self, snapshot: &Snapshot, bytes: Option<u64>) -> Result<()> {
        self.projects().map_or(Ok(()), |projects| projects.change(snapshot, bytes))
    }

    /// Removes the directories of a snapshot, and its limit; that there are none is fine.
    ///
    /// # Errors
    /// What the system says.
    fn remove(&self, id: u64) -> Result<()>;

    /// Writes snapshots to disk, so that they survive a power cut: one, but for a driver that can chain.
    ///
    /// # Errors
    /// What the system says.
    fn sync(&self, ids: &[u64]) -> Result<()>;

    /// Makes the directories of a new active snapshot survive a power cut; what is written into it later is not
    /// meant.
    ///
    /// # Errors
    /// What the system says.
    fn keep(&self, snapshot: &Snapshot) -> Result<()> {
        let path = self.path(snapshot.id);
        tree::sync_dirs(path.ancestors().take(3))
    }

    /// Whether [`Driver::committed`] does something, also for a snapshot without a limit.
    const IS_TIDYING: bool = false;

    /// Its record says now that it is committed: what only an active one needs can go. That it cannot is for the log.
    ///
    /// # Errors
    /// What the system says.
    fn committed(&self, id: u64) -> Result<()> {
        if let Some(projects) = self.projects() {
            projects.settle(id);
        }
        Ok(())
    }

    /// What has to be mounted to see an active snapshot or a view.
    fn mounts(&self, snapshot: &Snapshot) -> Vec<Mount>;

    /// The snapshot's own files.
    fn path(&self, id: u64) -> PathBuf;

    /// What is wrong with what lies on disk of a snapshot that has a record. `is_full`: what takes reading it, too.
    ///
    /// # Errors
    /// It cannot be looked at.
    fn check(&self, snapshot: &Snapshot, _is_full: bool) -> Result<Option<(Flaw, String)>> {
        let path = self.path(snapshot.id);
        // A view of a parent may do without files of its own.
        let is_needed = snapshot.info.kind != Kind::View || snapshot.parent_ids.is_empty();
        Ok((is_needed && !path.exists())
            .then(|| (Flaw::Missing, format!("its files are gone: {}", path.display()))))
    }

    /// What lies in the driver's directory and is no snapshot.
    ///
    /// # Errors
    /// What the system says.
    fn strays(&self) -> Result<Vec<PathBuf>> {
        Ok(Vec::new())
    }

    /// A mount of the snapshot's own layer, writable, whatever its kind.
    ///
    /// # Errors
    /// `Unimplemented`: it has none that could be mounted.
    fn own_layer(&self, snapshot: &Snapshot) -> Result<Mount> {
        Ok(Mount {
            kind: "bind".into(),
            source: self.path(snapshot.id).to_string_lossy().into_owned(),
            options: vec!["rw".into(), "rbind".into()],
        })
    }

    /// Makes the place of a committed snapshot's own layer anew, empty, if it is gone: it is about to be put back from a
    /// blob. Nothing else of the snapshot changes.
    ///
    /// # Errors
    /// What the system says.
    fn make_own_layer(&self, snapshot: &Snapshot) -> Result<()> {
        let path = self.path(snapshot.id);
        fs::create_dir_all(&path)
            .map_err(|error| Error::io(format!("make directory {}", path.display()), error))
    }

    /// What a snapshot's own data takes.
    ///
    /// # Errors
    /// What the system says.
    fn measure(&self, snapshot: &Snapshot) -> Result<Usage> {
        tree::measure(&self.path(snapshot.id))
    }

    /// Makes sure that what [`Driver::mounts`] tells can be mounted. Only for a driver with [`Driver::IS_ATTACHING`].
    ///
    /// # Errors
    /// What the system says; `Corrupt`: a layer is gone.
    fn attach(&self, _snapshot: &Snapshot) -> Result<()> {
        Ok(())
    }

    /// Whether there is something to do before mounts can be used.
    const IS_ATTACHING: bool = false;

    /// Tells at the start, once, which snapshots are active or views: what an instance before attached for others can
    /// be let go. Only for a driver with [`Driver::IS_ATTACHING`].
    ///
    /// # Errors
    /// What the system says.
    fn adopt(&self, _live: &[Snapshot]) -> Result<()> {
        Ok(())
    }

    /// Before an orderly end: lets go of all that is attached. The next instance attaches it again where it is asked.
    fn rest(&self) {}
}

/// The entries of a directory that are no numbers.
///
/// # Errors
/// What the system says.
pub fn strays(dir: &Path) -> Result<Vec<PathBuf>> {
    let fail = |error| Error::io(format!("list {}", dir.display()), error);
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).map_err(fail)? {
        let entry = entry.map_err(fail)?;
        if entry.file_name().to_str().and_then(|name| name.parse::<u64>().ok()).is_none() {
            found.push(entry.path());
        }
    }
    Ok(found)
}

fn can_chain<D: Driver>() -> Result<()> {
    match D::ABILITIES.can_chain {
        true => Ok(()),
        false => Err(Error::unimplemented(format!(
            "{} commits layers one after the other; ask it for its abilities",
            D::INFO.id
        ))),
    }
}

/// The limit that labels ask for.
fn wanted_limit<D: Driver>(kind: Kind, labels: &Labels) -> Result<Option<u64>> {
    let Some(text) = labels.get(LABEL_SIZE) else { return Ok(None) };
    let bytes = parse_size(text)?;
    if kind != Kind::Active {
        return Err(Error::invalid(format!(
            "{LABEL_SIZE}: only an active snapshot has a limit, and not a {} one",
            kind.name()
        )));
    }
    if !D::ABILITIES.can_limit {
        return Err(Error::unimplemented(format!(
            "{} cannot limit the size of a snapshot; use overlay, native, erofs or btrfs",
            D::INFO.id
        )));
    }
    Ok(Some(bytes))
}

/// Whether who has the key of a snapshot expects it to be there after a power cut.
fn is_to_stay(snapshot: &Snapshot) -> bool {
    let labels = &snapshot.info.labels;
    let is_passing = [LABEL_EPHEMERAL, LABEL_SCRATCH].iter().any(|&key| labels.contains_key(key));
    snapshot.info.kind == Kind::Active && !is_passing
}

/// The entries of a directory that are numbers.
///
/// # Errors
/// What the system says.
pub fn numbers(dir: &Path) -> Result<Vec<u64>> {
    let fail = |error| Error::io(format!("list {}", dir.display()), error);
    let mut numbers = Vec::new();
    for entry in fs::read_dir(dir).map_err(fail)? {
        let name = entry.map_err(fail)?.file_name();
        numbers.extend(name.to_str().and_then(|name| name.parse::<u64>().ok()));
    }
    Ok(numbers)
}

/// A driver as a plugin.
pub struct DriverPlugin<D> {
    pub(super) ledger: Ledger,
    pub(super) driver: Arc<D>,
}

impl<D> Clone for DriverPlugin<D> {
    fn clone(&self) -> Self {
        Self { ledger: self.ledger.clone(), driver: Arc::clone(&self.driver) }
    }
}

impl<D: Driver> std::fmt::Debug for DriverPlugin<D> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(D::INFO.id)
    }
}

impl<D: Driver> Plugin for DriverPlugin<D> {
    const INFO: Info = D::INFO;
    type Config = D::Config;

    async fn build(config: D::Config, context: Context) -> Result<Self> {
        let (root, state) = (context.root_dir()?, context.state_dir()?);
        let (driver, numbers) = blocking::run("open the snapshots", move || {
            let driver = D::open(config, &root, &state)?;
            let numbers = driver.numbers()?;
            Ok((driver, numbers))
        })
        .await?;
        let driver = Arc::new(driver);
        let metadata = context.link::<Metadata>()?;
        let (ledger, records) = Ledger::open(D::INFO.id, metadata, numbers.iter().copied()).await?;
        let known = records.iter().map(|snapshot| snapshot.id).collect();
        sweep(&driver, &numbers, &known);
        if D::IS_ATTACHING {
            let is_live = |snapshot: &Snapshot| snapshot.info.kind != Kind::Committed;
            let live: Vec<Snapshot> = records.into_iter().filter(is_live).collect();
            let adopting = Arc::clone(&driver);
            blocking::run("look for attached layers", move || adopting.adopt(&live)).await?;
        }
        Ok(Self { ledger, driver })
    }

    fn export(addr: &Addr<Self>, context: &Context, exports: &mut Exports) {
        exports.contract::<Snapshotter>(SnapshotterAddr::from(addr));
        let link = context.link_self::<Snapshotter>();
        exports.service(move |_peer, namespace| rpc::snapshotter::serve(link.clone(), namespace));
        let addr = addr.clone();
        exports.drain(move || {
            let settled = addr.send(Settle);
            // It fails only if the actor has ended already.
            async move { settled.await.unwrap_or(Ok(())).map(|()| Vec::new()) }
        });
    }
}

/// Removes what a crash left on disk without a record, while the daemon is already at work.
fn sweep<D: Driver>(driver: &Arc<D>, numbers: &[u64], known: &HashSet<u64>) {
    let orphans: Vec<u64> = numbers.iter().copied().filter(|id| !known.contains(id)).collect();
    if orphans.is_empty() {
        return;
    }
    info!(plugin = D::INFO.id, count = orphans.len(), "snapshots without a record are swept");
    let driver = Arc::clone(driver);
    tokio::task::spawn_blocking(move || {
        for id in orphans {
            if let Err(error) = driver.remove(id) {
                warn!(plugin = D::INFO.id, id, %error, "a snapshot could not be swept");
            }
        }
    });
}

impl<D: Driver> Actor for DriverPlugin<D> {
    type Context = Cell<Self>;
}

impl<D: Driver> DriverPlugin<D> {
    async fn make(
        self,
        namespace: Namespace,
        key: String,
        parent: String,
        kind: Kind,
        labels: Labels,
    ) -> Result<Vec<Mount>> {
        if wanted_limit::<D>(kind, &labels)?.is_some() {
            self.can_limit().await?;
        }
        let draft = self.ledger.draft(&namespace, &key, &parent, kind, labels).await?;
        let (driver, snapshot) = (Arc::clone(&self.driver), draft.snapshot.clone());
        let id = snapshot.id;
        let made = async {
            blocking::run("make a snapshot", move || {
                driver.make(&snapshot)?;
                if is_to_stay(&snapshot) { driver.keep(&snapshot) } else { Ok(()) }
            })
            .await?;
            failpoint::at("snapshot:made");
            self.ledger.create(&namespace, &draft).await
        };
        match made.await {
            Ok(snapshot) => self.mounts_of(snapshot).await,
            Err(error) => {
                self.discard(id).await;
                Err(error)
            }
        }
    }

    async fn can_limit(&self) -> Result<()> {
        let driver = Arc::clone(&self.driver);
        let can = blocking::run("look for quotas", move || driver.can_limit()).await;
        can.map_err(|error| error.at(D::INFO.id))
    }

    /// Changes labels. A limit that cannot be changed stays as it is, with its label.
    async fn label(self, label: Label) -> Result<SnapshotInfo> {
        let Label { namespace, key, labels } = label;
        if let Some(text) = labels.get(LABEL_SIZE) {
            let snapshot = self.ledger.get(&namespace, &key).await?;
            if snapshot.info.kind != Kind::Active {
                return Err(Error::precondition(format!(
                    "snapshot {key:?} is not active, so it has no limit ({LABEL_SIZE})"
                )));
            }
            let limit = match text.as_str() {
                "" => None,
                _ => wanted_limit::<D>(Kind::Active, &labels)?,
            };
            if limit.is_some() {
                self.can_limit().await?;
            }
            let driver = Arc::clone(&self.driver);
            blocking::run("limit a snapshot", move || driver.limit(&snapshot, limit)).await?;
        }
        self.ledger.label(&namespace, &key, &labels).await
    }

    async fn mounts_of(&self, snapshot: Snapshot) -> Result<Vec<Mount>> {
        if snapshot.limit().is_some() {
            // The file system may be mounted otherwise since.
            self.can_limit().await?;
        }
        if !D::IS_ATTACHING {
            return Ok(self.driver.mounts(&snapshot));
        }
        let driver = Arc::clone(&self.driver);
        blocking::run("attach the layers of a snapshot", move || {
            driver.attach(&snapshot)?;
            Ok(driver.mounts(&snapshot))
        })
        .await
    }

    /// Removes what has no record. If that fails it is left to the next start.
    pub(super) async fn discard(&self, id: u64) {
        let driver = Arc::clone(&self.driver);
        if let Err(error) = blocking::run("remove a snapshot", move || driver.remove(id)).await {
            warn!(plugin = D::INFO.id, id, %error, "a snapshot without a record is still on disk");
        }
    }

    /// Commits snapshots in order, each of which may stand on one before it.
    async fn commit(self, commits: Vec<Commit>) -> Result<()> {
        let mut ids = Vec::with_capacity(commits.len());
        let mut is_tidying = D::IS_TIDYING;
        for Commit { namespace, name, key, rebase, labels } in &commits {
            wanted_limit::<D>(Kind::Committed, labels)?;
            if rebase.is_some() && !D::ABILITIES.can_rebase {
                return Err(Error::unimplemented(format!(
                    "{} cannot put a snapshot on another parent; prepare it on its parent",
                    D::INFO.id
                )));
            }
            let (snapshot, _) = self.ledger.check_commit(namespace, name, key).await?;
            is_tidying |= snapshot.limit().is_some();
            ids.push(snapshot.id);
        }
        let ids: Arc<[u64]> = ids.into();
        let (driver, synced) = (Arc::clone(&self.driver), Arc::clone(&ids));
        // Data first, then the name (DESIGN.md, section 6).
        failpoint::at("snapshot:filled");
        let synced = blocking::run("sync snapshots", move || driver.sync(&synced)).await;
        synced.inspect_err(|_| self.ledger.doubt())?;
        failpoint::at("snapshot:synced");
        self.ledger.commit(&commits).await?;
        if !is_tidying {
            return Ok(());
        }
        let driver = Arc::clone(&self.driver);
        let tidied = blocking::run("tidy snapshots", move || {
            ids.iter().try_for_each(|&id| driver.committed(id))
        });
        if let Err(error) = tidied.await {
            warn!(plugin = D::INFO.id, %error, "what only an active one needs is still there");
        }
        Ok(())
    }

    /// As [`Commit`] for several, where the driver can.
    async fn commit_chain(self, commits: Vec<Commit>) -> Result<()> {
        can_chain::<D>()?;
        match one_namespace(&commits)? {
            Some(_) => self.commit(commits).await,
            None => Ok(()),
        }
    }

    async fn stack(self, stack: Stack) -> Result<Vec<Mount>> {
        can_chain::<D>()?;
        let snapshot = self.ledger.stack(&stack.namespace, &stack.layers).await?;
        Ok(self.driver.mounts(&snapshot))
    }

    async fn mounts(self, mounts: Mounts) -> Result<Vec<Mount>> {
        let snapshot = self.ledger.use_(&mounts.namespace, &mounts.key).await?;
        if snapshot.info.kind == Kind::Committed {
            return Err(Error::precondition(format!(
                "snapshot {:?} is committed: make a view of it",
                mounts.key
            )));
        }
        self.mounts_of(snapshot).await
    }

    async fn measure(self, measure: Measure) -> Result<Usage> {
        let snapshot = self.ledger.get(&measure.namespace, &measure.key).await?;
        self.usage(&measure.namespace, snapshot).await
    }

    /// What a snapshot takes. A committed one is walked once.
    pub(super) async fn usage(&self, namespace: &Namespace, snapshot: Snapshot) -> Result<Usage> {
        if let Some(usage) = snapshot.usage {
            return Ok(usage);
        }
        let (driver, measured) = (Arc::clone(&self.driver), snapshot.clone());
        let usage = blocking::run("measure a snapshot", move || driver.measure(&measured)).await?;
        if snapshot.info.kind == Kind::Committed
            && let Err(error) = self.ledger.keep_usage(namespace, &snapshot, usage).await
        {
            // It is walked again then; so it is when the disk is full.
            debug!(plugin = D::INFO.id, key = snapshot.info.key, %error, "its usage is not kept");
        }
        Ok(usage)
    }
}

impl<D: Driver> Handler<Prepare> for DriverPlugin<D> {
    type Result = ResponseFuture<Result<Vec<Mount>>>;
    fn handle(&mut self, p: Prepare, _: &mut Cell<Self>) -> Self::Result {
        Box::pin(self.clone().make(p.namespace, p.key, p.parent, Kind::Active, p.labels))
    }
}

impl<D: Driver> Handler<View> for DriverPlugin<D> {
    type Result = ResponseFuture<Result<Vec<Mount>>>;
    fn handle(&mut self, v: View, _: &mut Cell<Self>) -> Self::Result {
        Box::pin(self.clone().make(v.namespace, v.key, v.parent, Kind::View, v.labels))
    }
}

impl<D: Driver> Handler<Mounts> for DriverPlugin<D> {
    type Result = ResponseFuture<Result<Vec<Mount>>>;
    fn handle(&mut self, mounts: Mounts, _: &mut Cell<Self>) -> Self::Result {
        Box::pin(self.clone().mounts(mounts))
    }
}

impl<D: Driver> Handler<Commit> for DriverPlugin<D> {
    type Result = ResponseFuture<Result<()>>;
    fn handle(&mut self, commit: Commit, _: &mut Cell<Self>) -> Self::Result {
        Box::pin(self.clone().commit(vec![commit]))
    }
}

impl<D: Driver> Handler<CommitChain> for DriverPlugin<D> {
    type Result = ResponseFuture<Result<()>>;
    fn handle(&mut self, CommitChain(commits): CommitChain, _: &mut Cell<Self>) -> Self::Result {
        Box::pin(self.clone().commit_chain(commits))
    }
}

impl<D: Driver> Handler<Stack> for DriverPlugin<D> {
    type Result = ResponseFuture<Result<Vec<Mount>>>;
    fn handle(&mut self, stack: Stack, _: &mut Cell<Self>) -> Self::Result {
        Box::pin(self.clone().stack(stack))
    }
}

impl<D: Driver> Handler<Remove> for DriverPlugin<D> {
    type Result = ResponseFuture<Result<()>>;
    fn handle(&mut self, remove: Remove, _: &mut Cell<Self>) -> Self::Result {
        let plugin = self.clone();
        Box::pin(async move {
            let going = plugin.ledger.remove(&remove.namespace, &remove.key).await?;
            failpoint::at("snapshot:forgotten");
            plugin.discard(going.snapshot.id).await;
            Ok(())
        })
    }
}

impl<D: Driver> Handler<Stat> for DriverPlugin<D> {
    type Result = ResponseFuture<Result<SnapshotInfo>>;
    fn handle(&mut self, stat: Stat, _: &mut Cell<Self>) -> Self::Result {
        let ledger = self.ledger.clone();
        Box::pin(async move { Ok(ledger.get(&stat.namespace, &stat.key).await?.info) })
    }
}

impl<D: Driver> Handler<List> for DriverPlugin<D> {
    type Result = ResponseFuture<Result<Listed<SnapshotInfo>>>;
    fn handle(&mut self, list: List, _: &mut Cell<Self>) -> Self::Result {
        let ledger = self.ledger.clone();
        Box::pin(async move { ledger.list(&list.namespace, list.page).await })
    }
}

impl<D: Driver> Handler<Measure> for DriverPlugin<D> {
    type Result = ResponseFuture<Result<Usage>>;
    fn handle(&mut self, measure: Measure, _: &mut Cell<Self>) -> Self::Result {
        Box::pin(self.clone().measure(measure))
    }
}

impl<D: Driver> Handler<Ask> for DriverPlugin<D> {
    type Result = Result<Abilities>;
    fn handle(&mut self, _: Ask, _: &mut Cell<Self>) -> Self::Result {
        Ok(D::ABILITIES)
    }
}

impl<D: Driver> Handler<Label> for DriverPlugin<D> {
    type Result = ResponseFuture<Result<SnapshotInfo>>;
    fn handle(&mut self, label: Label, _: &mut Cell<Self>) -> Self::Result {
        Box::pin(self.clone().label(label))
    }
}

impl<D: Driver> Handler<Use> for DriverPlugin<D> {
    type Result = ResponseFuture<Result<SnapshotInfo>>;
    fn handle(&mut self, message: Use, _: &mut Cell<Self>) -> Self::Result {
        let ledger = self.ledger.clone();
        Box::pin(async move { Ok(ledger.use_(&message.namespace, &message.key).await?.info) })
    }
}

impl<D: Driver> Handler<Collect> for DriverPlugin<D> {
    type Result = ResponseFuture<Result<Collected>>;
    fn handle(&mut self, collect: Collect, _: &mut Cell<Self>) -> Self::Result {
        Box::pin(self.clone().collect(collect))
    }
}

impl<D: Driver> Handler<Nodes> for DriverPlugin<D> {
    type Result = ResponseFuture<Result<Vec<Node>>>;
    fn handle(&mut self, Nodes(namespace): Nodes, _: &mut Cell<Self>) -> Self::Result {
        Box::pin(self.clone().nodes(namespace))
    }
}

impl<D: Driver> Handler<Audit> for DriverPlugin<D> {
    type Result = ResponseFuture<Result<Vec<Finding>>>;
    fn handle(&mut self, audit: Audit, _: &mut Cell<Self>) -> Self::Result {
        Box::pin(self.clone().audit(audit))
    }
}

impl<D: Driver> Handler<OwnLayer> for DriverPlugin<D> {
    type Result = ResponseFuture<Result<Vec<Mount>>>;
    fn handle(&mut self, own: OwnLayer, _: &mut Cell<Self>) -> Self::Result {
        let plugin = self.clone();
        Box::pin(async move {
            let snapshot = plugin.ledger.use_(&own.namespace, &own.key).await?;
            let mount = plugin.driver.own_layer(&snapshot)?;
            if snapshot.info.kind == Kind::Committed {
                let driver = Arc::clone(&plugin.driver);
                blocking::run("make a layer's place", move || driver.make_own_layer(&snapshot))
                    .await?;
            }
            Ok(vec![mount])
        })
    }
}

/// Before an orderly end.
struct Settle;

impl actix::Message for Settle {
    type Result = Result<()>;
}

impl<D: Driver> Handler<Settle> for DriverPlugin<D> {
    type Result = ResponseFuture<Result<()>>;
    fn handle(&mut self, _: Settle, _: &mut Cell<Self>) -> Self::Result {
        let plugin = self.clone();
        Box::pin(async move {
            let settled = plugin.ledger.settle(None).await;
            if D::IS_ATTACHING {
                let rest = move || {
                    plugin.driver.rest();
                    Ok(())
                };
                blocking::run("let go of layers", rest).await?;
            }
            settled
        })
    }
}
