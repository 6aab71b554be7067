//! Which directories the layers of a tree are, by its mounts: those with its changes, and those of its parents.

use std::path::PathBuf;

use capstan_sdk::Mount;
use capstan_sdk::mount::for_reading;

use crate::Shape;

/// What is to be mounted to read the changes of a tree, and what it shows.
///
/// If the tree is an overlay whose lower layers are just those of the parent, that is its topmost
/// layer: it is read without a mount, whether or not the overlay is mounted elsewhere.
pub(crate) fn source(tree: &[Mount], parent: &[Mount]) -> (Vec<Mount>, Shape) {
    if let (Some([top, below @ ..]), Some(parent)) = (layers(tree).as_deref(), layers(parent))
        && !below.is_empty()
        && *below == parent
        && !tree.iter().any(has_content_elsewhere)
    {
        let prefix = if has_user_marks(tree) { "user.overlay." } else { "trusted.overlay." };
        let options = vec!["rbind".into()];
        let top = Mount { kind: "bind".into(), source: (*top).to_owned(), options };
        return (vec![top], Shape::Upper { prefix });
    }
    (for_reading(tree), Shape::Whole)
}

/// The layers that a tree shows, topmost first, to be read without a mount; `None` if what they show is not to be seen by
/// names, whiteouts and opaque directories alone.
pub(crate) fn parents(tree: &[Mount]) -> Option<Vec<PathBuf>> {
    if has_user_marks(tree) || tree.iter().any(has_content_elsewhere) {
        return None;
    }
    layers(tree).map(|layers| layers.into_iter().map(PathBuf::from).collect())
}

/// The directories of the layers, topmost first; `None` if the mounts do not tell.
fn layers(mounts: &[Mount]) -> Option<Vec<&str>> {
    match mounts {
        [mount] if mount.kind == "bind" => Some(vec![&mount.source]),
        [mount] if mount.kind == "overlay" => {
            let value =
                |name: &str| mount.options.iter().find_map(|option| option.strip_prefix(name));
            let lower = value("lowerdir=")?;
            let upper = value("upperdir=");
            // A colon or a comma in a name is escaped, and "::" begins layers of data.
            if lower.contains('\\')
                || lower.contains("::")
                || upper.is_some_and(|upper| upper.contains('\\'))
            {
                return None;
            }
            Some(upper.into_iter().chain(lower.split(':')).collect())
        }
        _ => None,
    }
}

/// Whether overlayfs keeps its marks in attributes of users.
fn has_user_marks(tree: &[Mount]) -> bool {
    tree.iter().any(|mount| mount.options.iter().any(|option| option == "userxattr"))
}

/// Whether overlayfs may keep the content of a file of the upper directory in a lower one.
fn has_content_elsewhere(mount: &Mount) -> bool {
    ["redirect_dir", "metacopy"].iter().any(|name| {
        let value = mount.options.iter().find_map(|option| option.strip_prefix(name));
        match value.and_then(|value| value.strip_prefix('=')) {
            Some(value) => value == "on" || value == "follow",
            None => {
                let default = std::fs::read(format!("/sys/module/overlay/parameters/{name}"));
                default.is_ok_and(|default| default.starts_with(b"Y"))
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(kind: &str, source: &str, options: &[&str]) -> Mount {
        let options = options.iter().map(|&option| option.to_owned()).collect();
        Mount { kind: kind.into(), source: source.into(), options }
    }

    #[test]
    fn only_the_layer_on_top_is_read_where_the_rest_is_the_parent() {
        let check = |tree: &Mount, parent: &[Mount], want: Option<&str>| {
            let (source, shape) = source(std::slice::from_ref(tree), parent);
            match want {
                Some(want) => {
                    assert_eq!((source[0].source.as_str(), source.len()), (want, 1));
                    assert!(matches!(shape, Shape::Upper { .. }), "{tree:?}");
                }
                None => assert_eq!(shape, Shape::Whole, "{tree:?}"),
            }
        };
        let active = mount("overlay", "overlay", &["workdir=/w", "upperdir=/u", "lowerdir=/b:/a"]);
        let one = mount("overlay", "overlay", &["workdir=/w", "upperdir=/u", "lowerdir=/a"]);
        let view = mount("overlay", "overlay", &["lowerdir=/b:/a"]);
        let base = mount("bind", "/a", &["ro", "rbind"]);
        check(&active, std::slice::from_ref(&view), Some("/u"));
        check(&one, std::slice::from_ref(&base), Some("/u"));
        check(&view, std::slice::from_ref(&base), Some("/b"));
        check(&active, std::slice::from_ref(&base), None);
        check(&active, &[], None);
        check(&base, &[], None);
        check(&view, std::slice::from_ref(&active), None);
        let redirected = ["upperdir=/u", "lowerdir=/a", "redirect_dir=on"];
        check(&mount("overlay", "overlay", &redirected), std::slice::from_ref(&base), None);
        let escaped = ["upperdir=/u\\:", "lowerdir=/a"];
        check(&mount("overlay", "overlay", &escaped), std::slice::from_ref(&base), None);
        let user = mount("overlay", "overlay", &["upperdir=/u", "lowerdir=/a", "userxattr"]);
        let (_, shape) = source(&[user], &[base]);
        assert_eq!(shape, Shape::Upper { prefix: "user.overlay." });
    }

    #[test]
    fn parents_are_read_by_layers_where_names_tell_all() {
        let check = |kind: &str, options: &[&str], want: Option<&[&str]>| {
            let want = want.map(|want| want.iter().map(PathBuf::from).collect::<Vec<_>>());
            assert_eq!(parents(&[mount(kind, "/s", options)]), want, "{kind} {options:?}");
        };
        check("overlay", &["lowerdir=/b:/a"], Some(&["/b", "/a"]));
        check("overlay", &["lowerdir=/b:/a", "userxattr"], None);
        check("overlay", &["lowerdir=/b:/a", "metacopy=on"], None);
        check("overlay", &["lowerdir=/b\\:/a"], None);
        check("bind", &["ro", "rbind"], Some(&["/s"]));
        check("ext4", &["ro"], None);
    }

    #[test]
    fn an_overlay_that_is_read_whole_loses_its_upper_layer() {
        let tree = mount("overlay", "overlay", &["workdir=/w", "upperdir=/u", "lowerdir=/a"]);
        let (source, shape) = source(&[tree], &[]);
        assert_eq!(
            (shape, source[0].options.as_slice()),
            (Shape::Whole, &["lowerdir=/u:/a".to_owned()][..])
        );
    }
}
