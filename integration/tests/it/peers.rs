//! Round trips over a registry with skopeo and with containerd's ctr: who pushes and who pulls is no matter, the digests
//! are the same.

use capstan_integration::{DockerRegistry, Host, Image};
use serde_json::Value;

use crate::archive::peers::Containerd;
use crate::archive::{digest_of, succeed};
use crate::distribution::{artifact, assert_here, assert_there, index, layers, small};

/// What can be pushed, and pulled.
fn images() -> [(&'static str, Image); 4] {
    [
        ("image", small(61)),
        ("index", index(62)),
        ("docker", Image::docker(layers(63))),
        ("artifact", artifact(64)),
    ]
}

fn pull_all(host: &Host, name: &str) {
    host.ok(&["images", "pull", "--plain-http", "--all-platforms", "--no-unpack", name]);
}

fn push(host: &Host, to: &str, from: &str) {
    host.ok(&["images", "push", "--plain-http", to, from]);
}

fn skopeo(from: &str, to: &str) {
    let args = ["copy", "-q", "--all", "--preserve-digests"];
    let loose = ["--src-tls-verify=false", "--dest-tls-verify=false"];
    let (from, to) = (format!("docker://{from}"), format!("docker://{to}"));
    succeed("skopeo", &[&args[..], &loose, &[&from, &to]].concat());
}

#[test]
fn skopeo_and_we_push_and_pull() {
    let (one, two, three) =
        (DockerRegistry::empty(), DockerRegistry::empty(), DockerRegistry::empty());
    let host = Host::new();
    for (kind, image) in images() {
        image.push_to(&one.address(), kind, "latest");
        // It pushes and we pull; skopeo 1.9 knows no artifacts.
        let pushed = if kind == "artifact" { &one } else { &two };
        if kind != "artifact" {
            skopeo(&one.reference(kind), &two.reference(kind));
        }
        let name = pushed.reference(kind);
        pull_all(&host, &name);
        assert_eq!(digest_of(&host, &name), image.manifest, "{kind}");
        assert_here(&host, &image, image.blobs.keys());
        // We push and it pulls: all there is, verified.
        push(&host, &three.reference(kind), &name);
        assert_there(&three.address(), kind, &image);
        let target = format!("docker://{}", three.reference(kind));
        let raw = succeed("skopeo", &["inspect", "--raw", "--tls-verify=false", &target]);
        assert_eq!(capstan_integration::digest(&raw), image.manifest, "{kind}");
        if kind != "artifact" {
            let layout = format!("dir:{}", host.path(kind).display());
            let args = ["copy", "-q", "--all", "--src-tls-verify=false", &target, &layout];
            succeed("skopeo", &args);
        }
    }
}

#[test]
fn ctr_and_we_push_and_pull() {
    let (one, two, three) =
        (DockerRegistry::empty(), DockerRegistry::empty(), DockerRegistry::empty());
    let host = Host::new();
    let peer = Containerd::start(&host);
    for (kind, image) in images() {
        image.push_to(&one.address(), kind, "latest");
        // It pulls, pushes, and we pull that.
        let name = one.reference(kind);
        peer.of("content", &["fetch", "--plain-http", "--all-platforms", &name]);
        peer.of("images", &["push", "--plain-http", &two.reference(kind), &name]);
        pull_all(&host, &two.reference(kind));
        assert_eq!(digest_of(&host, &two.reference(kind)), image.manifest, "{kind}");
        assert_here(&host, &image, image.blobs.keys());
        // We push, and it pulls that.
        push(&host, &three.reference(kind), &two.reference(kind));
        assert_there(&three.address(), kind, &image);
        peer.of("content", &["fetch", "--plain-http", "--all-platforms", &three.reference(kind)]);
        let list = peer.of("images", &["ls"]);
        let line = list.lines().find(|line| line.starts_with(&three.reference(kind)));
        assert!(line.expect("it has the name").contains(&image.manifest), "{kind}: {list}");
    }
}

/// What we pushed is what the registry lists, and only that.
#[test]
fn tags_are_those_that_were_pushed() {
    let (one, two) = (DockerRegistry::empty(), DockerRegistry::empty());
    let host = Host::new();
    let image = small(65);
    image.push_to(&one.address(), "app", "latest");
    pull_all(&host, &one.reference("app"));
    for tag in ["a", "b", "a"] {
        let name = two.reference("app").replace(":latest", &format!(":{tag}"));
        push(&host, &name, &one.reference("app"));
    }
    let answer =
        capstan_integration::http::ask(&two.address(), "GET", "/v2/app/tags/list", &[], b"");
    let list: Value = serde_json::from_slice(&answer.body).unwrap();
    // In whichever order.
    let mut tags: Vec<&str> =
        list["tags"].as_array().unwrap().iter().flat_map(Value::as_str).collect();
    tags.sort_unstable();
    assert_eq!(tags, ["a", "b"]);
}

/// What is about an image is found, in a registry that has no list of it: by the tag that a push keeps.
#[test]
fn what_refers_to_an_image_is_found() {
    let (one, two) = (DockerRegistry::empty(), DockerRegistry::empty());
    let host = Host::new();
    let image = small(66);
    let kinds = ["application/vnd.example.bill.v1", "application/vnd.example.signature.v1"];
    let about = kinds.map(|kind| Image::artifact(kind, vec![kind.into()], Some(&image)));
    image.push_to(&one.address(), "app", "latest");
    pull_all(&host, &one.reference("app"));
    push(&host, &two.reference("app"), &one.reference("app"));
    for (number, artifact) in about.iter().enumerate() {
        let tag = format!("about-{number}");
        artifact.push_to(&one.address(), "app", &tag);
        let name = one.reference("app").replace(":latest", &format!(":{tag}"));
        pull_all(&host, &name);
        push(&host, &two.reference("app").replace(":latest", &format!(":{tag}")), &name);
    }
    let list = |more: &[&str]| -> Vec<String> {
        let name = two.reference("app");
        host.ids(&[&["images", "referrers", "--plain-http", &name], more].concat())
    };
    assert_eq!(list(&[]), about.each_ref().map(|artifact| artifact.manifest.clone()));
    assert_eq!(list(&["--artifact-type", kinds[1]]), [about[1].manifest.clone()]);
}
