//! Registries that want more than an image's place: what is on this machine, its memory, or a document that is two.

use std::net::{IpAddr, Ipv4Addr};

use capstan_integration::{
    DockerRegistry, FaultProxy, Host, Image, Trouble, digest, process, secluded_from_networks,
};
use serde_json::{Value, json};

use super::{ALWAYS, Front, hasty, header};
use crate::distribution::{small, transfer_section};

/// Where a registry is that is elsewhere, as far as a client can tell.
const ELSEWHERE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);

/// Where clouds give out the secrets of a machine.
const LINK_LOCAL: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);

/// What asks the daemon to go to this machine, or to its link, on the word of a host elsewhere, is refused, and nobody
/// there is asked.
#[test]
fn a_registry_elsewhere_does_not_lead_us_to_this_machine() {
    let name = "faults::hostile::a_registry_elsewhere_does_not_lead_us_to_this_machine";
    secluded_from_networks(name, &["198.51.100.7", "169.254.169.254"], || {
        let registry = DockerRegistry::empty();
        let image = small(51);
        image.push_to(&registry.address(), "app", "latest");
        let proxy = FaultProxy::on(IpAddr::V4(ELSEWHERE), &registry.address());
        let canaries = [Ipv4Addr::LOCALHOST, LINK_LOCAL]
            .map(|at| FaultProxy::on(IpAddr::V4(at), &registry.address()));
        let mut host = Host::without_daemon(1024);
        host.configure(&transfer_section(&host.path("certs.d"), "attempts = 1\n"));
        host.start();
        let reference = proxy.reference("app");
        let args =
            ["images", "pull", "--plain-http", "--no-unpack", "--user", "me:canary", &reference];

        let places = canaries.each_ref().map(FaultProxy::address);
        let mut origins: Vec<String> = places.iter().map(|at| format!("http://{at}")).collect();
        // The same in other words.
        let port = places[0].rsplit_once(':').unwrap().1;
        origins.push(format!("http://localhost:{port}"));
        origins.push(format!("http://0.0.0.0:{port}"));
        origins.push(format!("http://[::ffff:127.0.0.1]:{port}"));
        origins.push(format!("http://2130706433:{port}"));
        for origin in &origins {
            let challenge = format!("Bearer realm=\"{origin}/token\",service=\"s\",scope=\"a\"");
            let headers = vec![("WWW-Authenticate".to_owned(), challenge)];
            proxy.behave();
            proxy.make(ALWAYS, "", "/v2/", Trouble::Answer(401, headers, Vec::new()));
            let output = host.capstan(&args);
            assert_ne!(output.code, 0, "{origin}");
            assert_eq!(output.stderr.lines().count(), 1, "{}", output.stderr);
            proxy.behave();
            proxy.make(ALWAYS, "GET", "/blobs/", Trouble::Redirect(origin.clone()));
            let output = host.capstan(&args);
            assert_ne!(output.code, 0, "{origin}");
        }
        // What is no http at all.
        for origin in ["file://", "unix:/run/", "ftp://198.51.100.7", "gopher://198.51.100.7"] {
            proxy.behave();
            proxy.make(ALWAYS, "GET", "/blobs/", Trouble::Redirect(origin.to_owned()));
            host.fails(&args, 6, "FailedPrecondition", &[]);
        }
        for canary in &canaries {
            assert!(canary.exchanges().is_empty(), "{:?}", canary.exchanges());
        }
        assert_eq!(host.ids(&["images", "ls"]), Vec::<String>::new());
        // With nothing of this, it works.
        proxy.behave();
        host.ok(&args);
    });
}

