//! `Differ` of differ.capnp.

use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use capnp::capability::Client;
use capstan_schema::{Result, differ_capnp as wire};

use super::{answer, length, text};
use crate::Link;
use crate::contract::Differ;
use crate::contract::differ::{Apply, LayerStream, Pending, Settle, Whiteouts};
use crate::outside::Wire;
use crate::proxy::mounts;

struct Server {
    link: Link<Differ>,
    wire: Wire,
}

/// The interface for the other side of a boundary: layers come as pipes, so `wire` must be one.
pub fn serve(link: Link<Differ>, wire: Wire) -> Client {
    capnp_rpc::new_client::<wire::differ::Client, _>(Server { link, wire }).client
}

fn path(bytes: &[u8]) -> PathBuf {
    OsStr::from_bytes(bytes).into()
}

fn bytes(path: &Path) -> &[u8] {
    path.as_os_str().as_bytes()
}

pub(crate) fn read_pending(reader: wire::pending::Reader<'_>) -> Result<Pending> {
    let directories = reader.get_directories()?.iter().map(|directory| Ok(path(directory?)));
    let links = reader.get_links()?.iter();
    let links = links.map(|link| Ok((path(link.get_link()?), path(link.get_target()?))));
    Ok(Pending {
        directories: directories.collect::<Result<_>>()?,
        links: links.collect::<Result<_>>()?,
    })
}

pub(crate) fn write_pending(pending: &Pending, mut out: wire::pending::Builder<'_>) {
    let mut list = out.reborrow().init_directories(length(&pending.directories));
    for (index, directory) in (0..).zip(&pending.directories) {
        list.set(index, bytes(directory));
    }
    let mut list = out.init_links(length(&pending.links));
    for (index, (link, target)) in (0..).zip(&pending.links) {
        let mut out = list.reborrow().get(index);
        out.set_link(bytes(link));
        out.set_target(bytes(target));
    }
}

impl wire::differ::Server for Server {
    async fn apply(
        self: Rc<Self>,
        params: wire::differ::ApplyParams,
        mut results: wire::differ::ApplyResults,
    ) -> capnp::Result<()> {
        let work = async {
            let params = params.get()?;
            let layer = File::from(self.wire.take(params.get_layer()).await?);
            let message = Apply {
                layer: LayerStream(Box::new(layer)),
                media_type: text(params.get_media_type())?,
                mounts: mounts(params.get_mounts())?,
                whiteouts: match params.get_whiteouts().map_err(capnp::Error::from)? {
                    wire::Whiteouts::Remove => Whiteouts::Remove,
                    wire::Whiteouts::Overlay => Whiteouts::Overlay,
                },
            };
            self.link.send(message).await
        };
        answer!(results, work, |out, applied| {
            out.set_diff_id(applied.diff_id.as_str());
            out.set_size(applied.size);
            write_pending(&applied.pending, out.init_pending());
        })
    }

    async fn settle(
        self: Rc<Self>,
        params: wire::differ::SettleParams,
        mut results: wire::differ::SettleResults,
    ) -> capnp::Result<()> {
        let work = async {
            let params = params.get()?;
            let message = Settle {
                layer: mounts(params.get_layer())?,
                parent: mounts(params.get_parent())?,
                pending: read_pending(params.get_pending()?)?,
            };
            self.link.send(message).await
        };
        answer!(results, work)
    }
}
