//! Nodes and findings of graph.capnp, fetched piece by piece.

use capstan_schema::{Result, graph_capnp as wire, read_labels};

use crate::contract::graph::{Collected, Finding, Flaw, Node, Resource};
use crate::outside::{Far, call};
use crate::rpc::{namespace, text};

/// How many names one message to collect carries.
pub(super) const NAMES: usize = 1000;

/// Fetches all nodes.
pub(super) async fn nodes(far: &Far, client: wire::nodes::Client) -> Result<Vec<Node>> {
    let mut all = Vec::new();
    loop {
        let request = client.next_request();
        let piece: Vec<Node> = call!(far, request, |results| {
            results.get_nodes()?.iter().map(read_node).collect::<Result<_>>()
        })?;
        if piece.is_empty() {
            return Ok(all);
        }
        all.extend(piece);
    }
}

/// Fetches all findings.
pub(super) async fn findings(far: &Far, client: wire::findings::Client) -> Result<Vec<Finding>> {
    let mut all = Vec::new();
    loop {
        let request = client.next_request();
        let piece: Vec<Finding> = call!(far, request, |results| {
            results.get_findings()?.iter().map(read_finding).collect::<Result<_>>()
        })?;
        if piece.is_empty() {
            return Ok(all);
        }
        all.extend(piece);
    }
}

/// Adds what one message of several collected.
pub(super) fn add(collected: &mut Collected, more: Collected) {
    collected.removed.extend(more.removed);
    collected.freed += more.freed;
}

fn read_node(reader: wire::node::Reader<'_>) -> Result<Node> {
    let references = reader.get_references()?.iter();
    Ok(Node {
        resource: text(reader.get_resource())?.parse()?,
        references: references
            .map(|reference| text(reference)?.parse())
            .collect::<Result<Vec<Resource>>>()?,
        root: text(reader.get_root())?,
        size: reader.get_size(),
        created_at_unix_ns: reader.get_created_at_unix_ns(),
        used_at_unix_ns: reader.get_used_at_unix_ns(),
        labels: read_labels(reader.get_labels()?)?,
    })
}

fn read_finding(reader: wire::finding::Reader<'_>) -> Result<Finding> {
    Ok(Finding {
        namespace: namespace(reader.get_namespace())?,
        what: text(reader.get_what())?,
        flaw: match reader.get_flaw().map_err(capnp::Error::from)? {
            wire::Flaw::Missing => Flaw::Missing,
            wire::Flaw::Damaged => Flaw::Damaged,
            wire::Flaw::Orphan => Flaw::Orphan,
            wire::Flaw::Leftover => Flaw::Leftover,
        },
        detail: text(reader.get_detail())?,
    })
}
