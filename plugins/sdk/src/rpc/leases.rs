//! `Leases` and `Hold` of leases.capnp.

use std::rc::Rc;

use capnp::capability::Client;
use capstan_schema::{
    Namespace, Result, leases_capnp as wire, read_labels, write_labels, write_texts,
};

use super::{answer, length, text};
use crate::Link;
use crate::contract::leases::{
    Change, Create, Delete, Get, Hold, Lease, List, Resources, TakeHold,
};
use crate::contract::{Leases, Page};

struct Server {
    link: Link<Leases>,
    namespace: Namespace,
}

struct HoldServer(Hold);

/// The interface for one peer, bound to a namespace.
pub fn serve(link: Link<Leases>, namespace: Namespace) -> Client {
    capnp_rpc::new_client::<wire::leases::Client, _>(Server { link, namespace }).client
}

fn write(lease: &Lease, mut out: wire::lease::Builder<'_>) {
    out.set_id(&lease.id);
    out.set_created_at_unix_ns(lease.created_at_unix_ns);
    out.set_expires_at_unix_ns(lease.expires_at_unix_ns);
    let count = u32::try_from(lease.labels.len()).expect("labels are few");
    write_labels(&lease.labels, out.init_labels(count));
}

impl Server {
    async fn change(
        &self,
        id: capnp::Result<capnp::text::Reader<'_>>,
        resource: capnp::Result<capnp::text::Reader<'_>>,
        is_kept: bool,
    ) -> Result<()> {
        let (id, resource) = (text(id)?, text(resource)?.parse()?);
        self.link.send(Change { namespace: self.namespace.clone(), id, resource, is_kept }).await
    }
}

impl wire::leases::Server for Server {
    async fn create(
        self: Rc<Self>,
        params: wire::leases::CreateParams,
        mut results: wire::leases::CreateResults,
    ) -> capnp::Result<()> {
        let work = async {
            let params = params.get()?;
            let message = Create {
                namespace: self.namespace.clone(),
                id: text(params.get_id())?,
                expires_in_ns: params.get_expires_in_ns(),
                labels: read_labels(params.get_labels()?)?,
            };
            self.link.send(message).await
        };
        answer!(results, work, |out, lease| write(&lease, out.init_lease()))
    }

    async fn get(
        self: Rc<Self>,
        params: wire::leases::GetParams,
        mut results: wire::leases::GetResults,
    ) -> capnp::Result<()> {
        let work = async {
            let id = text(params.get()?.get_id())?;
            self.link.send(Get { namespace: self.namespace.clone(), id }).await
        };
        answer!(results, work, |out, lease| write(&lease, out.init_lease()))
    }

    async fn list(
        self: Rc<Self>,
        params: wire::leases::ListParams,
        mut results: wire::leases::ListResults,
    ) -> capnp::Result<()> {
        let work = async {
            let page = params.get()?.get_page()?;
            let page = Page::new(text(page.get_after())?, page.get_limit());
            self.link.send(List { namespace: self.namespace.clone(), page }).await
        };
        answer!(results, work, |out, listed| {
            out.set_next(&listed.next);
            let mut list = out.init_leases(length(&listed.items));
            for (index, lease) in (0..).zip(&listed.items) {
                write(lease, list.reborrow().get(index));
            }
        })
    }

    async fn delete(
        self: Rc<Self>,
        params: wire::leases::DeleteParams,
        mut results: wire::leases::DeleteResults,
    ) -> capnp::Result<()> {
        let work = async {
            let id = text(params.get()?.get_id())?;
            self.link.send(Delete { namespace: self.namespace.clone(), id }).await
        };
        answer!(results, work)
    }

    async fn add(
        self: Rc<Self>,
        params: wire::leases::AddParams,
        mut results: wire::leases::AddResults,
    ) -> capnp::Result<()> {
        let work = async {
            let params = params.get()?;
            self.change(params.get_id(), params.get_resource(), true).await
        };
        answer!(results, work)
    }

    async fn remove(
        self: Rc<Self>,
        params: wire::leases::RemoveParams,
        mut results: wire::leases::RemoveResults,
    ) -> capnp::Result<()> {
        let work = async {
            let params = params.get()?;
            self.change(params.get_id(), params.get_resource(), false).await
        };
        answer!(results, work)
    }

    async fn resources(
        self: Rc<Self>,
        params: wire::leases::ResourcesParams,
        mut results: wire::leases::ResourcesResults,
    ) -> capnp::Result<()> {
        let work = async {
            let id = text(params.get()?.get_id())?;
            let asked = Resources { namespace: self.namespace.clone(), id };
            let found = self.link.send(asked).await?;
            Ok(found.iter().map(ToString::to_string).collect::<Vec<_>>())
        };
        answer!(results, work, |out, found| write_texts(&found, out.init_resources(length(&found))))
    }

    async fn hold(
        self: Rc<Self>,
        params: wire::leases::HoldParams,
        mut results: wire::leases::HoldResults,
    ) -> capnp::Result<()> {
        let work = async {
            let owner = text(params.get()?.get_owner())?;
            self.link.send(TakeHold { namespace: self.namespace.clone(), owner }).await
        };
        answer!(results, work, |out, hold| out.set_hold(capnp_rpc::new_client(HoldServer(hold))))
    }
}

impl wire::hold::Server for HoldServer {
    async fn broken(
        self: Rc<Self>,
        _params: wire::hold::BrokenParams,
        _results: wire::hold::BrokenResults,
    ) -> capnp::Result<()> {
        self.0.broken().await;
        Ok(())
    }
}
