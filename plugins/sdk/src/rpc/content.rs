//! `Content`, `Blob` and `Ingest` of content.capnp.

use std::cell::{Cell, RefCell};
use std::os::unix::fs::FileExt as _;
use std::rc::Rc;

use bytes::Bytes;
use capnp::capability::Client;
use capstan_schema::{
    Algorithm, Digest, Error, Filters, MAX_CHUNK_BYTES, Namespace, Result, content_capnp as wire,
    read_labels, read_texts, write_labels, write_texts,
};

use super::{answer, graph, length, page, text};
use crate::contract::Content;
use crate::contract::content::{
    Abort, Audit, BlobInfo, Collect, Delete, Ingest, IngestInfo, Ingests, Label, List, Nodes, Open,
    OpenBlob, OpenIngest, Orphans, Stat, Use,
};
use crate::outside::Wire;
use crate::{Link, blocking};

struct Server {
    link: Link<Content>,
    namespace: Namespace,
    wire: Wire,
}

/// The interface for one peer, bound to a namespace.
pub fn serve(link: Link<Content>, namespace: Namespace) -> Client {
    serve_over(link, namespace, Wire::default())
}

/// The same, where descriptors can be sent.
pub fn serve_over(link: Link<Content>, namespace: Namespace, wire: Wire) -> Client {
    capnp_rpc::new_client::<wire::content::Client, _>(Server { link, namespace, wire }).client
}

fn digest(reader: capnp::Result<capnp::text::Reader<'_>>) -> Result<Digest> {
    Digest::parse(&text(reader)?)
}

fn expected(reader: capnp::Result<capnp::text::Reader<'_>>) -> Result<Option<Digest>> {
    let text = text(reader)?;
    if text.is_empty() { Ok(None) } else { Digest::parse(&text).map(Some) }
}

fn write_blob(info: &BlobInfo, mut out: wire::blob_info::Builder<'_>) {
    out.set_digest(info.digest.as_str());
    out.set_size(info.size);
    out.set_created_at_unix_ns(info.created_at_unix_ns);
    let count = u32::try_from(info.labels.len()).expect("labels are few");
    write_labels(&info.labels, out.init_labels(count));
}

fn write_ingest(info: &IngestInfo, mut out: wire::ingest_info::Builder<'_>) {
    out.set_ref(&info.reference);
    out.set_offset(info.offset);
    out.set_total(info.total);
    out.set_expected(info.expected.as_ref().map(Digest::as_str).unwrap_or_default());
    out.set_started_at_unix_ns(info.started_at_unix_ns);
    out.set_updated_at_unix_ns(info.updated_at_unix_ns);
}

impl wire::content::Server for Server {
    async fn info(
        self: Rc<Self>,
        params: wire::content::InfoParams,
        mut results: wire::content::InfoResults,
    ) -> capnp::Result<()> {
        let work = async {
            let digest = digest(params.get()?.get_digest())?;
            self.link.send(Stat { namespace: self.namespace.clone(), digest }).await
        };
        answer!(results, work, |out, info| write_blob(&info, out.init_info()))
    }

    async fn list(
        self: Rc<Self>,
        params: wire::content::ListParams,
        mut results: wire::content::ListResults,
    ) -> capnp::Result<()> {
        let work = async {
            let page = page(params.get()?.get_page())?;
            self.link.send(List { namespace: self.namespace.clone(), page }).await
        };
        answer!(results, work, |out, listed| {
            out.set_next(&listed.next);
            let mut list = out.init_blobs(length(&listed.items));
            for (index, info) in (0..).zip(&listed.items) {
                write_blob(info, list.reborrow().get(index));
            }
        })
    }

    async fn open(
        self: Rc<Self>,
        params: wire::content::OpenParams,
        mut results: wire::content::OpenResults,
    ) -> capnp::Result<()> {
        let work = async {
            let digest = digest(params.get()?.get_digest())?;
            let open = Open { namespace: self.namespace.clone(), digest: digest.clone() };
            Ok(BlobServer { blob: self.link.send(open).await?, digest, wire: self.wire.clone() })
        };
        answer!(results, work, |out, blob| {
            out.set_size(blob.blob.size);
            out.set_blob(capnp_rpc::new_client(blob));
        })
    }

