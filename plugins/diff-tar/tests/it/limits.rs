//! Every limit trips, with its name.

use capstan_diff_tar::Config;
use capstan_sdk::Class;
use capstan_sdk::contract::differ::Whiteouts::{self, Overlay, Remove};

use crate::layer::Layer;

#[track_caller]
fn check(layer: &Layer, forms: &[Whiteouts], config: &Config, key: &str) {
    for &form in forms {
        let root = tempfile::tempdir().unwrap();
        let error = layer.apply_with(root.path(), form, config).unwrap_err();
        assert_eq!(error.class(), Class::ResourceExhausted, "{error}");
        let want = format!("[plugins.\"differ.tar\"] {key}");
        assert!(error.message().ends_with(&want), "{error}");
    }
}

#[test]
fn limits() {
    let both = &[Remove, Overlay];
    let config = Config::default();
    let files = Layer::default().file("a", "").file("b", "");
    check(&files, both, &Config { max_entries: 1, ..config.clone() }, "max_entries");
    let implied = Layer::default().file("a/b/c/d", "");
    check(&implied, both, &Config { max_entries: 3, ..config.clone() }, "max_entries");
    check(&files, both, &Config { max_bytes: 2047, ..config.clone() }, "max_bytes");
    let holes = Layer::default()
        .pax(&[
            ("GNU.sparse.size", b"9223372036854775807"),
            ("GNU.sparse.map", b"9223372036854775807,0"),
            ("GNU.sparse.numblocks", b"1"),
        ])
        .file("s", "");
    check(&holes, both, &config, "max_bytes");
    let deep = Layer::default().file("a/b/c", "");
    check(&deep, both, &Config { max_depth: 2, ..config.clone() }, "max_depth");
    let long = Layer::default().file("abcd", "");
    check(&long, both, &Config { max_path_bytes: 3, ..config.clone() }, "max_path_bytes");
    let config = Config { max_pending_bytes: 100, ..config };
    check(&deep, &[Overlay], &config, "max_pending_bytes");
    let links = Layer::default().link("a", "missing").link("b", "missing");
    check(&links, &[Overlay], &config, "max_pending_bytes");
    let opaque =
        Layer::default().dir("a").file("a/.wh..wh..opq", "").dir("b").file("b/.wh..wh..opq", "");
    check(&opaque, &[Overlay], &config, "max_pending_bytes");
}

#[test]
fn links_of_the_parents_cannot_lead_deeper_than_the_limit() {
    let config = Config { max_depth: 4, ..Config::default() };
    let root = tempfile::tempdir().unwrap();
    let layer = Layer::default().dir("a/b/c").symlink("l", "a/b/c").file("l/d", "");
    layer.apply_with(root.path(), Remove, &config).unwrap();
    let layer = Layer::default().file("l/e/f", "");
    check_in(root.path(), &layer, &config);
}

#[track_caller]
fn check_in(root: &std::path::Path, layer: &Layer, config: &Config) {
    let error = layer.apply_with(root, Remove, config).unwrap_err();
    assert!(error.message().ends_with("[plugins.\"differ.tar\"] max_depth"), "{error}");
}
