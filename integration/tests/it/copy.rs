//! Copies from registry to registry: the digest stays, nothing is fetched in vain, and nothing is left here; uploads that
//! are given up; progress of exports; images of which a platform is not there whole.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use capstan_integration::{
    DockerRegistry, FakeRegistry, Fault, FaultProxy, Host, Image, Layer, Trouble, architecture,
    digest, noise,
};
use serde_json::Value;

use crate::archive::succeed;

/// Uploads of a repository that are neither complete nor cancelled.
fn uploads(registry: &DockerRegistry, repository: &str) -> usize {
    let below = Path::new("docker/registry/v2/repositories").join(repository).join("_uploads");
    let Ok(list) = fs::read_dir(registry.storage().join(below)) else { return 0 };
    // Of one that is cancelled a directory stays.
    list.filter(|upload| upload.as_ref().unwrap().path().join("data").exists()).count()
}

/// The digest of the document behind a name, as skopeo sees it.
fn digest_at(name: &str) -> String {
    let image = format!("docker://{name}");
    digest(&succeed("skopeo", &["inspect", "--raw", "--tls-verify=false", &image]))
}

/// skopeo takes all that is behind a name, and verifies it.
fn check_whole(name: &str, host: &Host) {
    let image = format!("docker://{name}");
    let layout = format!("oci:{}:whole", host.path("whole").display());
    succeed("skopeo", &["copy", "-q", "--all", "--src-tls-verify=false", &image, &layout]);
    fs::remove_dir_all(host.path("whole")).unwrap();
}

fn image(seed: u32, architecture: &str) -> Image {
    let layers =
        vec![Layer::new().busybox(), Layer::new().file("noise", 0o644, &noise(400_000, seed))];
    Image::of_architecture(layers, architecture)
}

/// An index for this machine and another kind.
fn both(seed: u32) -> (Image, Image) {
    let own = image(seed, architecture());
    let other = image(seed + 1, "riscv64");
    let index = Image::index(&[(architecture(), &own), ("riscv64", &other)]);
    (index, own)
}

fn copy(host: &Host, source: &str, target: &str, more: &[&str]) -> String {
    host.ok(&[&["images", "copy", "--plain-http", source, target], more].concat())
}

/// Nothing has a name, and a collection leaves nothing.
fn assert_nothing_stays(host: &Host) {
    assert_eq!(host.ids(&["images", "ls"]), Vec::<String>::new());
    host.ok(&["gc"]);
    assert_eq!(host.ids(&["content", "ls"]), Vec::<String>::new());
    assert_eq!(host.ids(&["snapshots", "ls"]), Vec::<String>::new());
    host.ok(&["system", "audit"]);
}

#[test]
fn an_index_arrives_as_it_was_and_nothing_stays_here() {
    let (from, to) = (DockerRegistry::empty(), DockerRegistry::empty());
    let (index, own) = both(1);
    index.push_to(&from.address(), "app", "1");
    let (source, target) = (FaultProxy::before(&from.address()), FaultProxy::before(&to.address()));
    let host = Host::new();
    let source_name = format!("{}/app:1", source.address());
    let name = format!("{}/some/app:2", target.address());
    let line = copy(&host, &source_name, &name, &[]);
    assert_eq!(line, format!("{name}  {}\n", index.manifest));
    assert_eq!(digest_at(&name), index.manifest);
    check_whole(&name, &host);
    assert_nothing_stays(&host);

    // What is there is neither fetched nor sent.
    source.forget();
    target.forget();
    copy(&host, &source_name, &name, &["--all-platforms"]);
    assert_eq!(source.count("GET", "/blobs/"), 0);
    assert_eq!((target.count("POST", "/blobs/"), target.count("PUT", "/blobs/")), (0, 0));
    assert_eq!(host.ids(&["content", "ls"]), Vec::<String>::new());

    // Within a registry blobs are mounted, and do not come here.
    target.forget();
    let beside = format!("{}/beside:1", target.address());
    copy(&host, &name, &beside, &[]);
    check_whole(&beside, &host);
    let blobs = target.exchanges();
    let blobs = blobs.iter().filter(|one| one.target.contains("/beside/blobs/"));
    assert!(blobs.clone().any(|one| one.target.contains("mount=")), "{blobs:?}");
    assert_eq!(target.count("GET", "/some/app/blobs/"), 0);
    assert_eq!(host.ids(&["content", "ls"]), Vec::<String>::new());

    // One platform of it.
    let one = format!("{}/one:1", target.address());
    let platform = format!("linux/{}", architecture());
    copy(&host, &source_name, &one, &["--platform", &platform]);
    assert_eq!(digest_at(&one), own.manifest);
    check_whole(&one, &host);
    let copy = ["images", "copy", "--plain-http", &source_name, &one, "--platform", "linux/s390x"];
    host.fails(&copy, 3, "NotFound", &["linux/s390x", "riscv64"]);
    let copy = ["images", "copy", "--plain-http", &format!("{source_name}x"), &one];
    host.fails(&copy, 3, "NotFound", &[&source_name]);
    assert_nothing_stays(&host);
}

