//! The nodes of a namespace, by name.

use std::collections::{BTreeMap, HashMap};

use capstan_schema::time::parse_rfc3339;
use capstan_sdk::contract::graph::{
    LABEL_CONTENT, LABEL_EXPIRE, LABEL_ROOT, LABEL_SNAPSHOT, Node, Resource,
};
use capstan_sdk::{Digest, Labels};

/// A look at one namespace.
#[derive(Debug, Default)]
pub(crate) struct Graph {
    pub(crate) nodes: Vec<Node>,
    by_name: HashMap<Resource, usize>,
    /// Snapshots by key, in whichever snapshotter.
    by_key: BTreeMap<String, Vec<usize>>,
}

impl Graph {
    /// Adds up what the owners told. What holds, labels and the clock keep becomes a root here; `held_since` is when
    /// the oldest hold of the namespace began, with whose it is.
    pub(crate) fn new(nodes: Vec<Node>, held_since: Option<&(i64, String)>, now: i64) -> Self {
        let mut graph = Self::default();
        for mut node in nodes {
            if node.root.is_empty() {
                node.root = kept(&node, held_since, now).unwrap_or_default();
            }
            node.references.extend(references(&node.labels));
            let index = graph.nodes.len();
            if let Resource::Snapshot { key, .. } = &node.resource {
                graph.by_key.entry(key.clone()).or_default().push(index);
            }
            graph.by_name.insert(node.resource.clone(), index);
            graph.nodes.push(node);
        }
        graph
    }

    pub(crate) fn find(&self, resource: &Resource) -> Option<usize> {
        self.by_name.get(resource).copied()
    }

    /// The snapshots of a key.
    pub(crate) fn snapshots(&self, key: &str) -> &[usize] {
        self.by_key.get(key).map(Vec::as_slice).unwrap_or_default()
    }

    /// The nodes that a node keeps; what is not there is passed over.
    pub(crate) fn kept_by(&self, index: usize) -> Vec<usize> {
        let mut kept = Vec::new();
        for reference in &self.nodes[index].references {
            match reference {
                Resource::Snapshot { snapshotter, key } if snapshotter == "*" => {
                    kept.extend_from_slice(self.snapshots(key));
                }
                _ => kept.extend(self.find(reference)),
            }
        }
        kept
    }
}

/// What makes a node a root that its owner does not know of.
fn kept(node: &Node, held_since: Option<&(i64, String)>, now: i64) -> Option<String> {
    if node.labels.contains_key(LABEL_ROOT) {
        return Some(format!("it has the label {LABEL_ROOT}"));
    }
    if let Some(until) = node.labels.get(LABEL_EXPIRE)
        // A time that is none keeps it: rather that than removing something by a mistake in writing.
        && parse_rfc3339(until).is_none_or(|until| until > now)
    {
        return Some(format!("it has the label {LABEL_EXPIRE}={until}"));
    }
    let (since, owner) = held_since?;
    // An owner tells at least when it was made.
    (node.used_at_unix_ns >= *since).then(|| format!("in use since a hold began: {owner}"))
}

/// The references in labels. One that does not parse keeps nothing.
fn references(labels: &Labels) -> Vec<Resource> {
    let mut found = Vec::new();
    for (label, value) in labels {
        if label == LABEL_CONTENT || label.starts_with(&format!("{LABEL_CONTENT}.")) {
            found.extend(Digest::parse(value).ok().map(Resource::Content));
        } else if let Some(rest) = label.strip_prefix(LABEL_SNAPSHOT) {
            let snapshotter = rest.split('/').next().unwrap_or(rest);
            found.push(Resource::Snapshot { snapshotter: snapshotter.into(), key: value.clone() });
        }
    }
    found
}
