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
use crate::contract::differ::{
    Apply, Diff, Difference, LayerSink, LayerStream, Pending, Settle, Verify, VerifyLayer,
    Whiteouts,
};
use crate::frames;
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

fn read_whiteouts(
    whiteouts: std::result::Result<wire::Whiteouts, capnp::NotInSchema>,
) -> Result<Whiteouts> {
    Ok(match whiteouts.map_err(capnp::Error::from)? {
        wire::Whiteouts::Remove => Whiteouts::Remove,
        wire::Whiteouts::Overlay => Whiteouts::Overlay,
    })
}

pub(crate) fn write_whiteouts(whiteouts: Whiteouts) -> wire::Whiteouts {
    match whiteouts {
        Whiteouts::Remove => wire::Whiteouts::Remove,
        Whiteouts::Overlay => wire::Whiteouts::Overlay,
    }
}

pub(crate) fn read_differences(
    reader: capnp::struct_list::Reader<'_, wire::difference::Owned>,
) -> Result<Vec<Difference>> {
    let difference = |reader: wire::difference::Reader<'_>| {
        Ok(Difference {
            path: path(reader.get_path()?),
            what: text(reader.get_what())?,
            is_repaired: reader.get_is_repaired(),
        })
    };
    reader.iter().map(difference).collect()
}

fn write_differences(
    differences: &[Difference],
    mut out: capnp::struct_list::Builder<'_, wire::difference::Owned>,
) {
    for (index, difference) in (0..).zip(differences) {
        let mut out = out.reborrow().get(index);
        out.set_path(bytes(&difference.path));
        out.set_what(&difference.what);
        out.set_is_repaired(difference.is_repaired);
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
                whiteouts: read_whiteouts(params.get_whiteouts())?,
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

    async fn diff(
        self: Rc<Self>,
        params: wire::differ::DiffParams,
        mut results: wire::differ::DiffResults,
    ) -> capnp::Result<()> {
        let work = async {
            let params = params.get()?;
            let out = File::from(self.wire.take(params.get_out()).await?);
            let message = Diff {
                parent: mounts(params.get_parent())?,
                tree: mounts(params.get_tree())?,
                media_type: text(params.get_media_type())?,
                out: LayerSink(Box::new(out)),
            };
            self.link.send(message).await
        };
        answer!(results, work, |out, diffed| {
            out.set_digest(diffed.digest.as_str());
            out.set_size(diffed.size);
            out.set_diff_id(diffed.diff_id.as_str());
        })
    }

    async fn verify(
        self: Rc<Self>,
        params: wire::differ::VerifyParams,
        mut results: wire::differ::VerifyResults,
    ) -> capnp::Result<()> {
        let work = async {
            let params = params.get()?;
            let pipe = File::from(self.wire.take(params.get_layers()).await?);
            let media_types = params.get_media_types()?.iter();
            let layer = |(media_type, stream)| {
                Ok(VerifyLayer {
                    stream: LayerStream(Box::new(stream)),
                    media_type: text(media_type)?,
                })
            };
            let message = Verify {
                layers: media_types.zip(frames::streams(pipe)).map(layer).collect::<Result<_>>()?,
                mounts: mounts(params.get_mounts())?,
                whiteouts: read_whiteouts(params.get_whiteouts())?,
                is_repair: params.get_is_repair(),
            };
            self.link.send(message).await
        };
        answer!(results, work, |out, differences| {
            write_differences(&differences, out.init_differences(length(&differences)));
        })
    }
}