#[test]
fn a_copy_tells_how_far_it_is_and_uses_what_is_here() {
    let (from, to) = (FakeRegistry::start(), DockerRegistry::empty());
    let image = image(5, architecture());
    let source = from.offer("app", &image);
    let host = Host::new();
    host.ok(&["images", "pull", "--plain-http", &source]);
    let before = image.layers.iter().map(|layer| from.asked_for(layer)).sum::<usize>();
    let target = format!("{}/app:1", to.address());
    let args = ["--format", "json", "images", "copy", "--plain-http", &source, &target];
    let output = host.ok(&args);
    let lines: Vec<Value> =
        output.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let (told, items) = lines.split_last().unwrap();
    assert_eq!(told["digest"], image.manifest);
    let items = items.last().unwrap()["items"].as_array().unwrap();
    assert_eq!(items.len(), 4, "two layers, a configuration and a manifest: {items:?}");
    for item in items {
        assert_eq!((&item["state"], &item["offset"]), (&"done".into(), &item["total"]), "{item}");
    }
    let after = image.layers.iter().map(|layer| from.asked_for(layer)).sum::<usize>();
    assert_eq!(before, after, "what is here is not fetched again");
    check_whole(&target, &host);
    assert_eq!(host.ids(&["images", "ls"]), [source]);
}

#[test]
fn what_refers_to_an_image_goes_along_if_that_is_wanted() {
    let (from, to) = (DockerRegistry::empty(), DockerRegistry::empty());
    let (index, own) = both(7);
    index.push_to(&from.address(), "app", "1");
    let host = Host::new();
    // A signature of the index, a list of the parts of one image, and a signature of that list. Debian's registry keeps no
    // lists of what refers to something: they are made when these are sent.
    let signature = Image::artifact("test/signature", vec![b"signed".to_vec()], Some(&index));
    let parts = Image::artifact("test/parts", vec![b"parts".to_vec()], Some(&own));
    let of_parts = Image::artifact("test/signature", vec![b"too".to_vec()], Some(&parts));
    let fake = FakeRegistry::start();
    let source = format!("{}/app:1", from.address());
    for (name, artifact) in [("one", &signature), ("two", &parts), ("three", &of_parts)] {
        let at = fake.offer(name, artifact);
        let to = format!("{}/app@{}", from.address(), artifact.manifest);
        copy(&host, &at, &to, &[]);
    }
    let referrers = |address: &str, of: &Image| -> Vec<String> {
        let name = format!("{address}/app@{}", of.manifest);
        host.ids(&["images", "referrers", "--plain-http", &name])
    };
    let target = format!("{}/app:1", to.address());
    copy(&host, &source, &target, &[]);
    assert_eq!(referrers(&to.address(), &index), Vec::<String>::new());
    let line = copy(&host, &source, &target, &["--referrers"]);
    assert_eq!(line, format!("{target}  {}\n", index.manifest));
    for (of, what) in [(&index, &signature), (&own, &parts), (&parts, &of_parts)] {
        assert_eq!(referrers(&from.address(), of), [&*what.manifest]);
        assert_eq!(referrers(&to.address(), of), [&*what.manifest]);
        let name = format!("{}/app@{}", to.address(), what.manifest);
        assert_eq!(digest_at(&name), what.manifest);
    }
    check_whole(&target, &host);
    assert_nothing_stays(&host);
}

