//! `Transfer` of transfer.capnp.

use std::rc::Rc;
use std::time::Duration;

use capnp::capability::Client;
use capstan_schema::{Digest, Namespace, Platform, transfer_capnp as wire};
use tokio::sync::watch;

use super::{answer, images, length, text};
use crate::Link;
use crate::contract::Transfer;
use crate::contract::transfer::{Item, ItemState, Pull, Unpack};

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

async fn update(sink: &wire::progress::Client, items: &[Item]) -> capnp::Result<()> {
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
        });
        out.set_offset(item.offset);
        out.set_total(item.total);
    }
    request.send().promise.await.map(drop)
}

/// Passes progress on until the sending half is gone. It also holds the receiving half, whose
/// end is the sign to give the operation up.
async fn report(sink: Option<wire::progress::Client>, mut progress: watch::Receiver<Vec<Item>>) {
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
                is_plain_http: options.get_plain_http(),
                snapshotter: text(options.get_snapshotter())?,
                is_unpacked: !options.get_no_unpack(),
                concurrency: options.get_concurrency(),
                progress: sender,
            };
            let sink = if params.has_progress() { Some(params.get_progress()?) } else { None };
            // When the peer drops the call this future is dropped, and `receiver` with it.
            let last = receiver.clone();
            let pull = self.link.send(message);
            tokio::pin!(pull);
            let pulled = tokio::select! {
                pulled = &mut pull => pulled?,
                () = report(sink.clone(), receiver) => pull.await?,
            };
            if let Some(sink) = sink {
                let items = last.borrow().clone();
                let _ = update(&sink, &items).await;
            }
            Ok(pulled)
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
}