    async fn ingest(
        self: Rc<Self>,
        params: wire::content::IngestParams,
        mut results: wire::content::IngestResults,
    ) -> capnp::Result<()> {
        let work = async {
            let params = params.get()?;
            let message = OpenIngest {
                namespace: self.namespace.clone(),
                reference: text(params.get_ref())?,
                expected: expected(params.get_expected())?,
                total: params.get_total(),
                labels: read_labels(params.get_labels()?)?,
                algorithm: match text(params.get_algorithm())?.as_str() {
                    "" => None,
                    name => Some(Algorithm::parse(name)?),
                },
            };
            self.link.send(message).await
        };
        answer!(results, work, |out, ingest| {
            write_ingest(&ingest.info, out.reborrow().init_info());
            let offset = ingest.info.offset;
            out.set_ingest(capnp_rpc::new_client(IngestServer {
                state: RefCell::new(IngestState { ingest: Some(Rc::new(ingest)), offset }),
                is_read_along: Cell::new(false),
                wire: self.wire.clone(),
            }));
        })
    }

    async fn ingests(
        self: Rc<Self>,
        params: wire::content::IngestsParams,
        mut results: wire::content::IngestsResults,
    ) -> capnp::Result<()> {
        let work = async {
            let filters = Filters::parse(read_texts(params.get()?.get_filters()?)?)?;
            let mut ingests = self.link.send(Ingests(self.namespace.clone())).await?;
            ingests.retain(|ingest| filters.matches(ingest));
            Ok(ingests)
        };
        answer!(results, work, |out, ingests| {
            let mut list = out.init_ingests(length(&ingests));
            for (index, info) in (0..).zip(&ingests) {
                write_ingest(info, list.reborrow().get(index));
            }
        })
    }

    async fn abort(
        self: Rc<Self>,
        params: wire::content::AbortParams,
        mut results: wire::content::AbortResults,
    ) -> capnp::Result<()> {
        let work = async {
            let reference = text(params.get()?.get_ref())?;
            self.link.send(Abort { namespace: self.namespace.clone(), reference }).await
        };
        answer!(results, work)
    }

    async fn delete(
        self: Rc<Self>,
        params: wire::content::DeleteParams,
        mut results: wire::content::DeleteResults,
    ) -> capnp::Result<()> {
        let work = async {
            let digest = digest(params.get()?.get_digest())?;
            self.link.send(Delete { namespace: self.namespace.clone(), digest }).await
        };
        answer!(results, work)
    }

    async fn label(
        self: Rc<Self>,
        params: wire::content::LabelParams,
        mut results: wire::content::LabelResults,
    ) -> capnp::Result<()> {
        let work = async {
            let params = params.get()?;
            let labels = read_labels(params.get_labels()?)?;
            let digest = digest(params.get_digest())?;
            self.link.send(Label { namespace: self.namespace.clone(), digest, labels }).await
        };
        answer!(results, work, |out, info| write_blob(&info, out.init_info()))
    }

    async fn note_use(
        self: Rc<Self>,
        params: wire::content::NoteUseParams,
        mut results: wire::content::NoteUseResults,
    ) -> capnp::Result<()> {
        let work = async {
            let params = params.get()?;
            let digest = digest(params.get_digest())?;
            self.link.send(Use { namespace: self.namespace.clone(), digest }).await
        };
        answer!(results, work, |out, info| write_blob(&info, out.init_info()))
    }

    async fn collect(
        self: Rc<Self>,
        params: wire::content::CollectParams,
        mut results: wire::content::CollectResults,
    ) -> capnp::Result<()> {
        let work = async {
            let params = params.get()?;
            let message = Collect {
                namespace: self.namespace.clone(),
                digests: params.get_digests()?.iter().map(digest).collect::<Result<_>>()?,
                unused_since_unix_ns: params.get_unused_since_unix_ns(),
            };
            self.link.send(message).await
        };
        answer!(results, work, |out, collected| {
            out.set_freed(collected.freed);
            write_texts(&collected.removed, out.init_removed(length(&collected.removed)));
        })
    }

    async fn nodes(
        self: Rc<Self>,
        _params: wire::content::NodesParams,
        mut results: wire::content::NodesResults,
    ) -> capnp::Result<()> {
        let work = self.link.send(Nodes(self.namespace.clone()));
        answer!(results, work, |out, nodes| out.set_nodes(graph::nodes(nodes)))
    }

    async fn audit(
        self: Rc<Self>,
        params: wire::content::AuditParams,
        mut results: wire::content::AuditResults,
    ) -> capnp::Result<()> {
        let work = async {
            let params = params.get()?;
            let (is_full, is_cleaning) = (params.get_full(), params.get_repair());
            self.link.send(Audit { is_full, is_cleaning }).await
        };
        answer!(results, work, |out, findings| out.set_findings(graph::findings(findings)))
    }

    async fn orphans(
        self: Rc<Self>,
        params: wire::content::OrphansParams,
        mut results: wire::content::OrphansResults,
    ) -> capnp::Result<()> {
        let work =
            async { self.link.send(Orphans { is_removing: params.get()?.get_remove() }).await };
        answer!(results, work, |out, nodes| out.set_nodes(graph::nodes(nodes)))
    }
}

