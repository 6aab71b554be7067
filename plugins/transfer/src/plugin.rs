//! The plugin.

use std::rc::Rc;
use std::time::Duration;

use actix::{
    Actor, Addr, AsyncContext as _, Context as Cell, Handler, ResponseFuture, WrapFuture as _,
};
use capstan_sdk::contract::access::Secret;
use capstan_sdk::contract::images::{Image, Presence};
use capstan_sdk::contract::leases::TakeHold;
use capstan_sdk::contract::transfer::{
    Apply, CheckLogin, CopyImage, Diff, Export, GetObject, Import, Imported, ListReferrers, Pull,
    Push, PutObject, Referrer, Refetch, Stored, TransferAddr, Unpack,
};
use capstan_sdk::contract::{Content, Differ, Images, Leases, Namespaces, Snapshotter, Transfer};
use capstan_sdk::{
    Context, Descriptor, Digest, Error, Exports, Info, Link, Namespace, Plugin, Result,
    export_plugin, rpc,
};

use tokio::sync::{Mutex, watch};

use crate::Config;
use crate::convert::Packings;
use crate::export::Exporter;
use crate::fetch::Fetcher;
use crate::import::Importer;
use crate::layer::Layers;
use crate::login;
use crate::object;
use crate::pull::Puller;
use crate::push::{Pusher, Uploads};
use crate::referrers;
use crate::refetch;
use crate::registry::Registry;
use crate::sweep::{self, Leftover};
use crate::unpack::{Target, Unpacker};

/// transfer.local.
pub struct LocalTransfer {
    context: Context,
    config: Config,
    content: Link<Content>,
    leases: Link<Leases>,
    puller: Puller,
    /// Each call takes another one, of which the idle connections and what it knows of credentials end with the call.
    registry: Registry,
    uploads: Uploads,
    packings: Packings,
    referring: Rc<Mutex<()>>,
    leftovers: Vec<Leftover>,
    /// Whether it is about to end.
    is_ending: watch::Sender<bool>,
}

/// How often it is looked whether all that was under way has cleaned up.
const LOOK: Duration = Duration::from_millis(2);

/// Ends what is under way, and answers when that has cleaned up. Those who wait for it ask the next instance.
#[derive(Debug)]
struct End;

impl actix::Message for End {
    type Result = ();
}

impl std::fmt::Debug for LocalTransfer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LocalTransfer")
    }
}

export_plugin!(LocalTransfer);

impl Plugin for LocalTransfer {
    const INFO: Info = Info {
        id: "transfer.local",
        version: env!("CARGO_PKG_VERSION"),
        about: "images from registries into content and snapshots",
        requires: &["content", "differ", "images", "leases", "namespaces", "snapshotter"],
        rank: 0,
    };
    type Config = Config;

    async fn build(config: Config, context: Context) -> Result<Self> {
        let concurrency = usize::try_from(config.concurrency.max(1)).unwrap_or(1);
        let content = context.link::<Content>()?;
        let fetcher = Fetcher::new(content.clone(), concurrency);
        let unpacker = Unpacker::new(fetcher.clone(), context.link::<Differ>()?, concurrency);
        let puller = Puller { images: context.link::<Images>()?, fetcher, unpacker };
        let snapshotters = snapshotters(&context)?;
        let leftovers = sweep::find(&snapshotters, &context.link::<Namespaces>()?).await?;
        let is_ending = watch::Sender::new(false);
        let leases = context.link::<Leases>()?;
        let registry = Registry::new(config.registry());
        let (uploads, packings) = (Uploads::default(), Packings::default());
        Ok(Self {
            context,
            config,
            content,
            leases,
            puller,
            registry,
            uploads,
            packings,
            referring: Rc::default(),
            leftovers,
            is_ending,
        })
    }

    fn export(addr: &Addr<Self>, context: &Context, exports: &mut Exports) {
        exports.contract::<Transfer>(TransferAddr::from(addr));
        let link = context.link_self::<Transfer>();
        exports.service(move |_peer, namespace| rpc::transfer::serve(link.clone(), namespace));
        let addr = addr.clone();
        exports.drain(move || {
            let ended = addr.send(End);
            async move {
                // It fails only if the actor has ended already.
                let _ = ended.await;
                Ok(Vec::new())
            }
        });
    }
}

