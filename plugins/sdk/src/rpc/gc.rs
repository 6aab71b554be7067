//! `Gc` of gc.capnp.

use std::rc::Rc;

use capnp::capability::Client;
use capstan_schema::{Namespace, gc_capnp as wire, write_texts};

use super::{access, answer, length, namespace, text};
use crate::Link;
use crate::contract::Gc;
use crate::contract::gc::{Audit, Collect, Heal, Report, Usage, Why};
use crate::contract::graph::{Finding, Flaw};

struct Server(Link<Gc>);

/// The interface for one peer.
pub fn serve(link: Link<Gc>) -> Client {
    capnp_rpc::new_client::<wire::gc::Client, _>(Server(link)).client
}

fn write_report(report: &Report, mut out: wire::report::Builder<'_>) {
    out.set_freed_bytes(report.freed);
    out.set_kept(report.kept);
    out.set_spared(report.spared);
    out.set_took_ns(report.took_ns);
    out.set_longest_pause_ns(report.longest_pause_ns);
    let mut list = out.init_removed(length(&report.removed));
    for (index, removed) in (0..).zip(&report.removed) {
        let mut out = list.reborrow().get(index);
        out.set_namespace(removed.namespace.as_ref().map(Namespace::as_str).unwrap_or_default());
        out.set_resource(removed.resource.to_string());
        out.set_size_bytes(removed.size);
    }
}

fn write_finding(finding: &Finding, mut out: wire::finding::Builder<'_>) {
    out.set_namespace(finding.namespace.as_ref().map(Namespace::as_str).unwrap_or_default());
    out.set_what(&finding.what);
    out.set_flaw(match finding.flaw {
        Flaw::Missing => wire::Flaw::Missing,
        Flaw::Damaged => wire::Flaw::Damaged,
        Flaw::Orphan => wire::Flaw::Orphan,
        Flaw::Leftover => wire::Flaw::Leftover,
    });
    out.set_detail(&finding.detail);
}

impl wire::gc::Server for Server {
    async fn collect(
        self: Rc<Self>,
        params: wire::gc::CollectParams,
        mut results: wire::gc::CollectResults,
    ) -> capnp::Result<()> {
        let work = async {
            let params = params.get()?;
            let namespace = namespace(params.get_namespace())?;
            self.0.send(Collect { namespace, is_dry: params.get_dry_run() }).await
        };
        answer!(results, work, |out, report| write_report(&report, out.init_report()))
    }

    async fn why(
        self: Rc<Self>,
        params: wire::gc::WhyParams,
        mut results: wire::gc::WhyResults,
    ) -> capnp::Result<()> {
        let work = async {
            let params = params.get()?;
            let namespace = Namespace::parse(&text(params.get_namespace())?)?;
            self.0.send(Why { namespace, what: text(params.get_resource())? }).await
        };
        answer!(results, work, |out, chains| {
            let mut list = out.init_chains(length(&chains));
            for (index, chain) in (0..).zip(&chains) {
                let mut out = list.reborrow().get(index);
                out.set_root(&chain.root);
                write_texts(&chain.links, out.init_links(length(&chain.links)));
            }
        })
    }

    async fn usage(
        self: Rc<Self>,
        params: wire::gc::UsageParams,
        mut results: wire::gc::UsageResults,
    ) -> capnp::Result<()> {
        let work = async {
            let namespace = namespace(params.get()?.get_namespace())?;
            let rooms = self.0.send(Usage(namespace)).await?;
            Ok(rooms.into_iter().collect::<Vec<_>>())
        };
        answer!(results, work, |out, rooms| {
            let mut list = out.init_rooms(length(&rooms));
            for (index, (kind, room)) in (0..).zip(&rooms) {
                let mut out = list.reborrow().get(index);
                out.set_kind(kind);
                out.set_count(room.count);
                out.set_size_bytes(room.size);
                out.set_reclaimable(room.reclaimable);
                out.set_reclaimable_bytes(room.reclaimable_size);
            }
        })
    }

    async fn audit(
        self: Rc<Self>,
        params: wire::gc::AuditParams,
        mut results: wire::gc::AuditResults,
    ) -> capnp::Result<()> {
        let work = async { self.0.send(Audit { is_full: params.get()?.get_full() }).await };
        answer!(results, work, |out, findings| {
            let mut list = out.init_findings(length(&findings));
            for (index, finding) in (0..).zip(&findings) {
                write_finding(finding, list.reborrow().get(index));
            }
        })
    }

    async fn heal(
        self: Rc<Self>,
        params: wire::gc::HealParams,
        mut results: wire::gc::HealResults,
    ) -> capnp::Result<()> {
        let work = async {
            let params = params.get()?;
            let access = access::read(params.get_access()?)?;
            self.0.send(Heal { is_full: params.get_full(), access }).await
        };
        answer!(results, work, |out, healed| {
            let mut list = out.init_healed(length(&healed));
            for (index, healed) in (0..).zip(&healed) {
                let mut out = list.reborrow().get(index);
                write_finding(&healed.finding, out.reborrow().init_finding());
                out.set_is_healed(healed.outcome.is_ok());
                out.set_outcome(match &healed.outcome {
                    Ok(outcome) | Err(outcome) => outcome,
                });
            }
        })
    }
}
