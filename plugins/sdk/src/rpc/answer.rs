//! How every method answers: with its results, or with an error as data.

use std::future::Future;
use std::panic::AssertUnwindSafe;

use capstan_schema::common_capnp::page;
use capstan_schema::{Error, Filters, Namespace, Result, read_texts};
use futures::FutureExt as _;

use crate::contract::Page;

/// Runs the work of one call; a panic in it becomes an error of this call alone.
pub(crate) async fn contained<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    AssertUnwindSafe(work).catch_unwind().await.unwrap_or_else(|_| {
        Err(Error::internal("the call panicked in the daemon; its log has the place"))
    })
}

/// A text parameter.
pub(crate) fn text(reader: capnp::Result<capnp::text::Reader<'_>>) -> Result<String> {
    Ok(reader?.to_str()?.to_owned())
}

/// A namespace parameter that may be empty, which is none.
pub(crate) fn namespace(
    reader: capnp::Result<capnp::text::Reader<'_>>,
) -> Result<Option<Namespace>> {
    match text(reader)?.as_str() {
        "" => Ok(None),
        name => Namespace::parse(name).map(Some),
    }
}

/// A slice of a list, as a peer asks for it.
pub(crate) fn page(reader: capnp::Result<page::Reader<'_>>) -> Result<Page> {
    let reader = reader?;
    let filters = Filters::parse(read_texts(reader.get_filters()?)?)?;
    Ok(Page { filters, ..Page::new(text(reader.get_after())?, reader.get_limit()) })
}

/// The length of a list in a message. Pages keep lists far below the limit of 2^29.
pub(crate) fn length<T>(list: &[T]) -> u32 {
    u32::try_from(list.len()).expect("a list in a message is short")
}

/// Fills the results of a method from the work that it does:
/// `answer!(results, async { work }, |out, value| fill)`; without a body where there is nothing to fill.
macro_rules! answer {
    ($results:ident, $work:expr) => {{
        if let Err(error) = $crate::rpc::answer::contained($work).await {
            error.write($results.get().init_error());
        }
        Ok(())
    }};
    ($results:ident, $work:expr, |$out:ident, $value:pat_param| $fill:expr) => {{
        match $crate::rpc::answer::contained($work).await {
            Ok($value) => {
                #[allow(unused_mut, reason = "some answers only pass it on")]
                let mut $out = $results.get();
                $fill;
            }
            Err(error) => error.write($results.get().init_error()),
        }
        Ok(())
    }};
}
pub(crate) use answer;
