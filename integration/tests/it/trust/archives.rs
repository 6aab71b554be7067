//! Archives: what no verifier lets gets no name, and signatures may come along.

use std::collections::BTreeSet;

use capstan_integration::{Host, Image, architecture};
use serde_json::{Value, json};

use super::signer::{Signer, tag_of};
use super::{host, image};
use crate::archive::hostile::{Archive, index};
use crate::archive::{digest_of, succeed};
use crate::pull::assert_nothing_half_made;

const REPOSITORY: &str = "registry.example/app";
const NAME: &str = "registry.example/app:1";

/// An archive of these, each with its annotations in the index.
fn archive(entries: &[(&Image, Value)]) -> Vec<u8> {
    let mut archive = Archive::new();
    let mut seen = BTreeSet::new();
    let mut manifests = Vec::new();
    for (image, annotations) in entries {
        manifests.push(json!({
            "mediaType": image.media_type(),
            "digest": image.manifest,
            "size": image.blobs[&image.manifest].len(),
            "annotations": annotations,
        }));
        // What two of them have is in it once.
        let mut image = (*image).clone();
        image.blobs.retain(|digest, _| seen.insert(digest.clone()));
        archive = archive.blobs(&image, "");
    }
    archive.json("index.json", &index(&manifests)).bytes()
}

fn named(name: &str) -> Value {
    json!({ "io.containerd.image.name": name })
}

fn kind(kind: &str) -> Value {
    json!({ "kind": format!("dev.cosignproject.cosign/{kind}") })
}

/// An image with a bundle of somebody's that refers to it.
pub(super) fn signed(image: &Image, name: &str, signer: &Signer) -> Vec<u8> {
    archive(&[(image, named(name)), (&signer.bundle(image, image), json!({}))])
}

fn import(host: &Host, archive: &[u8], flags: &[&str]) -> String {
    let mut args = vec!["images", "import", "-"];
    args.extend(flags);
    let output = host.capstan_with_input(&args, archive);
    assert_eq!(output.code, 0, "{}", output.stderr);
    output.stdout
}

/// It is refused in one line, for this reason; there is no name, and what came is only room for others.
fn assert_refused(host: &Host, archive: &[u8], flags: &[&str], reason: &str) {
    let mut args = vec!["images", "import", "-"];
    args.extend(flags);
    let output = host.capstan_with_input(&args, archive);
    assert_eq!(output.code, 8, "{}", output.stderr);
    assert_eq!(output.stdout, "");
    let line = &output.stderr;
    assert!(line.starts_with("capstan: PermissionDenied: "), "{line}");
    assert_eq!(line.lines().count(), 1, "{line}");
    for part in [NAME, reason] {
        assert!(line.contains(part), "no {part:?} in {line}");
    }
    assert_nothing_half_made(host);
    assert_eq!(host.ids(&["content", "active"]), Vec::<String>::new());
    host.ok(&["gc"]);
    assert_eq!(host.ids(&["content", "ls"]), Vec::<String>::new());
}

fn assert_runs(host: &Host) {
    let what = host.ok(&["run", "--rm", "--pull", "never", "--net", "host", NAME, "cat", "/what"]);
    assert_eq!(what, "good");
}

#[test]
fn an_import_that_is_refused_leaves_nothing() {
    let (good, other) = (image("good"), image("other"));
    let rules = format!("rules = [{{ images = \"**\", digests = [{:?}] }}]", good.manifest);
    let host = host("digest", &rules);
    let reason = "verifier.digest refuses it";
    assert_refused(&host, &archive(&[(&other, named(NAME))]), &[], reason);
    // One of several: none has a name.
    let both = archive(&[(&good, named("registry.example/free:1")), (&other, named(NAME))]);
    assert_refused(&host, &both, &[], reason);
    // The name is what the user says.
    let unnamed = archive(&[(&other, json!({}))]);
    assert_refused(&host, &unnamed, &["--name", NAME], reason);
    assert_refused(&host, &archive(&[(&other, named(NAME))]), &["--no-unpack"], reason);

    // What has no name needs nobody's leave, and cannot be run.
    import(&host, &unnamed, &[]);
    assert_eq!(host.ids(&["images", "ls"]), Vec::<String>::new());
    import(&host, &archive(&[(&good, named(NAME))]), &[]);
    assert_eq!(digest_of(&host, NAME), good.manifest);
    assert_runs(&host);
}

