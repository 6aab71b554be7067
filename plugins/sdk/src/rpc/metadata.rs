//! `Metadata` of metadata.capnp.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;

use capnp::capability::Client;
use capstan_schema::common_capnp::error;
use capstan_schema::{Error, Namespace, Result, metadata_capnp as wire};

use super::event_log::read_new_events;
use super::reach::Reach;
use super::{answer, length, namespace, text};
use crate::Link;
use crate::contract::metadata::{Commit, Expect, Get, Key, Scan, ScanAll, Step};
use crate::contract::{Metadata, Page};

/// Rows of one answer are at most so many bytes, or one row.
const PAGE_BYTES: usize = 4 << 20;

struct Server {
    link: Link<Metadata>,
    /// Of a plugin that reaches only what is its own.
    reach: Option<Reach>,
    rest: RefCell<Option<Rest>>,
}

/// What is left of a bucket behind the page that was answered last, so that a bucket is read once and not once a
/// page, and its pages are of one moment. There is one per server, and none when all was told.
struct Rest {
    after: Key,
    rows: VecDeque<(Key, Vec<u8>)>,
}

/// The interface for one plugin. `confined` is its id, if it is to reach only what is its own.
pub fn serve(link: Link<Metadata>, confined: Option<Arc<str>>) -> Client {
    let server = Server { link, reach: confined.map(Reach::new), rest: RefCell::default() };
    capnp_rpc::new_client::<wire::metadata::Client, _>(server).client
}

/// Reads where a record is.
pub(crate) fn read_key(reader: wire::key::Reader<'_>) -> Result<Key> {
    Ok(Key {
        bucket: text(reader.get_bucket())?,
        namespace: namespace(reader.get_namespace())?,
        name: text(reader.get_name())?,
    })
}

/// Writes where a record is.
pub(crate) fn write_key(key: &Key, mut out: wire::key::Builder<'_>) {
    out.set_bucket(&key.bucket);
    out.set_namespace(key.namespace.as_ref().map(Namespace::as_str).unwrap_or_default());
    out.set_name(&key.name);
}

fn read_guard_error(reader: capnp::Result<error::Reader<'_>>) -> Result<Error> {
    Ok(Error::read(true, Ok(reader?)).expect("a reader of one is one"))
}

fn read_step(reader: wire::step::Reader<'_>) -> Result<Step> {
    let key = reader.get_key()?;
    Ok(match reader.which()? {
        wire::step::Absent(error) => Step::absent(read_key(key)?, read_guard_error(error)?),
        wire::step::Present(error) => Step::present(read_key(key)?, read_guard_error(error)?),
        wire::step::Equals(equals) => {
            let equals = equals?;
            Step::Guard {
                key: read_key(key)?,
                expect: Expect::Equals(equals.get_value()?.to_vec()),
                error: read_guard_error(equals.get_error())?,
            }
        }
        wire::step::EmptyNamespace(()) => {
            let none = || Error::invalid("a guard for an empty namespace must say which");
            Step::GuardEmpty(namespace(key.get_namespace())?.ok_or_else(none)?)
        }
        wire::step::Put(value) => Step::Put { key: read_key(key)?, value: value?.to_vec() },
        wire::step::Delete(()) => Step::Delete(read_key(key)?),
    })
}

/// How many rows of these sizes are a page.
fn page_len(sizes: impl Iterator<Item = usize>) -> usize {
    let mut bytes = 0;
    let mut rows = 0;
    for size in sizes.take(Page::MAX_LIMIT) {
        bytes += size;
        if rows > 0 && bytes > PAGE_BYTES {
            break;
        }
        rows += 1;
    }
    rows
}

fn write_rows(
    rows: &[(Key, Vec<u8>)],
    mut list: capnp::struct_list::Builder<'_, wire::row::Owned>,
) {
    for (index, (key, value)) in (0..).zip(rows) {
        let mut out = list.reborrow().get(index);
        out.set_value(value);
        write_key(key, out.init_key());
    }
}

impl Server {
    fn check_read(&self, bucket: &str) -> Result<()> {
        self.reach.as_ref().map_or(Ok(()), |reach| reach.check_read(bucket))
    }