/// A registry that serves a document of ours as the manifest of `app`.
fn serve(front: &Front, document: &[u8], media_type: &str) {
    front.proxy.behave();
    let headers = vec![
        ("Content-Type".to_owned(), media_type.to_owned()),
        ("Docker-Content-Digest".to_owned(), digest(document)),
    ];
    front.proxy.make(
        ALWAYS,
        "",
        "/manifests/latest",
        Trouble::Answer(200, headers, document.to_vec()),
    );
}

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// A document that can be read in two ways is refused (CVE-2021-41190), and so is one that is not what it says.
#[test]
fn documents_that_are_two_things_are_refused() {
    let front = Front::new(small(52));
    let host = hasty("");
    let manifest: Value =
        serde_json::from_slice(&front.image.blobs[&front.image.manifest]).unwrap();
    let index = Image::index(&[("amd64", &front.image)]);
    let index: Value = serde_json::from_slice(&index.blobs[&index.manifest]).unwrap();
    let mut both = manifest.clone();
    both["manifests"] = index["manifests"].clone();
    let mut untyped = both.clone();
    untyped.as_object_mut().unwrap().remove("mediaType");
    let text = |value: &Value| value.to_string().into_bytes();
    let twice = manifest.to_string().replacen('{', "{\"layers\":[],", 1).into_bytes();
    let cases = [
        ("both", text(&both), MANIFEST),
        ("both, as an index", text(&both), INDEX),
        ("both, untyped", text(&untyped), MANIFEST),
        ("a manifest called an index", text(&manifest), INDEX),
        ("an index called a manifest", text(&index), MANIFEST),
        ("a key twice", twice, MANIFEST),
        ("schema 1", br#"{"schemaVersion":1,"fsLayers":[]}"#.to_vec(), MANIFEST),
        ("no JSON", b"<html>".to_vec(), MANIFEST),
        ("no object", b"[]".to_vec(), MANIFEST),
        ("a web page", b"<html></html>".to_vec(), "text/html"),
        ("deep", [vec![b'['; 100_000], vec![b']'; 100_000]].concat(), MANIFEST),
        ("a negative size", replaced(&manifest, "\"size\":", "\"size\":-"), MANIFEST),
        (
            "a huge size",
            replaced(&manifest, "\"size\":", "\"size\":99999999999999999999"),
            MANIFEST,
        ),
    ];
    for (what, document, media_type) in cases {
        serve(&front, &document, media_type);
        let output = host.capstan(&["images", "pull", "--plain-http", &front.name()]);
        assert!([5, 6, 10, 12].contains(&output.code), "{what}: {} {}", output.code, output.stderr);
        assert_eq!(output.stderr.lines().count(), 1, "{what}: {}", output.stderr);
        crate::pull::assert_nothing_half_made(&host);
    }
}

/// Docker's old schema 1 is refused by name, by its own media types (F-162, F-163).
#[test]
fn schema_1_is_refused_with_what_to_do() {
    let front = Front::new(small(54));
    let host = hasty("");
    let document = json!({
        "schemaVersion": 1, "name": "app", "tag": "latest", "architecture": "amd64",
        "fsLayers": [{ "blobSum": digest(b"") }], "history": [{ "v1Compatibility": "{}" }],
    });
    for kind in ["json", "prettyjws"] {
        let media_type = format!("application/vnd.docker.distribution.manifest.v1+{kind}");
        serve(&front, document.to_string().as_bytes(), &media_type);
        front.fails(&host, 12, "Unimplemented", &["schema 1", "push it again"]);
    }
    crate::pull::assert_nothing_half_made(&host);
}

fn replaced(document: &Value, from: &str, to: &str) -> Vec<u8> {
    document.to_string().replace(from, to).into_bytes()
}

/// A manifest of 100 MB, and one of a million layers: refused before they are read, let alone kept.
#[test]
fn documents_that_are_too_large_are_refused() {
    let front = Front::new(small(53));
    let host = hasty("");
    let pid = host.daemon_pid();
    host.ok(&["images", "ls"]);
    let before = process::anonymous_kib(pid);
    let padded = |bytes: usize| {
        let padding = "x".repeat(bytes);
        json!({ "schemaVersion": 2, "mediaType": MANIFEST, "layers": [], "padding": padding })
    };
    let huge = padded(100 << 20).to_string().into_bytes();
    serve(&front, &huge, MANIFEST);
    host.fails(&["images", "pull", "--plain-http", &front.name()], 9, "ResourceExhausted", &[]);
    assert!(front.proxy.sent_of("/manifests/") < 16 << 20, "it was read to its end");
    // The length is not told.
    front.proxy.behave();
    front.proxy.make(ALWAYS, "GET", "/manifests/latest", Trouble::Instead(huge));
    front.proxy.make(ALWAYS, "", "/manifests/latest", header("Content-Length", "1000000000"));
    let output = host.capstan(&["images", "pull", "--plain-http", &front.name()]);
    assert_ne!(output.code, 0);
    // As many as fit below the limit.
    let layer = json!({ "mediaType": "a", "digest": digest(b""), "size": 0 });
    let many = json!({
        "schemaVersion": 2, "mediaType": MANIFEST,
        "config": layer, "layers": vec![layer.clone(); 35_000],
    });
    serve(&front, many.to_string().as_bytes(), MANIFEST);
    let output = host.capstan(&["images", "pull", "--plain-http", &front.name()]);
    assert_ne!(output.code, 0);
    assert_eq!(output.stderr.lines().count(), 1, "{}", output.stderr);
    crate::pull::assert_nothing_half_made(&host);
    let grown = process::anonymous_kib(pid).saturating_sub(before);
    assert!(grown < 48 << 10, "the daemon grew by {grown} KiB");
    // Of a blob: what is longer than its descriptor is not read to its end.
    super::again(&host, &front);
    let config = front.image.config();
    front.proxy.make(ALWAYS, "GET", &config, Trouble::Longer(50 << 20));
    front.fails(&host, 10, "Corrupt", &[&config[..20]]);
}