fn snapshotters(context: &Context) -> Result<Vec<Link<Snapshotter>>> {
    Ok(context.links::<Snapshotter>()?.into_iter().map(|(_, link)| link).collect())
}

impl Actor for LocalTransfer {
    type Context = Cell<Self>;

    fn started(&mut self, cell: &mut Cell<Self>) {
        let leftovers = std::mem::take(&mut self.leftovers);
        cell.spawn(sweep::remove(leftovers).into_actor(self));
    }
}

impl LocalTransfer {
    fn target(&self, namespace: &Namespace, name: &str) -> Result<Target> {
        let snapshotter = self.context.link_named::<Snapshotter>(name)?;
        let id = snapshotter.id()?.to_string();
        Ok(Target { namespace: namespace.clone(), snapshotter, id })
    }

    fn pusher(&self) -> Pusher {
        Pusher {
            images: self.puller.images.clone(),
            content: self.content.clone(),
            registry: self.registry.another(),
            config: self.config.clone(),
            uploads: self.uploads.clone(),
            packings: self.packings.clone(),
            referring: Rc::clone(&self.referring),
        }
    }

    fn layers(&self) -> Layers {
        Layers { content: self.content.clone(), differ: self.puller.unpacker.differ.clone() }
    }

    /// Works until it is done, or until the plugin is about to end. What the work uses in the namespace is kept
    /// meanwhile; should that not be so any more, it is broken off, to be done anew.
    fn held<T: 'static>(
        &self,
        (namespace, owner): (Namespace, String),
        work: impl Future<Output = Result<T>> + 'static,
    ) -> ResponseFuture<Result<T>> {
        let end = ending(self.is_ending.subscribe());
        let leases = self.leases.clone();
        Box::pin(async move {
            let hold = leases.send(TakeHold { namespace, owner }).await?;
            tokio::select! {
                biased;
                outcome = work => outcome,
                error = end => Err(error),
                () = hold.broken() => {
                    Err(Error::broken_off("the leases plugin was restarted; try again"))
                }
            }
        })
    }
}

/// Waits until the plugin is about to end; the error makes the call go to the next instance.
async fn ending(mut is_ending: watch::Receiver<bool>) -> Error {
    // An error means the same.
    let _ = is_ending.wait_for(|is_ending| *is_ending).await;
    Error::broken_off("transfer.local is being restarted; try again")
}

impl Handler<End> for LocalTransfer {
    type Result = ResponseFuture<()>;
    fn handle(&mut self, _: End, _: &mut Cell<Self>) -> Self::Result {
        self.is_ending.send_replace(true);
        let (puller, pusher) = (self.puller.clone(), self.pusher());
        Box::pin(async move {
            while !puller.is_idle() || !pusher.is_idle() {
                tokio::time::sleep(LOOK).await;
            }
        })
    }
}

impl Handler<Pull> for LocalTransfer {
    type Result = ResponseFuture<Result<(Image, Presence)>>;
    fn handle(&mut self, pull: Pull, _: &mut Cell<Self>) -> Self::Result {
        let target = match pull.is_unpacked {
            true => self.target(&pull.namespace, &pull.snapshotter).map(Some),
            false => Ok(None),
        };
        let registry = self.registry.another();
        let puller = self.puller.clone();
        let held = (pull.namespace.clone(), format!("pull {}", pull.reference));
        self.held(held, async move { puller.pull(registry, pull, target?).await })
    }
}

impl Handler<Unpack> for LocalTransfer {
    type Result = ResponseFuture<Result<Option<Digest>>>;
    fn handle(&mut self, unpack: Unpack, _: &mut Cell<Self>) -> Self::Result {
        let target = self.target(&unpack.namespace, &unpack.snapshotter);
        let puller = self.puller.clone();
        let held = (unpack.namespace.clone(), format!("unpack {}", unpack.image));
        self.held(held, async move { puller.unpack(unpack, target?).await })
    }
}

impl Handler<Import> for LocalTransfer {
    type Result = ResponseFuture<Result<Vec<Imported>>>;
    fn handle(&mut self, import: Import, _: &mut Cell<Self>) -> Self::Result {
        let target = match import.is_unpacked {
            true => self.target(&import.namespace, &import.snapshotter).map(Some),
            false => Ok(None),
        };
        let importer = Importer {
            puller: self.puller.clone(),
            content: self.content.clone(),
            max_document_bytes: self.config.max_manifest_bytes,
        };
        let held = (import.namespace.clone(), "import".to_owned());
        self.held(held, async move { importer.import(import, target?).await })
    }
}

