//! Kind `differ`, from `Differ` of differ.capnp.

use std::io::{self, ErrorKind, PipeReader, PipeWriter, Read as _, Write as _};
use std::panic::{AssertUnwindSafe, catch_unwind};

use actix::{Context as Cell, Handler, ResponseFuture};
use capstan_schema::{Digest, Error, Result, differ_capnp as wire};
use tokio::sync::oneshot;

use crate::contract::Differ;
use crate::contract::differ::{
    Applied, Apply, Diff, Diffed, Difference, LayerSink, LayerStream, Settle, Verify, VerifyLayer,
};
use crate::frames;
use crate::outside::{Proxy, call};
use crate::rpc::differ::{read_differences, read_pending, write_pending, write_whiteouts};
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
            params.set_whiteouts(write_whiteouts(apply.whiteouts));
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

impl Handler<Diff> for This {
    type Result = ResponseFuture<Result<Diffed>>;
    fn handle(&mut self, diff: Diff, _: &mut Cell<Self>) -> Self::Result {
        let far = self.far.clone();
        Box::pin(async move {
            let client: Client = far.open(None).await?;
            let (end, out) = pipe()?;
            let number = far.give(&out).await?;
            drop(out);
            let drained = drain(end, diff.out);
            let mut request = client.diff_request();
            let mut params = request.get();
            params.set_out(number);
            params.set_media_type(&diff.media_type);
            write_mounts(&diff.parent, params.reborrow().init_parent(length(&diff.parent)));
            write_mounts(&diff.tree, params.init_tree(length(&diff.tree)));
            let answer = call!(far, request, |results| Ok(Diffed {
                digest: Digest::parse(&text(results.get_digest())?)?,
                size: results.get_size(),
                diff_id: Digest::parse(&text(results.get_diff_id())?)?,
            }));
            // Whoever has the far end lets go of it: with the answer, or with its life.
            let broken = || Error::internal("the thread that takes a layer in is gone");
            match (drained.await.map_err(|_| broken())?, answer) {
                // To the differ a sink that failed is a pipe that broke: what it makes of that says nothing.
                (Err(error), _) => Err(error),
                (Ok(size), Ok(diffed)) if size != diffed.size => Err(Error::internal(format!(
                    "{} bytes of a layer were announced, and {size} came",
                    diffed.size
                ))),
                (Ok(_), answer) => answer,
            }
        })
    }
}

impl Handler<Verify> for This {
    type Result = ResponseFuture<Result<Vec<Difference>>>;
    fn handle(&mut self, verify: Verify, _: &mut Cell<Self>) -> Self::Result {
        let far = self.far.clone();
        Box::pin(async move {
            let client: Client = far.open(None).await?;
            let (layers, end) = pipe()?;
            let number = far.give(&layers).await?;
            drop(layers);
            let mut request = client.verify_request();
            let mut params = request.get();
            params.set_layers(number);
            let mut types = params.reborrow().init_media_types(length(&verify.layers));
            for (index, layer) in (0..).zip(&verify.layers) {
                types.set(index, &layer.media_type);
            }
            params.set_whiteouts(write_whiteouts(verify.whiteouts));
            params.set_is_repair(verify.is_repair);
            write_mounts(&verify.mounts, params.init_mounts(length(&verify.mounts)));
            let mut failure = feeding(end, move |pipe| {
                let all = |VerifyLayer { stream, .. }| {
                    read_pieces(stream, |piece| frames::write(pipe, piece))?;
                    frames::write(pipe, b"").map_err(Broken::Pipe)
                };
                verify.layers.into_iter().try_for_each(all)
            });
            let answer =
                call!(far, request, |results| read_differences(results.get_differences()?));
            match failure.try_recv() {
                Ok(error) => Err(error),
                Err(_) => answer,
            }
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
    feeding(pipe, |mut pipe| read_pieces(layer, |piece| pipe.write_all(piece)))
}

/// What went wrong between a layer and its pipe.
enum Broken {
    Layer(Error),
    Pipe(io::Error),
}

fn feeding(
    pipe: PipeWriter,
    work: impl FnOnce(&PipeWriter) -> std::result::Result<(), Broken> + Send + 'static,
) -> oneshot::Receiver<Error> {
    let (report, failure) = oneshot::channel();
    tokio::task::spawn_blocking(move || {
        let fed = catch_unwind(AssertUnwindSafe(|| work(&pipe)));
        let error = match fed {
            Ok(Ok(())) => None,
            // The differ has what it wants, or is gone; its answer says so.
            Ok(Err(Broken::Pipe(error))) if error.kind() == ErrorKind::BrokenPipe => None,
            Ok(Err(Broken::Pipe(error))) => Some(Error::io("pass the layer on", error)),
            Ok(Err(Broken::Layer(error))) => Some(error),
            Err(_) => {
                Some(Error::internal("the stream of a layer panicked; the log has the place"))
            }
        };
        if let Some(error) = error {
            // Nobody waits for it if the call was given up.
            let _ = report.send(error);
        }
        drop(pipe);
    });
    failure
}

fn read_pieces(
    LayerStream(mut layer): LayerStream,
    mut each: impl FnMut(&[u8]) -> io::Result<()>,
) -> std::result::Result<(), Broken> {
    let mut buffer = vec![0; CHUNK];
    loop {
        match layer.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(got) => each(&buffer[..got]).map_err(Broken::Pipe)?,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => {
                return Err(Broken::Layer(
                    error
                        .downcast::<Error>()
                        .unwrap_or_else(|error| Error::io("read the layer", error)),
                ));
            }
        }
    }
}

/// Copies what comes out of a pipe into a sink, on a thread for blocking work; answers how much it was.
fn drain(mut pipe: PipeReader, LayerSink(mut out): LayerSink) -> oneshot::Receiver<Result<u64>> {
    let (report, drained) = oneshot::channel();
    tokio::task::spawn_blocking(move || {
        let copied = catch_unwind(AssertUnwindSafe(|| {
            let mut buffer = vec![0; CHUNK];
            let mut size = 0;
            loop {
                match pipe.read(&mut buffer) {
                    Ok(0) => break,
                    Ok(got) => {
                        out.write_all(&buffer[..got])?;
                        size += got as u64;
                    }
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    Err(error) => return Err(error),
                }
            }
            out.flush().map(|()| size)
        }));
        let copied = match copied {
            Ok(copied) => copied.map_err(|error| {
                error
                    .downcast::<Error>()
                    .unwrap_or_else(|error| Error::io("write the layer", error))
            }),
            Err(_) => Err(Error::internal("the sink of a layer panicked; the log has the place")),
        };
        // Nobody waits for it if the call was given up.
        let _ = report.send(copied);
    });
    drained
}