struct BlobServer {
    blob: OpenBlob,
    digest: Digest,
    wire: Wire,
}

impl wire::blob::Server for BlobServer {
    async fn read(
        self: Rc<Self>,
        params: wire::blob::ReadParams,
        mut results: wire::blob::ReadResults,
    ) -> capnp::Result<()> {
        let work = async {
            let params = params.get()?;
            let (offset, length) = (params.get_offset(), params.get_length().min(MAX_CHUNK_BYTES));
            let left = self.blob.size.saturating_sub(offset).min(u64::from(length));
            let left = usize::try_from(left).expect("at most a chunk");
            let (file, digest) = (Rc::clone(&self).blob.file.clone(), self.digest.clone());
            blocking::run("read a blob", move || {
                let mut bytes = vec![0; left];
                file.read_exact_at(&mut bytes, offset).map_err(|error| {
                    Error::corrupt(format!("read {left} bytes of {digest} at {offset}: {error}"))
                })?;
                Ok(bytes)
            })
            .await
        };
        answer!(results, work, |out, bytes| out.set_bytes(&bytes))
    }

    async fn descriptor(
        self: Rc<Self>,
        _params: wire::blob::DescriptorParams,
        mut results: wire::blob::DescriptorResults,
    ) -> capnp::Result<()> {
        let work = self.wire.give(&*self.blob.file);
        answer!(results, work, |out, number| out.set_descriptor(number))
    }
}

struct IngestState {
    /// Gone after a commit or an abort.
    ingest: Option<Rc<Ingest>>,
    /// Where the next write must be.
    offset: u64,
}

struct IngestServer {
    state: RefCell<IngestState>,
    /// Whether the other side has the file: then what is answered must be in it.
    is_read_along: Cell<bool>,
    wire: Wire,
}

impl IngestServer {
    fn ended() -> Error {
        Error::precondition("the ingest was committed or aborted; open a new one")
    }

    fn take(&self) -> Result<Ingest> {
        let ingest = self.state.borrow_mut().ingest.take().ok_or_else(Self::ended)?;
        Rc::try_unwrap(ingest).map_err(|ingest| {
            self.state.borrow_mut().ingest = Some(ingest);
            Error::precondition("a write of this ingest is under way; wait for it")
        })
    }
}

impl wire::ingest::Server for IngestServer {
    async fn write(
        self: Rc<Self>,
        params: wire::ingest::WriteParams,
        mut results: wire::ingest::WriteResults,
    ) -> capnp::Result<()> {
        let work = async {
            let params = params.get()?;
            let bytes = params.get_bytes()?;
            if bytes.len() > MAX_CHUNK_BYTES as usize {
                return Err(Error::invalid(format!(
                    "write of {} bytes: at most {MAX_CHUNK_BYTES} at once",
                    bytes.len()
                )));
            }
            let (ingest, end) = {
                let mut state = self.state.borrow_mut();
                let ingest = state.ingest.clone().ok_or_else(Self::ended)?;
                if params.get_offset() != state.offset {
                    return Err(Error::invalid(format!(
                        "write at {}: the ingest stands at {}",
                        params.get_offset(),
                        state.offset
                    )));
                }
                // Taken before the wait below, so that writes sent one after the other line up.
                state.offset += bytes.len() as u64;
                (ingest, state.offset)
            };
            ingest.write(Bytes::copy_from_slice(bytes)).await?;
            if self.is_read_along.get() {
                ingest.taken(end).await?;
            }
            Ok(end)
        };
        answer!(results, work, |out, offset| out.set_offset(offset))
    }

    async fn commit(
        self: Rc<Self>,
        params: wire::ingest::CommitParams,
        mut results: wire::ingest::CommitResults,
    ) -> capnp::Result<()> {
        let work = async {
            let params = params.get()?;
            let expected = expected(params.get_expected())?;
            self.take()?.commit(expected, params.get_total()).await
        };
        answer!(results, work, |out, (digest, size)| {
            out.set_digest(digest.as_str());
            out.set_size(size);
        })
    }

    async fn abort(
        self: Rc<Self>,
        _params: wire::ingest::AbortParams,
        mut results: wire::ingest::AbortResults,
    ) -> capnp::Result<()> {
        let work = async { self.take()?.abort().await };
        answer!(results, work)
    }

    async fn descriptor(
        self: Rc<Self>,
        _params: wire::ingest::DescriptorParams,
        mut results: wire::ingest::DescriptorResults,
    ) -> capnp::Result<()> {
        let work = async {
            let ingest = self.state.borrow().ingest.clone().ok_or_else(Self::ended)?;
            self.is_read_along.set(true);
            self.wire.give(&**ingest.file()).await
        };
        answer!(results, work, |out, number| out.set_descriptor(number))
    }
}
