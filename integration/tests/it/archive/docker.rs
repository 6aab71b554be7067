//! Archives as `docker save` writes them, in every dress.

use std::fs;

use capstan_integration::{Host, Layer, architecture, digest, gzip};
use serde_json::{Value, json};

use super::{digest_of, succeed};

const NAME: &str = "example.com/saved:1";

/// An archive whose files have their sizes in pax headers alone, as large ones must.
fn saved(layers: &[Vec<u8>], diff_ids: &[String]) -> Vec<u8> {
    let config = json!({
        "architecture": architecture(),
        "os": "linux",
        "config": { "Cmd": ["/bin/sh"], "Env": ["PATH=/bin"] },
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
    });
    let names: Vec<String> = (0..layers.len()).map(|n| format!("{n}/layer.tar")).collect();
    let manifest = json!([{ "Config": "config.json", "RepoTags": [NAME], "Layers": names }]);
    let bytes = |value: &Value| serde_json::to_vec(value).unwrap();
    let documents = [("config.json", bytes(&config)), ("manifest.json", bytes(&manifest))];
    let layers = names.iter().map(String::as_str).zip(layers.iter().cloned());
    let mut archive = tar::Builder::new(Vec::new());
    for (name, bytes) in layers.chain(documents) {
        let size = bytes.len().to_string();
        archive.append_pax_extensions([("size", size.as_bytes())]).unwrap();
        let mut header = tar::Header::new_ustar();
        header.set_path(name).unwrap();
        header.set_size(0);
        header.set_mode(0o644);
        header.set_cksum();
        archive.append(&header, bytes.as_slice()).unwrap();
    }
    archive.into_inner().unwrap()
}

/// The media types of the manifest, of the configuration, and of the layers.
fn types(host: &Host) -> Vec<String> {
    let manifest = host.ok(&["content", "get", &digest_of(host, NAME)]);
    let manifest: Value = serde_json::from_str(&manifest).unwrap();
    let layers = manifest["layers"].as_array().unwrap();
    let all = [&manifest, &manifest["config"]].into_iter().chain(layers);
    all.map(|part| part["mediaType"].as_str().unwrap().to_owned()).collect()
}

/// Both were refused: zstd, and sizes in pax headers.
#[test]
fn layers_of_every_compression_and_sizes_in_pax_headers_are_imported() {
    let tars: Vec<Vec<u8>> = [
        Layer::new().busybox().file("one", 0o644, b"1"),
        Layer::new().file("two", 0o644, b"2"),
        Layer::new().file("three", 0o644, b"3"),
    ]
    .map(Layer::into_tar)
    .into();
    let diff_ids: Vec<String> = tars.iter().map(|tar| digest(tar)).collect();
    let host = Host::new();
    let file = host.path("two.tar").display().to_string();
    fs::write(&file, &tars[1]).unwrap();
    let zstd = succeed("zstd", &["-q", "-c", &file]);
    let import = |layers: &[Vec<u8>]| {
        let archive = saved(layers, &diff_ids);
        let output = host.capstan_with_input(&["images", "import", "--all", "-"], &archive);
        assert_eq!(output.code, 0, "{}", output.stderr);
        let run = ["run", "--rm", "--net", "host", NAME, "cat", "one", "two", "three"];
        assert_eq!(host.ok(&run), "123");
    };
    import(&[tars[0].clone(), zstd, gzip(&tars[2])]);
    let layer = "application/vnd.oci.image.layer.v1.tar";
    let want = [
        "application/vnd.oci.image.manifest.v1+json",
        "application/vnd.oci.image.config.v1+json",
        layer,
        &format!("{layer}+zstd"),
        &format!("{layer}+gzip"),
    ];
    assert_eq!(types(&host), want, "Docker's types have no name for zstd");
    // It can be passed on.
    let out = host.path("out.tar").display().to_string();
    host.ok(&["images", "export", &out, NAME]);
    let manifest = succeed("skopeo", &["inspect", "--raw", &format!("oci-archive:{out}")]);
    assert_eq!(digest(&manifest), digest_of(&host, NAME));

    import(&[tars[0].clone(), gzip(&tars[1]), gzip(&tars[2])]);
    let layer = "application/vnd.docker.image.rootfs.diff.tar";
    let want = [
        "application/vnd.docker.distribution.manifest.v2+json",
        "application/vnd.docker.container.image.v1+json",
        layer,
        &format!("{layer}.gzip"),
        &format!("{layer}.gzip"),
    ];
    assert_eq!(types(&host), want);
}
