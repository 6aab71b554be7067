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

#[test]
fn devices_and_setuid_by_policy() {
    let config = Config { allow_devices: false, allow_setuid: false, ..Config::default() };
    let check = |layer: Layer, key: &str| {
        for form in [Remove, Overlay] {
            let root = tempfile::tempdir().unwrap();
            layer.apply(root.path(), form).unwrap();
            let root = tempfile::tempdir().unwrap();
            let result = layer.apply_with(root.path(), form, &config);
            if key.is_empty() {
                result.unwrap();
                continue;
            }
            let error = result.unwrap_err();
            assert_eq!(error.class(), Class::PermissionDenied, "{error}");
            assert!(error.message().contains(&format!("{key} = true")), "{error}");
            assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 0);
        }
    };
    check(Layer::default().device(b'3', "null", 1, 3), "allow_devices");
    check(Layer::default().device(b'4', "disk", 8, 0), "allow_devices");
    for mode in [0o4755, 0o2755, 0o6755] {
        check(Layer::default().with_mode(b'0', "su", mode), "allow_setuid");
    }
    let mut capability = vec![1, 0, 0, 2, 0, 0x20];
    capability.resize(20, 0);
    let capable = Layer::default().pax(&[("SCHILY.xattr.security.capability", &capability)]);
    check(capable.file("ping", ""), "allow_setuid");
    // In a directory the bits mean something else.
    check(Layer::default().with_mode(b'5', "shared", 0o2775).with_mode(b'5', "tmp", 0o1777), "");
}