/// As tools have it that copy a tag and what cosign keeps beside it.
#[test]
fn a_signature_with_the_name_that_cosign_gives_it_lets_an_image_in() {
    let (right, wrong) = (Signer::new(), Signer::new());
    let (good, other) = (image("good"), image("other"));
    let host = host("cosign", &right.rule("registry.example/**"));
    let signed = |signature: &Image| {
        let tag = format!("{REPOSITORY}:{}", tag_of(&good));
        archive(&[(&good, named(NAME)), (signature, named(&tag))])
    };
    assert_refused(&host, &archive(&[(&good, named(NAME))]), &[], "nobody signed");
    let by_other = wrong.signature(&good, REPOSITORY);
    assert_refused(&host, &signed(&by_other), &[], "no trusted key");
    let of_other = right.signature(&other, REPOSITORY);
    assert_refused(&host, &signed(&of_other), &[], "is for another digest");
    let elsewhere = right.signature(&good, "registry.example/elsewhere");
    assert_refused(&host, &signed(&elsewhere), &[], "is for registry.example/elsewhere");

    let signature = right.signature(&good, REPOSITORY);
    let output = import(&host, &signed(&signature), &[]);
    // Nobody signs a signature, so it has no name where all must be signed.
    assert!(output.contains(&format!("-  {}", signature.manifest)), "{output}");
    assert_eq!(host.ids(&["images", "ls"]), [NAME]);
    assert_eq!(digest_of(&host, NAME), good.manifest);
    assert_runs(&host);
}

/// A name that looks as if it were that of signatures, of no image in the archive, gets nothing in.
#[test]
fn the_name_of_a_signature_lets_nothing_in() {
    let right = Signer::new();
    let (good, evil) = (image("good"), image("evil"));
    let host = host("cosign", &right.rule("registry.example/**"));
    let tag = format!("{REPOSITORY}:{}", tag_of(&good));
    let output =
        host.capstan_with_input(&["images", "import", "-"], &archive(&[(&evil, named(&tag))]));
    assert_eq!(output.code, 8, "{}", output.stderr);
    assert_nothing_half_made(&host);
    // That image in another repository makes no difference.
    let free = [(&good, named("other.example/app:1")), (&evil, named(&tag))];
    let output = host.capstan_with_input(&["images", "import", "-"], &archive(&free));
    assert_eq!(output.code, 8, "{}", output.stderr);
    assert_nothing_half_made(&host);
}

/// As `cosign save` writes it: a directory of entries without names, which say what they are.
#[test]
fn what_cosign_saved_is_let_in() {
    let (right, wrong) = (Signer::new(), Signer::new());
    let good = image("good");
    let both = Image::index(&[(architecture(), &good), ("s390x", &image("other"))]);
    let dir = tempfile::tempdir().unwrap();
    let saved = |image: &Image, what: &str, signer: &Signer| {
        let signature = signer.signature(image, REPOSITORY);
        let archive = archive(&[(image, kind(what)), (&signature, kind("sigs"))]);
        let place = dir.path().join(&image.manifest);
        let _ = std::fs::remove_dir_all(&place);
        tar::Archive::new(archive.as_slice()).unpack(&place).unwrap();
        place.display().to_string()
    };
    let name = ["--name", NAME];
    for (image, what) in [(&good, "image"), (&both, "imageIndex")] {
        let host = host("cosign", &right.rule("registry.example/**"));
        assert_refused(&host, &archive(&[(image, kind(what))]), &name, "nobody signed");
        let archived = succeed("tar", &["-cC", &saved(image, what, &wrong), "."]);
        assert_refused(&host, &archived, &name, "no trusted key");
        host.ok(&["images", "import", "--name", NAME, &saved(image, what, &right)]);
        assert_eq!(host.ids(&["images", "ls"]), [NAME]);
        assert_eq!(digest_of(&host, NAME), image.manifest);
        assert_runs(&host);
    }
}

/// As tools have it that copy what refers to an image.
#[test]
fn a_bundle_that_refers_to_an_image_of_the_archive_lets_it_in() {
    let (right, wrong) = (Signer::new(), Signer::new());
    let (good, other) = (image("good"), image("other"));
    let host = host("cosign", &right.rule("registry.example/**"));
    let signed = |bundle: &Image| archive(&[(&good, named(NAME)), (bundle, json!({}))]);
    assert_refused(&host, &signed(&wrong.bundle(&good, &good)), &[], "no trusted key");
    assert_refused(&host, &signed(&right.bundle(&other, &good)), &[], "is for another digest");
    assert_refused(&host, &signed(&right.bundle(&good, &other)), &[], "nobody signed");
    import(&host, &signed(&right.bundle(&good, &good)), &[]);
    assert_eq!(host.ids(&["images", "ls"]), [NAME]);
    assert_runs(&host);
}