    fn read_commit(&self, params: wire::metadata::commit_params::Reader<'_>) -> Result<Commit> {
        let steps = params.get_steps()?.iter().map(read_step).collect::<Result<Vec<_>>>()?;
        let events = read_new_events(params.get_events()?)?;
        if let Some(reach) = &self.reach {
            steps.iter().try_for_each(|step| reach.check_step(step))?;
            events.iter().try_for_each(|event| reach.check_event(event))?;
        }
        Ok(Commit { steps, events })
    }

    /// A page of all records of a bucket, and whether there are more.
    async fn page_of_all(
        &self,
        bucket: String,
        after: Option<Key>,
    ) -> Result<(Vec<(Key, Vec<u8>)>, bool)> {
        let kept = self.rest.take().filter(|rest| after.as_ref() == Some(&rest.after));
        let mut rows = match kept {
            Some(rest) => rest.rows,
            None => {
                let mut rows = self.link.send(ScanAll(bucket)).await?;
                rows.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
                let seen = after.map_or(0, |after| rows.partition_point(|(key, _)| *key <= after));
                rows.drain(..seen);
                VecDeque::from(rows)
            }
        };
        let sizes = rows.iter().map(|(key, value)| key.bucket.len() + key.name.len() + value.len());
        let page: Vec<(Key, Vec<u8>)> = rows.drain(..page_len(sizes)).collect();
        let last = page.last().filter(|_| !rows.is_empty()).map(|(key, _)| key.clone());
        let is_more = last.is_some();
        self.rest.replace(last.map(|after| Rest { after, rows }));
        Ok((page, is_more))
    }
}

impl wire::metadata::Server for Server {
    async fn commit(
        self: Rc<Self>,
        params: wire::metadata::CommitParams,
        mut results: wire::metadata::CommitResults,
    ) -> capnp::Result<()> {
        let work = async {
            let commit = self.read_commit(params.get()?)?;
            self.link.send(commit).await
        };
        answer!(results, work, |out, cursor| out.set_cursor(cursor))
    }

    async fn get(
        self: Rc<Self>,
        params: wire::metadata::GetParams,
        mut results: wire::metadata::GetResults,
    ) -> capnp::Result<()> {
        let work = async {
            let key = read_key(params.get()?.get_key()?)?;
            self.check_read(&key.bucket)?;
            self.link.send(Get(key)).await
        };
        answer!(results, work, |out, value| if let Some(value) = value {
            out.set_found(true);
            out.set_value(&value);
        })
    }

    async fn scan(
        self: Rc<Self>,
        params: wire::metadata::ScanParams,
        mut results: wire::metadata::ScanResults,
    ) -> capnp::Result<()> {
        let work = async {
            let params = params.get()?;
            let page = params.get_page()?;
            let scan = Scan {
                bucket: text(params.get_bucket())?,
                namespace: namespace(params.get_namespace())?,
                page: Page::new(text(page.get_after())?, page.get_limit()),
            };
            self.check_read(&scan.bucket)?;
            let (bucket, namespace) = (scan.bucket.clone(), scan.namespace.clone());
            let key = |name| Key { bucket: bucket.clone(), namespace: namespace.clone(), name };
            let mut rows = self.link.send(scan).await?;
            rows.truncate(page_len(rows.iter().map(|(name, value)| name.len() + value.len())));
            Ok(rows.into_iter().map(|(name, value)| (key(name), value)).collect::<Vec<_>>())
        };
        answer!(results, work, |out, rows| write_rows(&rows, out.init_rows(length(&rows))))
    }

    async fn scan_all(
        self: Rc<Self>,
        params: wire::metadata::ScanAllParams,
        mut results: wire::metadata::ScanAllResults,
    ) -> capnp::Result<()> {
        let work = async {
            let params = params.get()?;
            let bucket = text(params.get_bucket())?;
            self.check_read(&bucket)?;
            let after = match params.has_after() {
                true => Some(Key { bucket: bucket.clone(), ..read_key(params.get_after()?)? }),
                false => None,
            };
            self.page_of_all(bucket, after).await
        };
        answer!(results, work, |out, (rows, is_more)| {
            out.set_more(is_more);
            write_rows(&rows, out.init_rows(length(&rows)));
        })
    }
}
