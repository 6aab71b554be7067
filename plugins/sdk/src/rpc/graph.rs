//! Nodes and findings of graph.capnp: answers that may be longer than a message.

use std::cell::RefCell;
use std::rc::Rc;

use capstan_schema::{graph_capnp as wire, write_labels, write_texts};

use super::{answer, length};
use crate::contract::graph::{Finding, Flaw, Node};

/// How many go into one message: far below what a reader takes, even if each has long labels.
const CHUNK: usize = 1000;

/// An answer that is fetched piece by piece.
struct Pieces<T>(RefCell<std::vec::IntoIter<T>>);

impl<T> Pieces<T> {
    fn piece(&self) -> Vec<T> {
        self.0.borrow_mut().by_ref().take(CHUNK).collect()
    }
}

/// Hands nodes out.
pub(crate) fn nodes(nodes: Vec<Node>) -> wire::nodes::Client {
    capnp_rpc::new_client(Pieces(RefCell::new(nodes.into_iter())))
}

/// Hands findings out.
pub(crate) fn findings(findings: Vec<Finding>) -> wire::findings::Client {
    capnp_rpc::new_client(Pieces(RefCell::new(findings.into_iter())))
}

impl wire::nodes::Server for Pieces<Node> {
    async fn next(
        self: Rc<Self>,
        _params: wire::nodes::NextParams,
        mut results: wire::nodes::NextResults,
    ) -> capnp::Result<()> {
        let work = async { Ok(self.piece()) };
        answer!(results, work, |out, nodes| {
            let mut list = out.init_nodes(length(&nodes));
            for (index, node) in (0..).zip(&nodes) {
                write_node(node, list.reborrow().get(index));
            }
        })
    }
}

impl wire::findings::Server for Pieces<Finding> {
    async fn next(
        self: Rc<Self>,
        _params: wire::findings::NextParams,
        mut results: wire::findings::NextResults,
    ) -> capnp::Result<()> {
        let work = async { Ok(self.piece()) };
        answer!(results, work, |out, findings| {
            let mut list = out.init_findings(length(&findings));
            for (index, finding) in (0..).zip(&findings) {
                write_finding(finding, list.reborrow().get(index));
            }
        })
    }
}

fn write_node(node: &Node, mut out: wire::node::Builder<'_>) {
    out.set_resource(node.resource.to_string());
    let references: Vec<String> = node.references.iter().map(ToString::to_string).collect();
    write_texts(&references, out.reborrow().init_references(length(&references)));
    out.set_root(&node.root);
    out.set_size(node.size);
    out.set_created_at_unix_ns(node.created_at_unix_ns);
    out.set_used_at_unix_ns(node.used_at_unix_ns);
    let count = u32::try_from(node.labels.len()).expect("labels are few");
    write_labels(&node.labels, out.init_labels(count));
}

/// Writes one finding.
pub(crate) fn write_finding(finding: &Finding, mut out: wire::finding::Builder<'_>) {
    out.set_namespace(finding.namespace.as_ref().map(|name| name.as_str()).unwrap_or_default());
    out.set_what(&finding.what);
    out.set_flaw(match finding.flaw {
        Flaw::Missing => wire::Flaw::Missing,
        Flaw::Damaged => wire::Flaw::Damaged,
        Flaw::Orphan => wire::Flaw::Orphan,
        Flaw::Leftover => wire::Flaw::Leftover,
    });
    out.set_detail(&finding.detail);
}