/// What cosign keeps under tags goes along, of the index and of the images in it, and keeps its tag.
#[test]
fn what_cosign_tags_goes_along_too() {
    let (from, to) = (DockerRegistry::empty(), DockerRegistry::empty());
    let (index, own) = both(8);
    index.push_to(&from.address(), "app", "1");
    let tag = |of: &Image, kind: &str| format!("{}.{kind}", of.manifest.replace(':', "-"));
    let made = |what: &str| Image::artifact("test/cosign", vec![what.as_bytes().to_vec()], None);
    let tagged = [
        (tag(&index, "sig"), made("signature of the index")),
        (tag(&index, "att"), made("attestation of the index")),
        (tag(&own, "sig"), made("signature of an image in it")),
        // Of two images one and the same.
        (tag(&own, "sbom"), made("parts")),
        (tag(&index, "sbom"), made("parts")),
    ];
    for (tag, artifact) in &tagged {
        artifact.push_to(&from.address(), "app", tag);
    }
    // A signature of an attestation.
    let of_attestation = (tag(&tagged[1].1, "sig"), made("signature of the attestation"));
    of_attestation.1.push_to(&from.address(), "app", &of_attestation.0);

    let host = Host::new();
    let (source, target) = (format!("{}/app:1", from.address()), format!("{}/app:1", to.address()));
    copy(&host, &source, &target, &["--referrers"]);
    assert_eq!(digest_at(&target), index.manifest);
    for (tag, artifact) in tagged.iter().chain([&of_attestation]) {
        let name = format!("{}/app:{tag}", to.address());
        assert_eq!(digest_at(&name), artifact.manifest, "{tag}");
        check_whole(&name, &host);
    }
    assert_nothing_stays(&host);
}

/// One layer, as large as it says.
fn large(seed: u32, bytes: usize) -> Image {
    Image::new(vec![Layer::new().file("noise", 0o644, &noise(bytes, seed))])
}

#[test]
fn what_is_given_up_in_the_middle_is_cancelled_at_the_registry() {
    let (from, to) = (FakeRegistry::start(), DockerRegistry::empty());
    let proxy = FaultProxy::before(&to.address());
    let host = Host::new();
    for (verb, seed) in [("push", 11), ("copy", 12)] {
        let image = large(seed, 6_000_000);
        let source = from.offer(verb, &image);
        let name = format!("{}/{verb}:1", proxy.address());
        let args = match verb {
            "push" => ["images", "push", "--plain-http", &name, &source],
            _ => ["images", "copy", "--plain-http", &source, &name],
        };
        if verb == "push" {
            host.ok(&["images", "pull", "--plain-http", "--no-unpack", &source]);
        }
        proxy.forget();
        proxy.make(1, "", "/uploads/", Trouble::HoldRequest(3_000_000));
        let mut process = host.command(&args).spawn().unwrap();
        let is_held = || proxy.exchanges().iter().any(|one| one.brought == 3_000_000);
        host.until("the upload stands still", is_held);
        process.kill().unwrap();
        process.wait().unwrap();
        host.until("the upload is cancelled", || proxy.count("DELETE", "/uploads/") > 0);
        // Debian's registry does not let go of what broke in the middle of a request; others do.
        host.ok(&args);
        assert_eq!(digest_at(&name), image.manifest);
    }
}

#[test]
fn an_upload_that_fails_for_good_is_cancelled_too() {
    let (from, to) = (FakeRegistry::start(), DockerRegistry::empty());
    let image = large(13, 200_000);
    let source = from.offer("app", &image);
    let proxy = FaultProxy::before(&to.address());
    let host = Host::new();
    let refused = Trouble::Answer(403, Vec::new(), Vec::new());
    proxy.make(usize::MAX, "PUT", "/blobs/", refused);
    // One blob is refused while the registry is still beginning the upload of the other one.
    proxy.make(1, "POST", "/blobs/uploads/", Trouble::Delay(Duration::from_millis(700)));
    let name = format!("{}/app:1", proxy.address());
    let args = ["images", "copy", "--plain-http", &source, &name];
    host.fails(&args, 8, "PermissionDenied", &[&name]);
    assert_eq!(proxy.count("POST", "/blobs/uploads/"), 2);
    assert_eq!(proxy.count("DELETE", "/blobs/uploads/"), 2);
    assert_eq!(uploads(&to, "app"), 0);
    proxy.behave();
    host.ok(&args);
    assert_eq!(digest_at(&name), image.manifest);
    assert_nothing_stays(&host);
}

