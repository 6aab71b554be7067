//! `Namespaces` of namespace.capnp.

use std::rc::Rc;

use capnp::capability::Client;
use capstan_schema::{
    Namespace, Result, namespace_capnp as wire, read_labels, read_texts, write_labels,
};

use super::{answer, length, page, text};
use crate::Link;
use crate::contract::Namespaces;
use crate::contract::namespaces::{Create, Delete, Get, Label, List, NamespaceInfo, Update};

struct Server(Link<Namespaces>);

/// The interface for one peer.
pub fn serve(link: Link<Namespaces>) -> Client {
    capnp_rpc::new_client::<wire::namespaces::Client, _>(Server(link)).client
}

fn write(info: &NamespaceInfo, mut out: wire::namespace::Builder<'_>) {
    out.set_name(info.name.as_str());
    out.set_created_at_unix_ns(info.created_at_unix_ns);
    let count = u32::try_from(info.labels.len()).expect("labels are few");
    write_labels(&info.labels, out.init_labels(count));
}

fn name(reader: capnp::Result<capnp::text::Reader<'_>>) -> Result<Namespace> {
    Namespace::parse(&text(reader)?)
}

impl wire::namespaces::Server for Server {
    async fn create(
        self: Rc<Self>,
        params: wire::namespaces::CreateParams,
        mut results: wire::namespaces::CreateResults,
    ) -> capnp::Result<()> {
        let work = async {
            let params = params.get()?;
            let message = Create {
                name: name(params.get_name())?,
                labels: read_labels(params.get_labels()?)?,
            };
            self.0.send(message).await
        };
        answer!(results, work, |out, info| write(&info, out.init_namespace()))
    }

    async fn get(
        self: Rc<Self>,
        params: wire::namespaces::GetParams,
        mut results: wire::namespaces::GetResults,
    ) -> capnp::Result<()> {
        let work = async { self.0.send(Get(name(params.get()?.get_name())?)).await };
        answer!(results, work, |out, info| write(&info, out.init_namespace()))
    }

    async fn list(
        self: Rc<Self>,
        params: wire::namespaces::ListParams,
        mut results: wire::namespaces::ListResults,
    ) -> capnp::Result<()> {
        let work = async { self.0.send(List(page(params.get()?.get_page())?)).await };
        answer!(results, work, |out, listed| {
            out.set_next(&listed.next);
            let mut list = out.init_namespaces(length(&listed.items));
            for (index, info) in (0..).zip(&listed.items) {
                write(info, list.reborrow().get(index));
            }
        })
    }

    async fn label(
        self: Rc<Self>,
        params: wire::namespaces::LabelParams,
        mut results: wire::namespaces::LabelResults,
    ) -> capnp::Result<()> {
        let work = async {
            let params = params.get()?;
            let message = Label {
                name: name(params.get_name())?,
                labels: read_labels(params.get_labels()?)?,
            };
            self.0.send(message).await
        };
        answer!(results, work, |out, info| write(&info, out.init_namespace()))
    }

    async fn update(
        self: Rc<Self>,
        params: wire::namespaces::UpdateParams,
        mut results: wire::namespaces::UpdateResults,
    ) -> capnp::Result<()> {
        let work = async {
            let params = params.get()?;
            let namespace = params.get_namespace()?;
            let message = Update {
                name: name(namespace.get_name())?,
                labels: read_labels(namespace.get_labels()?)?,
                mask: read_texts(params.get_mask()?)?,
            };
            self.0.send(message).await
        };
        answer!(results, work, |out, info| write(&info, out.init_namespace()))
    }

    async fn delete(
        self: Rc<Self>,
        params: wire::namespaces::DeleteParams,
        mut results: wire::namespaces::DeleteResults,
    ) -> capnp::Result<()> {
        let work = async { self.0.send(Delete(name(params.get()?.get_name())?)).await };
        answer!(results, work)
    }
}
