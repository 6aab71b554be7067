//! `Transfer` of transfer.capnp.

use std::rc::Rc;
use std::time::Duration;

use capnp::capability::Client;
use capstan_schema::{
    Descriptor, Digest, Error, Namespace, Platform, Result, read_texts, transfer_capnp as wire,
    write_labels,
};
use tokio::sync::{mpsc, oneshot, watch};

use super::archive::{Download, Upload, inlet, outlet};
use super::{access, answer, images, length, text};
use crate::Link;
use crate::contract::Transfer;
use crate::contract::access::Secret;
use crate::contract::transfer::{
    Apply, ArchiveFormat, CheckLogin, CopyImage, Diff, Export, GetObject, Import, Item, ItemState,
    ListReferrers, Names, Pull, Push, PutObject, Refetch, Repack, Unpack,
};

/// How long a client is left alone between two updates: ten a second look smooth.
const UPDATE_INTERVAL: Duration = Duration::from_millis(100);

struct Server {
    link: Link<Transfer>,
    namespace: Namespace,
}

/// The interface for one peer, bound to a namespace.
pub fn serve(link: Link<Transfer>, namespace: Namespace) -> Client {
    capnp_rpc::new_client::<wire::transfer::Client, _>(Server { link, namespace }).client
}

pub(super) async fn update(sink: &wire::progress::Client, items: &[Item]) -> capnp::Result<()> {
    let mut request = sink.update_request();
    let mut list = request.get().init_items(length(items));
    for (index, item) in (0..).zip(items) {
        let mut out = list.reborrow().get(index);
        out.set_name(&item.name);
        out.set_state(match item.state {
            ItemState::Waiting => wire::ItemState::Waiting,
            ItemState::Downloading => wire::ItemState::Downloading,
            ItemState::Extracting => wire::ItemState::Extracting,
            ItemState::Done => wire::ItemState::Done,
            ItemState::Exists => wire::ItemState::Exists,
            ItemState::Uploading => wire::ItemState::Uploading,
            ItemState::Mounted => wire::ItemState::Mounted,
            ItemState::Resolving => wire::ItemState::Resolving,
            ItemState::Converting => wire::ItemState::Converting,
        });
        out.set_offset(item.offset);
        out.set_total(item.total);
    }
    request.send().promise.await.map(drop)
}

/// Passes progress on until the sending half is gone. It also holds the receiving half, whose
/// end is the sign to give the operation up.
pub(super) async fn report(
    sink: Option<wire::progress::Client>,
    mut progress: watch::Receiver<Vec<Item>>,
) {
    let mut sink = sink;
    while progress.changed().await.is_ok() {
        let items = progress.borrow_and_update().clone();
        if let Some(client) = &sink
            && update(client, &items).await.is_err()
        {
            // The client does not want to know; the operation goes on as long as its call does.
            sink = None;
        }
        tokio::time::sleep(UPDATE_INTERVAL).await;
    }
}

/// Tells progress while `work` is done, to its last item. When the peer drops the call the future is dropped, and `progress`
/// with it: the work is given up.
async fn reported<T>(
    sink: Option<wire::progress::Client>,
    progress: watch::Receiver<Vec<Item>>,
    work: impl Future<Output = Result<T>>,
) -> Result<T> {
    let last = progress.clone();
    tokio::pin!(work);
    let done = tokio::select! {
        done = &mut work => done?,
        () = report(sink.clone(), progress) => work.await?,
    };
    if let Some(sink) = sink {
        let items = last.borrow().clone();
        let _ = update(&sink, &items).await;
    }
    Ok(done)
}

/// A platform where one was named.
fn platform(name: &str) -> Result<Option<Platform>> {
    match name {
        "" => Ok(None),
        name => Platform::parse(name).map(Some),
    }
}

impl wire::transfer::Server for Server {
    async fn pull(
        self: Rc<Self>,
        params: wire::transfer::PullParams,
        mut results: wire::transfer::PullResults,
    ) -> capnp::Result<()> {
        let work = async {
            let params = params.get()?;
            let options = params.get_options()?;
            let (sender, receiver) = watch::channel(Vec::new());
            let message = Pull {
                namespace: self.namespace.clone(),
                reference: text(params.get_reference())?,
                platform: Platform::parse(&text(options.get_platform())?)?,
                access: access::read(options.get_access()?)?,
                snapshotter: text(options.get_snapshotter())?,
                is_unpacked: !options.get_no_unpack(),
                concurrency: options.get_concurrency(),
                is_for_all_platforms: options.get_all_platforms(),
                progress: sender,
            };
            let sink = if params.has_progress() { Some(params.get_progress()?) } else { None };
            reported(sink, receiver, self.link.send(message)).await
        };
        answer!(results, work, |out, (image, presence)| {
            images::write_image(&image, &presence, out.init_image());
        })
    }

