//! Colours, and ways from roots.

use std::collections::VecDeque;

use capstan_sdk::contract::gc::Chain;
use capstan_sdk::contract::graph::Resource;

use crate::graph::Graph;

/// The most chains of an answer.
const CHAINS: usize = 32;

/// Which nodes a root reaches. Every node is white at first, grey while what it keeps is still to be looked at, and
/// black then; white ones are garbage.
pub(crate) fn reached(graph: &Graph) -> Vec<bool> {
    let mut is_marked = vec![false; graph.nodes.len()];
    let mut grey: Vec<usize> = Vec::new();
    for (index, node) in graph.nodes.iter().enumerate() {
        if !node.root.is_empty() {
            is_marked[index] = true;
            grey.push(index);
        }
    }
    while let Some(index) = grey.pop() {
        for kept in graph.kept_by(index) {
            if !is_marked[kept] {
                is_marked[kept] = true;
                grey.push(kept);
            }
        }
    }
    is_marked
}

/// A shortest chain from each root that reaches a node, the nearest root first.
pub(crate) fn chains(graph: &Graph, target: usize) -> Vec<Chain> {
    let mut keepers: Vec<Vec<usize>> = vec![Vec::new(); graph.nodes.len()];
    for index in 0..graph.nodes.len() {
        for kept in graph.kept_by(index) {
            keepers[kept].push(index);
        }
    }
    // Breadth first from the thing to its keepers; `next` leads back.
    let mut next: Vec<Option<usize>> = vec![None; graph.nodes.len()];
    let mut is_seen = vec![false; graph.nodes.len()];
    is_seen[target] = true;
    let mut queue = VecDeque::from([target]);
    let mut chains = Vec::new();
    while let Some(index) = queue.pop_front() {
        if !graph.nodes[index].root.is_empty() {
            chains.push(chain(graph, index, &next));
            if chains.len() == CHAINS {
                break;
            }
        }
        for &keeper in &keepers[index] {
            if !is_seen[keeper] {
                is_seen[keeper] = true;
                next[keeper] = Some(index);
                queue.push_back(keeper);
            }
        }
    }
    chains
}

fn chain(graph: &Graph, root: usize, next: &[Option<usize>]) -> Chain {
    let mut links = Vec::new();
    let mut at = Some(root);
    while let Some(index) = at {
        links.push(graph.nodes[index].resource.to_string());
        at = next[index];
    }
    Chain { links, root: graph.nodes[root].root.clone() }
}

/// White snapshots in an order in which each can go: children before their parents.
pub(crate) fn children_first(graph: &Graph, white: &[usize]) -> Vec<usize> {
    // A snapshot references its parent, so a chain's depth is how far it is from the base.
    let mut depths = vec![None; graph.nodes.len()];
    let mut ordered: Vec<(usize, usize)> =
        white.iter().map(|&index| (depth(graph, index, &mut depths), index)).collect();
    ordered.sort_by_key(|&(depth, index)| (std::cmp::Reverse(depth), index));
    ordered.into_iter().map(|(_, index)| index).collect()
}

fn depth(graph: &Graph, index: usize, depths: &mut [Option<usize>]) -> usize {
    let mut way = Vec::new();
    let mut at = index;
    let base = loop {
        if let Some(known) = depths[at] {
            break known;
        }
        way.push(at);
        // Records that are damaged might make a circle.
        let parent = graph.kept_by(at).into_iter().find(|&kept| {
            matches!(graph.nodes[kept].resource, Resource::Snapshot { .. }) && !way.contains(&kept)
        });
        match parent {
            Some(parent) => at = parent,
            None => break 0,
        }
    };
    for (above, &index) in way.iter().rev().enumerate() {
        depths[index] = Some(base + above + 1);
    }
    depths[index].unwrap_or(base)
}

#[cfg(test)]
mod tests {
    use super::*;
    use capstan_sdk::Labels;
    use capstan_sdk::contract::graph::Node;
    use proptest::prelude::*;

    fn name(index: usize) -> Resource {
        Resource::Snapshot { snapshotter: "s".into(), key: index.to_string() }
    }

    fn graph(edges: &[Vec<usize>], roots: &[bool]) -> Graph {
        let nodes = edges.iter().zip(roots).enumerate().map(|(index, (kept, is_root))| Node {
            resource: name(index),
            references: kept.iter().map(|&kept| name(kept)).collect(),
            root: if *is_root { "root".into() } else { String::new() },
            size: 1,
            created_at_unix_ns: 0,
            used_at_unix_ns: 0,
            labels: Labels::new(),
        });
        Graph::new(nodes.collect(), None, 0)
    }

    /// Any graph of up to thirty nodes, with circles, loops and edges to nothing.
    fn any_graph() -> impl Strategy<Value = (Vec<Vec<usize>>, Vec<bool>)> {
        (1usize..30).prop_flat_map(|count| {
            let edges = prop::collection::vec(0..count + 2, 0..4);
            (prop::collection::vec(edges, count), prop::collection::vec(any::<bool>(), count))
        })
    }

    proptest! {
        #[test]
        fn what_a_root_reaches_is_marked_and_nothing_else((edges, roots) in any_graph()) {
            let graph = graph(&edges, &roots);
            // The simplest thing that could be right: on and on until nothing changes.
            let mut want = roots.clone();
            loop {
                let before = want.clone();
                for (index, kept) in edges.iter().enumerate() {
                    for &kept in kept.iter().filter(|&&kept| kept < edges.len()) {
                        want[kept] = want[kept] || want[index];
                    }
                }
                if before == want {
                    break;
                }
            }
            prop_assert_eq!(reached(&graph), want);
        }

        #[test]
        fn a_chain_begins_at_a_root_ends_at_the_thing_and_each_keeps_the_next(
            (edges, roots) in any_graph()
        ) {
            let graph = graph(&edges, &roots);
            let is_marked = reached(&graph);
            for (target, is_marked) in is_marked.into_iter().enumerate() {
                let chains = chains(&graph, target);
                prop_assert_eq!(!chains.is_empty(), is_marked);
                for chain in chains {
                    let links: Vec<usize> = chain.links.iter().map(|link| {
                        link.rsplit('/').next().unwrap().parse().unwrap()
                    }).collect();
                    prop_assert!(roots[links[0]]);
                    prop_assert_eq!(*links.last().unwrap(), target);
                    prop_assert!(links.windows(2).all(|pair| edges[pair[0]].contains(&pair[1])));
                }
            }
        }

        #[test]
        fn a_child_goes_before_its_parent(parents in prop::collection::vec(any::<prop::sample::Index>(), 1..40)) {
            // A node's parent is one before it, or none.
            let edges: Vec<Vec<usize>> = parents.iter().enumerate().map(|(index, parent)| {
                let parent = parent.index(index + 1);
                if parent == index { Vec::new() } else { vec![parent] }
            }).collect();
            let graph = graph(&edges, &vec![false; edges.len()]);
            let white: Vec<usize> = (0..edges.len()).collect();
            let order = children_first(&graph, &white);
            prop_assert_eq!(order.len(), edges.len());
            let place = |index: usize| order.iter().position(|&at| at == index).unwrap();
            for (index, parent) in edges.iter().enumerate() {
                for &parent in parent {
                    prop_assert!(place(index) < place(parent));
                }
            }
        }
    }
}
