//! The dependency graph: in which order plugins start, and what is wrong when there is none.
//!
//! It is pure: ids and requirements in, an order or an error out.

use std::collections::{BTreeMap, BTreeSet};

use capstan_schema::{Error, Result};

/// A plugin, as the graph sees it.
#[derive(Clone, Debug)]
pub struct Node {
    /// `kind.name`.
    pub id: String,
    /// Kinds and ids; with `?` behind it, optional.
    pub requires: Vec<String>,
}

/// One requirement of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requirement {
    /// A kind or an id.
    pub target: String,
    /// Whether the node can do without.
    pub is_optional: bool,
}

impl Requirement {
    /// `metadata`, `snapshotter.overlay`, `events?`.
    pub fn parse(text: &str) -> Self {
        match text.strip_suffix('?') {
            Some(target) => Self { target: target.into(), is_optional: true },
            None => Self { target: text.into(), is_optional: false },
        }
    }

    /// Whether a plugin is what is required, or one of those.
    pub fn is_met_by(&self, id: &str) -> bool {
        id == self.target || kind_of(id) == self.target
    }
}

/// The part of an id before the first dot.
pub fn kind_of(id: &str) -> &str {
    id.split('.').next().unwrap_or(id)
}

fn is_id(text: &str) -> bool {
    let word = |part: &str| {
        !part.is_empty()
            && part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
    };
    text.split_once('.').is_some_and(|(kind, name)| word(kind) && word(name))
}

/// The indices of `nodes` in an order in which each comes behind everything that it requires.
///
/// Among those that are free to go the order of ids decides, so it is the same at each boot. A
/// requirement that nothing meets is no error here: the supervisor skips that plugin.
///
/// # Errors
/// `InvalidArgument`: an id that is no `kind.name`. `AlreadyExists`: an id that is there twice.
/// `FailedPrecondition`: a cycle, with its path.
pub fn order(nodes: &[Node]) -> Result<Vec<usize>> {
    let mut seen = BTreeSet::new();
    for node in nodes {
        if !is_id(&node.id) {
            return Err(Error::invalid(format!(
                "plugin id {:?}: want kind.name in lower-case letters, digits and dashes",
                node.id
            )));
        }
        if !seen.insert(&node.id) {
            return Err(Error::already_exists(format!(
                "plugin {} is registered twice; remove one of the two",
                node.id
            )));
        }
    }
    let behind = behind(nodes);
    let mut by_id: Vec<usize> = (0..nodes.len()).collect();
    by_id.sort_by_key(|&index| &nodes[index].id);
    let mut order = Vec::with_capacity(nodes.len());
    let mut state = vec![Mark::New; nodes.len()];
    for &start in &by_id {
        visit(start, nodes, &behind, &by_id, &mut state, &mut Vec::new(), &mut order)?;
    }
    Ok(order)
}

