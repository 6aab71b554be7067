//! Kind `differ`, from `Differ` of differ.capnp.

use std::io::{self, ErrorKind, PipeReader, PipeWriter, Read as _, Write as _};
use std::panic::{AssertUnwindSafe, catch_unwind};

use actix::{Context as Cell, Handler, ResponseFuture};
use capstan_schema::{Digest, Error, Result, differ_capnp as wire};
use tokio::sync::oneshot;

use crate::contract::Differ;
use crate::contract::differ::{Applied, Apply, LayerStream, Settle, Whiteouts};
use crate::outside::{Proxy, call};
use crate::rpc::differ::{read_pending, write_pending};
use crate::rpc::snapshotter::write_mounts;
use crate::rpc::{length, text};

type Client = wire::differ::Client;
type This = Proxy<Differ>;

/// 1 MiB, what the system allows anybody: the two sides wait less for one another than with 64 KiB.
const PIPE_BYTES: usize = 1 << 20;

/// 64 KiB: what is read and written at once.
const CHUNK: usize = 64 << 10;

impl Handler<Apply> for This {
    type Result = ResponseFuture<Result<Applied>>;
    fn handle(&mut self, apply: Apply, _: &mut Cell<Self>) -> Self::Result {
        let far = self.far.clone();
        Box::pin(async move {
            let client: Client = far.open(None).await?;
            let (layer, end) = pipe()?;
            let number = far.give(&layer).await?;
            drop(layer);
            let mut failure = feed(apply.layer, end);
            let mut request = client.apply_request();
            let mut params = request.get();
            params.set_layer(number);
            params.set_media_type(&apply.media_type);
            params.set_whiteouts(match apply.whiteouts {
                Whiteouts::Remove => wire::Whiteouts::Remove,
                Whiteouts::Overlay => wire::Whiteouts::Overlay,
            });
            write_mounts(&apply.mounts, params.init_mounts(length(&apply.mounts)));
            let answer = call!(far, request, |results| Ok(Applied {
                diff_id: Digest::parse(&text(results.get_diff_id())?)?,
                size: results.get_size(),
                pending: read_pending(results.get_pending()?)?,
            }));
            // To the differ a stream that broke off is one that ended: what it makes of that says nothing.
            match failure.try_recv() {
                Ok(error) => Err(error),
                Err(_) => answer,
            }
        })
    }
}

impl Handler<Settle> for This {
    type Result = ResponseFuture<Result<()>>;
    fn handle(&mut self, settle: Settle, _: &mut Cell<Self>) -> Self::Result {
        let far = self.far.clone();
        Box::pin(async move {
            let client: Client = far.open(None).await?;
            let mut request = client.settle_request();
            let mut params = request.get();
            write_mounts(&settle.layer, params.reborrow().init_layer(length(&settle.layer)));
            write_mounts(&settle.parent, params.reborrow().init_parent(length(&settle.parent)));
            write_pending(&settle.pending, params.init_pending());
            call!(far, request)
        })
    }
}

fn pipe() -> Result<(PipeReader, PipeWriter)> {
    let ends = io::pipe().map_err(|error| Error::io("make the pipe of a layer", error))?;
    // With less it works as well.
    let _ = rustix::pipe::fcntl_setpipe_size(&ends.1, PIPE_BYTES);
    Ok(ends)
}

/// Copies a layer into its pipe, on a thread for blocking work. What fails in the layer itself comes out
/// before the other side can see the pipe end.
fn feed(layer: LayerStream, pipe: PipeWriter) -> oneshot::Receiver<Error> {
    let (report, failure) = oneshot::channel();
    tokio::task::spawn_blocking(move || {
        let copied = catch_unwind(AssertUnwindSafe(|| copy(layer, &pipe)));
        let panicked =
            |_| Err(Error::internal("the stream of a layer panicked; the log has the place"));
        if let Err(error) = copied.unwrap_or_else(panicked) {
            // Nobody waits for it if the call was given up.
            let _ = report.send(error);
        }
        drop(pipe);
    });
    failure
}

fn copy(LayerStream(mut layer): LayerStream, mut pipe: &PipeWriter) -> Result<()> {
    let mut buffer = vec![0; CHUNK];
    loop {
        let got = match layer.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(got) => got,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => {
                return Err(error
                    .downcast::<Error>()
                    .unwrap_or_else(|error| Error::io("read the layer", error)));
            }
        };
        match pipe.write_all(&buffer[..got]) {
            Ok(()) => {}
            // The differ has what it wants, or is gone; its answer says so.
            Err(error) if error.kind() == ErrorKind::BrokenPipe => return Ok(()),
            Err(error) => return Err(Error::io("pass the layer on", error)),
        }
    }
}

crate::not_yet!({} crate::outside::Proxy<crate::contract::Differ>:
    crate::contract::differ::Diff => crate::contract::differ::Diffed,
    crate::contract::differ::Verify => Vec<crate::contract::differ::Difference>,
);