    async fn unpack(
        self: Rc<Self>,
        params: wire::transfer::UnpackParams,
        mut results: wire::transfer::UnpackResults,
    ) -> capnp::Result<()> {
        let work = async {
            let params = params.get()?;
            let message = Unpack {
                namespace: self.namespace.clone(),
                image: text(params.get_image())?,
                platform: Platform::parse(&text(params.get_platform())?)?,
                snapshotter: text(params.get_snapshotter())?,
            };
            self.link.send(message).await
        };
        answer!(results, work, |out, chain_id| {
            out.set_chain_id(chain_id.as_ref().map(Digest::as_str).unwrap_or_default());
        })
    }

    async fn import(
        self: Rc<Self>,
        params: wire::transfer::ImportParams,
        mut results: wire::transfer::ImportResults,
    ) -> capnp::Result<()> {
        let work = async {
            let params = params.get()?;
            let options = params.get_options()?;
            let names = match options.get_take()? {
                wire::Names::Only => Names::Only(read_texts(options.get_names()?)?),
                wire::Names::Fresh => Names::Fresh,
                wire::Names::All => Names::All,
            };
            let (sender, receiver) = watch::channel(Vec::new());
            let (pieces, archive) = inlet();
            let message = Import {
                namespace: self.namespace.clone(),
                archive,
                names,
                platform: Platform::parse(&text(options.get_platform())?)?,
                snapshotter: text(options.get_snapshotter())?,
                is_unpacked: !options.get_no_unpack(),
                progress: sender,
            };
            let sink = if params.has_progress() { Some(params.get_progress()?) } else { None };
            let link = self.link.clone();
            let import = async move { link.send(message).await };
            Ok(Upload::new(pieces, sink, receiver, import))
        };
        answer!(results, work, |out, upload| out.set_upload(capnp_rpc::new_client(upload)))
    }

    async fn export(
        self: Rc<Self>,
        params: wire::transfer::ExportParams,
        mut results: wire::transfer::ExportResults,
    ) -> capnp::Result<()> {
        let work = async {
            let params = params.get()?;
            let (archive, pieces) = outlet();
            let (sender, receiver) = watch::channel(Vec::new());
            let message = Export {
                namespace: self.namespace.clone(),
                names: read_texts(params.get_names()?)?,
                platform: platform(&text(params.get_platform())?)?,
                format: ArchiveFormat::Oci,
                archive,
                progress: sender,
            };
            let sink = if params.has_progress() { Some(params.get_progress()?) } else { None };
            let link = self.link.clone();
            let export = async move { reported(sink, receiver, link.send(message)).await };
            Download::new(pieces, export).await
        };
        answer!(results, work, |out, archive| out.set_archive(capnp_rpc::new_client(archive)))
    }

    async fn diff(
        self: Rc<Self>,
        params: wire::transfer::DiffParams,
        mut results: wire::transfer::DiffResults,
    ) -> capnp::Result<()> {
        let work = async {
            let params = params.get()?;
            let message = Diff {
                namespace: self.namespace.clone(),
                snapshotter: text(params.get_snapshotter())?,
                key: text(params.get_key())?,
                parent: Some(text(params.get_parent())?).filter(|parent| !parent.is_empty()),
                media_type: text(params.get_media_type())?,
            };
            self.link.send(message).await
        };
        answer!(results, work, |out, stored| {
            stored.layer.write(out.reborrow().init_layer());
            out.set_diff_id(stored.diff_id.as_str());
        })
    }

    async fn apply(
        self: Rc<Self>,
        params: wire::transfer::ApplyParams,
        mut results: wire::transfer::ApplyResults,
    ) -> capnp::Result<()> {
        let work = async {
            let params = params.get()?;
            let message = Apply {
                namespace: self.namespace.clone(),
                snapshotter: text(params.get_snapshotter())?,
                key: text(params.get_key())?,
                layer: Descriptor::read(params.get_layer()?)?,
            };
            self.link.send(message).await
        };
        answer!(results, work, |out, diff_id| out.set_diff_id(diff_id.as_str()))
    }

    async fn refetch(
        self: Rc<Self>,
        params: wire::transfer::RefetchParams,
        mut results: wire::transfer::RefetchResults,
    ) -> capnp::Result<()> {
        let work = async {
            let params = params.get()?;
            let digest = Digest::parse(&text(params.get_digest())?)?;
            let access = access::read(params.get_access()?)?;
            self.link.send(Refetch { namespace: self.namespace.clone(), digest, access }).await
        };
        answer!(results, work)
    }