#[test]
fn an_export_tells_how_far_it_is() {
    let from = FakeRegistry::start();
    let image = image(17, architecture());
    let name = from.offer("app", &image);
    let host = Host::new();
    host.ok(&["images", "pull", "--plain-http", "--no-unpack", &name]);
    let file = host.path("images.tar").display().to_string();
    let output = host.ok(&["--format", "json", "images", "export", &file, &name]);
    let last: Value = serde_json::from_str(output.lines().last().unwrap()).unwrap();
    let states = |update: &Value| -> BTreeMap<String, String> {
        let items = update["items"].as_array().unwrap();
        let item = |item: &Value| {
            assert_eq!(item["offset"], item["total"], "{item}");
            let text = |key: &str| item[key].as_str().unwrap().to_owned();
            (text("name"), text("state"))
        };
        items.iter().map(item).collect()
    };
    let layers = image.layers.iter().map(|layer| format!("layer-{layer}"));
    let documents = [format!("config-{}", image.config()), format!("manifest-{}", image.manifest)];
    let want = layers.chain(documents).map(|name| (name, "done".to_owned())).collect();
    assert_eq!(states(&last), want);
    // On stdout the archive is alone.
    let args = ["--format", "json", "images", "export", "-", &name];
    let output = host.command(&args).output().unwrap();
    assert!(output.status.success() && output.stdout == fs::read(&file).unwrap());

    // The end of an import is told too.
    let output = host.ok(&["--format", "json", "images", "import", &file]);
    let updates: Vec<Value> =
        output.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let last = updates.iter().rfind(|update| update.get("items").is_some()).unwrap();
    let blobs = [image.layers.clone(), vec![image.config(), image.manifest.clone()]].concat();
    let want = blobs.into_iter().map(|blob| (format!("blob-{blob}"), "exists".to_owned()));
    assert_eq!(states(last), want.collect());
}

#[test]
fn a_platform_whose_pull_failed_makes_no_image_incomplete() {
    let from = FakeRegistry::start();
    let (index, own) = both(19);
    let name = from.offer("app", &index);
    let host = Host::new();
    host.ok(&["images", "pull", "--plain-http", &name]);
    let check = |want: &str| {
        let output = host.capstan(&["--format", "json", "images", "check", &name]);
        assert_eq!(output.code, if want == "complete" { 0 } else { 6 }, "{}", output.stderr);
        let list: Value = serde_json::from_str(&output.stdout).unwrap();
        assert_eq!(list[0]["status"], want, "{list}");
        list[0]["missing"].clone()
    };
    check("complete");
    let other = image(20, "riscv64");
    let top = other.layers.last().unwrap();
    from.set_fault(top, Some(Fault::Instead(b"nothing".to_vec())));
    let pull = ["images", "pull", "--plain-http", "--no-unpack", "--platform", "linux/riscv64"];
    host.fails(&[&pull[..], &[&*name]].concat(), 10, "Corrupt", &[top]);
    assert!(host.ids(&["content", "ls"]).contains(&other.manifest));
    check("complete");

    // What the one that is whole lacks is a gap, once it lacks something: then none is whole.
    host.ok(&["content", "rm", own.layers.last().unwrap()]);
    let missing = check("incomplete");
    let missing: Vec<&str> =
        missing.as_array().unwrap().iter().map(|gap| gap["digest"].as_str().unwrap()).collect();
    assert_eq!(missing, [own.layers.last().unwrap(), top]);
    from.set_fault(top, None);
    host.ok(&[&pull[..], &[&*name]].concat());
    check("complete");
}
