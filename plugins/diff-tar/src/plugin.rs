//! The plugin: mounts the tree where nobody else sees it, and works in it.

use std::path::PathBuf;

use actix::{Actor, Addr, Context as Cell, Handler, ResponseFuture};
use capstan_sdk::contract::Differ;
use capstan_sdk::contract::differ::{
    Applied, Apply, Diff, Diffed, DifferAddr, Difference, Settle, Verify,
};
use capstan_sdk::mount::{for_reading, with_mounted};
use capstan_sdk::{Context, Error, Exports, Info, Plugin, Result, blocking, export_plugin};
use tracing::debug;

use crate::upper::{parents, source};
use crate::{Config, Parents, apply, diff, settle, verify};

/// differ.tar.
#[derive(Debug)]
pub struct TarDiffer {
    config: Config,
    /// Where trees are mounted, each in a mount namespace of its own.
    place: PathBuf,
}

export_plugin!(TarDiffer);

impl Plugin for TarDiffer {
    const INFO: Info = Info {
        id: "differ.tar",
        version: env!("CARGO_PKG_VERSION"),
        about: "layer archives in and out of trees (tar; plain, gzip or zstd)",
        requires: &[],
        rank: 0,
    };
    type Config = Config;

    async fn build(config: Config, context: Context) -> Result<Self> {
        config.check()?;
        let place = context.state_dir()?.join("mnt");
        match std::fs::create_dir(&place) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                return Err(Error::io(format!("make directory {}", place.display()), error));
            }
            _ => {}
        }
        Ok(Self { config, place })
    }

    fn export(addr: &Addr<Self>, _context: &Context, exports: &mut Exports) {
        exports.contract::<Differ>(DifferAddr::from(addr));
    }
}

impl Actor for TarDiffer {
    type Context = Cell<Self>;
}

impl Handler<Apply> for TarDiffer {
    type Result = ResponseFuture<Result<Applied>>;
    fn handle(&mut self, message: Apply, _: &mut Cell<Self>) -> Self::Result {
        let (config, place) = (self.config.clone(), self.place.clone());
        Box::pin(blocking::run("apply a layer", move || {
            let Apply { layer, media_type, mounts, whiteouts } = message;
            let applied = with_mounted(&mounts, &place, |root| {
                apply(layer, &media_type, root, whiteouts, &config)
            })?;
            debug!(diff_id = %applied.diff_id, size = applied.size, "layer applied");
            Ok(applied)
        }))
    }
}

impl Handler<Settle> for TarDiffer {
    type Result = ResponseFuture<Result<()>>;
    fn handle(&mut self, message: Settle, _: &mut Cell<Self>) -> Self::Result {
        let (config, place) = (self.config.clone(), self.place.clone());
        Box::pin(blocking::run("settle a layer", move || {
            let Settle { layer, parent, pending } = message;
            with_mounted(&layer, &place, |layer| match parents(&parent) {
                Some(layers) => settle(layer, Parents::layers(layers), &pending, &config),
                None => with_mounted(&parent, &place, |parent| {
                    settle(layer, Parents::tree(parent)?, &pending, &config)
                }),
            })
        }))
    }
}

impl Handler<Diff> for TarDiffer {
    type Result = ResponseFuture<Result<Diffed>>;
    fn handle(&mut self, message: Diff, _: &mut Cell<Self>) -> Self::Result {
        let (config, place) = (self.config.clone(), self.place.clone());
        Box::pin(blocking::run("write a layer", move || {
            let Diff { parent, tree, media_type, out } = message;
            let before = for_reading(&parent);
            let (tree, shape) = source(&tree, &parent);
            let diffed = with_mounted(&tree, &place, |tree| match before.as_slice() {
                [] => diff(tree, None, shape, &media_type, out, &config),
                _ => with_mounted(&before, &place, |before| {
                    diff(tree, Some(before), shape, &media_type, out, &config)
                }),
            })?;
            debug!(digest = %diffed.digest, size = diffed.size, ?shape, "layer written");
            Ok(diffed)
        }))
    }
}

impl Handler<Verify> for TarDiffer {
    type Result = ResponseFuture<Result<Vec<Difference>>>;
    fn handle(&mut self, message: Verify, _: &mut Cell<Self>) -> Self::Result {
        let (config, place) = (self.config.clone(), self.place.clone());
        Box::pin(blocking::run("compare a tree with its layers", move || {
            let Verify { layers, mounts, whiteouts, is_repair } = message;
            let mounts = if is_repair { mounts } else { for_reading(&mounts) };
            with_mounted(&mounts, &place, |root| {
                verify(layers, root, whiteouts, is_repair, &config)
            })
        }))
    }
}
