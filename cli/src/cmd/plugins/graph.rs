//! Which plugin requires which: for the terminal, and for graphviz.

use std::fmt::Write as _;

/// A plugin.
pub(super) struct Node {
    pub(super) id: String,
    pub(super) state: &'static str,
    /// Kinds and ids; optional ones end with `?`.
    pub(super) requires: Vec<String>,
}

/// The plugins that a requirement means, and whether it is optional.
fn meant<'n>(requirement: &str, nodes: &'n [Node]) -> (Vec<&'n Node>, bool) {
    let target = requirement.trim_end_matches('?');
    let is_it = |node: &&Node| node.id == target || node.id.split('.').next() == Some(target);
    (nodes.iter().filter(is_it).collect(), target != requirement)
}

/// A digraph; dashed is optional, grey does not run.
pub(super) fn dot(nodes: &[Node]) -> String {
    let mut text = String::from("digraph plugins {\n  rankdir = LR;\n  node [shape = box];\n");
    for node in nodes {
        let style = match node.state {
            "running" => "",
            _ => ", color = grey, fontcolor = grey",
        };
        let _ =
            writeln!(text, "  {:?} [label = \"{}\\n{}\"{style}];", node.id, node.id, node.state);
    }
    for node in nodes {
        for requirement in &node.requires {
            let (targets, is_optional) = meant(requirement, nodes);
            let style = if is_optional { " [style = dashed]" } else { "" };
            for target in &targets {
                let _ = writeln!(text, "  {:?} -> {:?}{style};", node.id, target.id);
            }
            if targets.is_empty() {
                let target = requirement.trim_end_matches('?');
                let _ = writeln!(text, "  {:?} -> {target:?} [style = dotted];", node.id);
            }
        }
    }
    text.push_str("}\n");
    text
}

/// A line for each plugin, and below it what it requires.
pub(super) fn tree(nodes: &[Node]) -> String {
    let mut text = String::new();
    for node in nodes {
        let _ = writeln!(text, "{} ({})", node.id, node.state);
        for (index, requirement) in node.requires.iter().enumerate() {
            let branch = if index + 1 == node.requires.len() { "`-" } else { "|-" };
            let (targets, is_optional) = meant(requirement, nodes);
            let mut names: Vec<&str> = targets.iter().map(|target| target.id.as_str()).collect();
            if names.is_empty() {
                names.push("nobody");
            }
            let optional = if is_optional { ", can do without" } else { "" };
            let target = requirement.trim_end_matches('?');
            let _ = writeln!(text, "{branch} {target}: {}{optional}", names.join(" or "));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nodes() -> Vec<Node> {
        let node = |id: &str, state, requires: &[&str]| Node {
            id: id.into(),
            state,
            requires: requires.iter().map(|&r| r.into()).collect(),
        };
        vec![
            node("a.x", "running", &[]),
            node("a.y", "failed", &["c"]),
            node("b.x", "running", &["a", "a.x?"]),
        ]
    }

    #[test]
    fn both_show_every_edge() {
        let dot = dot(&nodes());
        for line in [
            "\"b.x\" -> \"a.x\";",
            "\"b.x\" -> \"a.y\";",
            "\"b.x\" -> \"a.x\" [style = dashed];",
            "\"a.y\" -> \"c\" [style = dotted];",
            "\"a.y\" [label = \"a.y\\nfailed\", color = grey, fontcolor = grey];",
        ] {
            assert!(dot.contains(line), "no {line} in {dot}");
        }
        let want = "a.x (running)\na.y (failed)\n`- c: nobody\nb.x (running)\n\
                    |- a: a.x or a.y\n`- a.x: a.x, can do without\n";
        assert_eq!(tree(&nodes()), want);
    }
}
