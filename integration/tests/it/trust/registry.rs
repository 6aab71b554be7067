//! Signatures where they are kept: in Debian's registry, below cosign's tag or as what refers to the image.

use capstan_integration::{DockerRegistry, Image};
use tempfile::TempDir;

use super::signer::{Signer, referrers, tag_of};
use super::{assert_refused, assert_taken, host, image};

/// Debian's registry with one image in the repository `app`.
struct Shelf {
    registry: DockerRegistry,
    image: Image,
    _storage: TempDir,
}

impl Shelf {
    fn new(image: Image) -> Self {
        let storage = tempfile::Builder::new().prefix("storage-").tempdir().unwrap();
        let registry = DockerRegistry::serve(storage.path());
        image.push_to(&registry.address(), "app", "latest");
        Self { registry, image, _storage: storage }
    }

    fn put(&self, tag: &str, image: &Image) {
        image.push_to(&self.registry.address(), "app", tag);
    }

    /// Puts a signature where cosign does.
    fn sign(&self, signature: &Image) {
        self.put(&tag_of(&self.image), signature);
    }

    /// Makes these, and no others, refer to the image. The registry does not list them: a tag does.
    fn refer(&self, all: &[&Image]) {
        self.put(&self.image.manifest.replace(':', "-"), &referrers(all));
    }

    fn repository(&self) -> String {
        format!("{}/app", self.registry.address())
    }
}

#[test]
fn a_signature_below_the_tag_of_cosign_lets_one_image_of_one_repository_in() {
    let (right, wrong) = (Signer::new(), Signer::new());
    let shelf = Shelf::new(image("good"));
    let (name, repository) = (shelf.registry.reference("app"), shelf.repository());
    let host = host("cosign", &right.rule("127.0.0.1:*/**"));

    assert_refused(&host, &name, &["verifier.cosign", "nobody signed", &shelf.image.manifest]);
    shelf.sign(&wrong.signature(&shelf.image, &repository));
    assert_refused(&host, &name, &["verifier.cosign", "no trusted key"]);
    shelf.sign(&right.signature(&image("other"), &repository));
    assert_refused(&host, &name, &["verifier.cosign", "is for another digest"]);
    let elsewhere = format!("{}/elsewhere", shelf.registry.address());
    shelf.sign(&right.signature(&shelf.image, &elsewhere));
    assert_refused(&host, &name, &["verifier.cosign", &format!("is for {elsewhere}")]);
    shelf.sign(&right.signature(&shelf.image, &repository));
    assert_taken(&host, &name);
    // By its digest it is the same image.
    let pinned = format!("{repository}@{}", shelf.image.manifest);
    assert_taken(&host, &pinned);
}

#[test]
fn a_bundle_that_refers_to_the_image_lets_it_in() {
    let (right, wrong) = (Signer::new(), Signer::new());
    let shelf = Shelf::new(image("good"));
    let other = image("other");
    let name = shelf.registry.reference("app");
    let host = host("cosign", &right.rule("127.0.0.1:*/**"));

    let by_other = wrong.bundle(&shelf.image, &shelf.image);
    shelf.refer(&[&by_other]);
    assert_refused(&host, &name, &["verifier.cosign", "no trusted key"]);
    // It refers to this image, and what is signed is another one.
    let of_other = right.bundle(&other, &shelf.image);
    shelf.refer(&[&of_other]);
    assert_refused(&host, &name, &["verifier.cosign", "is for another digest"]);
    // It is about something else, and this repository has it for that.
    let bill = Image::artifact("application/spdx+json", vec![b"{}".to_vec()], Some(&shelf.image));
    shelf.refer(&[&bill]);
    assert_refused(&host, &name, &["verifier.cosign", "nobody signed"]);
    // The right one among wrong ones.
    let good = right.bundle(&shelf.image, &shelf.image);
    shelf.refer(&[&by_other, &of_other, &good]);
    assert_taken(&host, &name);

    // Another repository has the image, and nothing that refers to it.
    shelf.image.push_to(&shelf.registry.address(), "copy", "latest");
    let copy = shelf.registry.reference("copy");
    let refused = ["verifier.cosign", "nobody signed"];
    host.fails(&["images", "pull", "--plain-http", &copy], 8, "PermissionDenied", &refused);
    assert_eq!(host.ids(&["images", "ls"]), [name]);
}