impl Handler<Export> for LocalTransfer {
    type Result = ResponseFuture<Result<()>>;
    fn handle(&mut self, export: Export, _: &mut Cell<Self>) -> Self::Result {
        let exporter = Exporter {
            images: self.puller.images.clone(),
            content: self.content.clone(),
            max_document_bytes: self.config.max_manifest_bytes,
            namespace: export.namespace.clone(),
            platform: export.platform.clone(),
        };
        let held = (export.namespace.clone(), format!("export {}", export.names.join(" ")));
        self.held(held, exporter.export(export))
    }
}

impl Handler<Diff> for LocalTransfer {
    type Result = ResponseFuture<Result<Stored>>;
    fn handle(&mut self, diff: Diff, _: &mut Cell<Self>) -> Self::Result {
        let target = self.target(&diff.namespace, &diff.snapshotter);
        let layers = self.layers();
        let held = (diff.namespace.clone(), format!("diff of snapshot {}", diff.key));
        self.held(held, async move { layers.diff(diff, target?).await })
    }
}

impl Handler<Apply> for LocalTransfer {
    type Result = ResponseFuture<Result<Digest>>;
    fn handle(&mut self, apply: Apply, _: &mut Cell<Self>) -> Self::Result {
        let target = self.target(&apply.namespace, &apply.snapshotter);
        let layers = self.layers();
        let held = (apply.namespace.clone(), format!("apply to snapshot {}", apply.key));
        self.held(held, async move { layers.apply(apply, target?).await })
    }
}

impl Handler<Refetch> for LocalTransfer {
    type Result = ResponseFuture<Result<()>>;
    fn handle(&mut self, refetch: Refetch, _: &mut Cell<Self>) -> Self::Result {
        let registry = self.registry.another();
        let held = (refetch.namespace.clone(), format!("refetch {}", refetch.digest));
        let content = self.content.clone();
        self.held(held, async move { refetch::refetch(content, registry, refetch).await })
    }
}

impl Handler<Push> for LocalTransfer {
    type Result = ResponseFuture<Result<Descriptor>>;
    fn handle(&mut self, push: Push, _: &mut Cell<Self>) -> Self::Result {
        let pusher = self.pusher();
        let held = (push.namespace.clone(), format!("push {}", push.reference));
        self.held(held, pusher.push(push))
    }
}

impl Handler<CopyImage> for LocalTransfer {
    type Result = ResponseFuture<Result<Descriptor>>;
    fn handle(&mut self, copy: CopyImage, _: &mut Cell<Self>) -> Self::Result {
        let (pusher, fetcher) = (self.pusher(), self.puller.fetcher.clone());
        let what = format!("copy {} to {}", copy.source, copy.target);
        self.held((copy.namespace.clone(), what), pusher.copy(fetcher, copy))
    }
}

impl Handler<GetObject> for LocalTransfer {
    type Result = ResponseFuture<Result<()>>;
    fn handle(&mut self, get: GetObject, _: &mut Cell<Self>) -> Self::Result {
        let registry = self.registry.another();
        Box::pin(object::get(registry, get))
    }
}

impl Handler<PutObject> for LocalTransfer {
    type Result = ResponseFuture<Result<()>>;
    fn handle(&mut self, put: PutObject, _: &mut Cell<Self>) -> Self::Result {
        let held = (put.namespace.clone(), format!("put {}", put.reference));
        self.held(held, object::put(self.pusher(), put))
    }
}

impl Handler<ListReferrers> for LocalTransfer {
    type Result = ResponseFuture<Result<Vec<Referrer>>>;
    fn handle(&mut self, list: ListReferrers, _: &mut Cell<Self>) -> Self::Result {
        let registry = self.registry.another();
        Box::pin(referrers::list(registry, list))
    }
}

impl Handler<CheckLogin> for LocalTransfer {
    type Result = ResponseFuture<Result<Option<Secret>>>;
    fn handle(&mut self, check: CheckLogin, _: &mut Cell<Self>) -> Self::Result {
        let registry = self.registry.another();
        Box::pin(login::check(registry, check))
    }
}
