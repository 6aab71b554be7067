//! The plugin.

use std::time::Duration;

use actix::{
    Actor, Addr, AsyncContext as _, Context as Cell, Handler, ResponseFuture, WrapFuture as _,
};
use capstan_sdk::contract::images::{Image, Presence};
use capstan_sdk::contract::transfer::{Pull, TransferAddr, Unpack};
use capstan_sdk::contract::{Content, Differ, Images, Namespaces, Snapshotter, Transfer};
use capstan_sdk::{
    Context, Digest, Error, Exports, Info, Link, Namespace, Plugin, PluginState, Result,
    export_plugin, rpc,
};

use tokio::sync::watch;

use crate::Config;
use crate::fetch::Fetcher;
use crate::pull::Puller;
use crate::registry::Registry;
use crate::sweep::{self, Leftover};
use crate::unpack::{Target, Unpacker};

/// transfer.local.
pub struct LocalTransfer {
    context: Context,
    config: Config,
    puller: Puller,
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
        requires: &["content", "differ", "images", "namespaces", "snapshotter"],
        rank: 0,
    };
    type Config = Config;

    async fn build(config: Config, context: Context) -> Result<Self> {
        let concurrency = usize::try_from(config.concurrency.max(1)).unwrap_or(1);
        let fetcher = Fetcher::new(context.link::<Content>()?, concurrency);
        let unpacker = Unpacker::new(fetcher.clone(), context.link::<Differ>()?, concurrency);
        let puller = Puller { images: context.link::<Images>()?, fetcher, unpacker };
        let snapshotters = snapshotters(&context)?;
        let leftovers = sweep::find(&snapshotters, &context.link::<Namespaces>()?).await?;
        Ok(Self { context, config, puller, leftovers, is_ending: watch::Sender::new(false) })
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
    let plugins = context.kernel()?.plugins();
    let live = plugins
        .iter()
        .filter(|plugin| plugin.state.is_coming() || plugin.state == PluginState::Running);
    let names = live.filter_map(|plugin| plugin.id.strip_prefix("snapshotter."));
    names.map(|name| context.link_named::<Snapshotter>(name)).collect()
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
        let puller = self.puller.clone();
        Box::pin(async move {
            while !puller.is_idle() {
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
        // One client per pull: its idle connections close with it.
        let registry = Registry::new(self.config.registry());
        let puller = self.puller.clone();
        let end = ending(self.is_ending.subscribe());
        Box::pin(async move {
            tokio::select! {
                biased;
                outcome = puller.pull(registry, pull, target?) => outcome,
                error = end => Err(error),
            }
        })
    }
}

impl Handler<Unpack> for LocalTransfer {
    type Result = ResponseFuture<Result<Option<Digest>>>;
    fn handle(&mut self, unpack: Unpack, _: &mut Cell<Self>) -> Self::Result {
        let target = self.target(&unpack.namespace, &unpack.snapshotter);
        let puller = self.puller.clone();
        let end = ending(self.is_ending.subscribe());
        Box::pin(async move {
            tokio::select! {
                biased;
                outcome = puller.unpack(unpack, target?) => outcome,
                error = end => Err(error),
            }
        })
    }
}

capstan_sdk::not_yet!({} LocalTransfer:
    capstan_sdk::contract::transfer::Import => Vec<capstan_sdk::contract::transfer::Imported>,
    capstan_sdk::contract::transfer::Export => (),
    capstan_sdk::contract::transfer::Diff => capstan_sdk::Descriptor,
    capstan_sdk::contract::transfer::Apply => Digest,
    capstan_sdk::contract::transfer::Refetch => (),
);