    async fn check_login(
        self: Rc<Self>,
        params: wire::transfer::CheckLoginParams,
        mut results: wire::transfer::CheckLoginResults,
    ) -> capnp::Result<()> {
        let work = async {
            let params = params.get()?;
            let access = access::read(params.get_access()?)?;
            self.link.send(CheckLogin { host: text(params.get_host())?, access }).await
        };
        answer!(results, work, |out, token| {
            out.set_identity_token(token.as_ref().map(Secret::reveal).unwrap_or_default());
        })
    }

    async fn push(
        self: Rc<Self>,
        params: wire::transfer::PushParams,
        mut results: wire::transfer::PushResults,
    ) -> capnp::Result<()> {
        let work = async {
            let params = params.get()?;
            let options = params.get_options()?;
            let reference = text(params.get_reference())?;
            let source = text(params.get_source())?;
            let (sender, receiver) = watch::channel(Vec::new());
            let message = Push {
                namespace: self.namespace.clone(),
                source: if source.is_empty() { reference.clone() } else { source },
                reference,
                access: access::read(options.get_access()?)?,
                platform: platform(&text(options.get_platform())?)?,
                repack: match options.get_compression()? {
                    wire::Compression::Keep => Repack::Keep,
                    wire::Compression::Zstd => Repack::Zstd,
                },
                concurrency: options.get_concurrency(),
                progress: sender,
            };
            let sink = if params.has_progress() { Some(params.get_progress()?) } else { None };
            reported(sink, receiver, self.link.send(message)).await
        };
        answer!(results, work, |out, target| target.write(out.init_target()))
    }

    async fn copy(
        self: Rc<Self>,
        params: wire::transfer::CopyParams,
        mut results: wire::transfer::CopyResults,
    ) -> capnp::Result<()> {
        let work = async {
            let params = params.get()?;
            let options = params.get_options()?;
            let (sender, receiver) = watch::channel(Vec::new());
            let message = CopyImage {
                namespace: self.namespace.clone(),
                source: text(params.get_source())?,
                target: text(params.get_target())?,
                source_access: access::read(options.get_source_access()?)?,
                target_access: access::read(options.get_target_access()?)?,
                platform: platform(&text(options.get_platform())?)?,
                has_referrers: options.get_referrers(),
                concurrency: options.get_concurrency(),
                progress: sender,
            };
            let sink = if params.has_progress() { Some(params.get_progress()?) } else { None };
            reported(sink, receiver, self.link.send(message)).await
        };
        answer!(results, work, |out, target| target.write(out.init_target()))
    }

    async fn get_object(
        self: Rc<Self>,
        params: wire::transfer::GetObjectParams,
        mut results: wire::transfer::GetObjectResults,
    ) -> capnp::Result<()> {
        let work = async {
            let params = params.get()?;
            let (found, descriptor) = oneshot::channel();
            let (bytes, pieces) = mpsc::channel(1);
            let message = GetObject {
                reference: text(params.get_reference())?,
                access: access::read(params.get_access()?)?,
                found,
                bytes,
            };
            let link = self.link.clone();
            let download = Download::new(pieces, async move { link.send(message).await }).await?;
            let object =
                descriptor.await.map_err(|_| Error::internal("an object without a name"))?;
            Ok((object, download))
        };
        answer!(results, work, |out, (object, download)| {
            object.write(out.reborrow().init_object());
            out.set_bytes(capnp_rpc::new_client(download));
        })
    }

    async fn put_object(
        self: Rc<Self>,
        params: wire::transfer::PutObjectParams,
        mut results: wire::transfer::PutObjectResults,
    ) -> capnp::Result<()> {
        let work = async {
            let params = params.get()?;
            let message = PutObject {
                namespace: self.namespace.clone(),
                reference: text(params.get_reference())?,
                object: Descriptor::read(params.get_object()?)?,
                access: access::read(params.get_access()?)?,
            };
            self.link.send(message).await
        };
        answer!(results, work)
    }

    async fn referrers(
        self: Rc<Self>,
        params: wire::transfer::ReferrersParams,
        mut results: wire::transfer::ReferrersResults,
    ) -> capnp::Result<()> {
        let work = async {
            let params = params.get()?;
            let message = ListReferrers {
                reference: text(params.get_reference())?,
                artifact_type: text(params.get_artifact_type())?,
                access: access::read(params.get_access()?)?,
            };
            self.link.send(message).await
        };
        answer!(results, work, |out, referrers| {
            let mut list = out.init_referrers(length(&referrers));
            for (index, referrer) in (0..).zip(&referrers) {
                let mut out = list.reborrow().get(index);
                referrer.manifest.write(out.reborrow().init_manifest());
                out.set_artifact_type(&referrer.artifact_type);
                let count = u32::try_from(referrer.annotations.len()).unwrap_or(u32::MAX);
                write_labels(&referrer.annotations, out.init_annotations(count));
            }
        })
    }
}