/// For each node the nodes that it must come behind.
pub fn behind(nodes: &[Node]) -> Vec<Vec<usize>> {
    let behind = |node: &Node| {
        let requirements: Vec<_> = node.requires.iter().map(|r| Requirement::parse(r)).collect();
        (0..nodes.len())
            .filter(|&other| requirements.iter().any(|r| r.is_met_by(&nodes[other].id)))
            .collect()
    };
    nodes.iter().map(behind).collect()
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mark {
    New,
    Open,
    Done,
}

fn visit(
    node: usize,
    nodes: &[Node],
    behind: &[Vec<usize>],
    by_id: &[usize],
    state: &mut [Mark],
    path: &mut Vec<usize>,
    order: &mut Vec<usize>,
) -> Result<()> {
    match state[node] {
        Mark::Done => return Ok(()),
        Mark::Open => {
            let from = path.iter().position(|&n| n == node).expect("an open node is on the path");
            let cycle: Vec<&str> =
                path[from..].iter().chain([&node]).map(|&n| nodes[n].id.as_str()).collect();
            return Err(Error::precondition(format!(
                "plugins require each other in a circle: {}; remove one of these requirements",
                cycle.join(" -> ")
            )));
        }
        Mark::New => {}
    }
    state[node] = Mark::Open;
    path.push(node);
    for &next in by_id.iter().filter(|next| behind[node].contains(next)) {
        visit(next, nodes, behind, by_id, state, path, order)?;
    }
    path.pop();
    state[node] = Mark::Done;
    order.push(node);
    Ok(())
}

/// The preferred plugin of each kind: the one that the configuration names, else the highest rank,
/// else the first by id.
///
/// # Errors
/// `InvalidArgument`: the configuration prefers a plugin that is not there.
pub fn preferred(
    ids: &[(String, i32)],
    configured: &BTreeMap<String, String>,
) -> Result<BTreeMap<String, String>> {
    let mut preferred: BTreeMap<String, (i32, String)> = BTreeMap::new();
    let mut sorted = ids.to_vec();
    sorted.sort();
    for (id, rank) in sorted {
        let best = preferred.entry(kind_of(&id).to_owned()).or_insert_with(|| (rank, id.clone()));
        if rank > best.0 {
            *best = (rank, id);
        }
    }
    let mut preferred: BTreeMap<String, String> =
        preferred.into_iter().map(|(kind, (_, id))| (kind, id)).collect();
    for (kind, name) in configured {
        let id = format!("{kind}.{name}");
        if !ids.iter().any(|(known, _)| *known == id) {
            return Err(Error::invalid(format!(
                "[prefer] {kind} = {name:?}: there is no plugin {id}"
            )));
        }
        preferred.insert(kind.clone(), id);
    }
    Ok(preferred)
}

#[cfg(test)]
mod tests {
    use super::*;
    use capstan_schema::Class;

    fn nodes(spec: &[(&str, &[&str])]) -> Vec<Node> {
        spec.iter()
            .map(|(id, requires)| Node {
                id: (*id).into(),
                requires: requires.iter().map(|&r| r.into()).collect(),
            })
            .collect()
    }

    fn check(spec: &[(&str, &[&str])], want: &str) {
        let nodes = nodes(spec);
        let got = order(&nodes).expect("there is an order");
        let got: Vec<&str> = got.iter().map(|&index| nodes[index].id.as_str()).collect();
        assert_eq!(got.join(" "), want);
    }

    fn check_error(spec: &[(&str, &[&str])], class: Class, text: &str) {
        let error = order(&nodes(spec)).expect_err("there is no order");
        assert_eq!(error.class(), class, "{error}");
        assert!(error.message().contains(text), "{error}");
    }

    #[test]
    fn what_is_required_comes_first() {
        check(&[("b.x", &["a"]), ("a.x", &[])], "a.x b.x");
        check(&[("b.x", &["a.z"]), ("a.y", &[]), ("a.z", &[])], "a.y a.z b.x");
        check(&[("b.x", &["a?"]), ("a.y", &["c"]), ("c.x", &[])], "c.x a.y b.x");
    }

    #[test]
    fn all_of_a_kind_come_first() {
        check(&[("a.user", &["k"]), ("k.one", &[]), ("k.two", &[])], "k.one k.two a.user");
    }

    #[test]
    fn what_nobody_offers_does_not_stop_the_order() {
        check(&[("b.x", &["nothing"]), ("a.x", &["b"])], "b.x a.x");
    }

    #[test]
    fn a_cycle_is_told_with_its_path() {
        check_error(
            &[("a.x", &["b"]), ("b.x", &["c"]), ("c.x", &["a"]), ("d.x", &[])],
            Class::FailedPrecondition,
            "a.x -> b.x -> c.x -> a.x",
        );
        check_error(&[("a.x", &["a"])], Class::FailedPrecondition, "a.x -> a.x");
    }

    #[test]
    fn a_duplicate_is_told() {
        check_error(&[("a.x", &[]), ("a.x", &[])], Class::AlreadyExists, "a.x is registered twice");
    }

    #[test]
    fn an_id_is_kind_and_name() {
        for bad in ["", ".", "a", "a.", ".a", "a.b.c", "A.b", "a.b c", "a/b.c"] {
            check_error(&[(bad, &[])], Class::InvalidArgument, "kind.name");
        }
    }

    #[test]
    fn preference_is_by_configuration_then_rank() {
        let ids = [("s.a".to_owned(), 0), ("s.b".to_owned(), 10), ("t.x".to_owned(), 0)];
        let none = BTreeMap::new();
        assert_eq!(preferred(&ids, &none).unwrap()["s"], "s.b");
        let named = BTreeMap::from([("s".to_owned(), "a".to_owned())]);
        assert_eq!(preferred(&ids, &named).unwrap()["s"], "s.a");
        let wrong = BTreeMap::from([("s".to_owned(), "z".to_owned())]);
        assert_eq!(preferred(&ids, &wrong).unwrap_err().class(), Class::InvalidArgument);
    }
}
