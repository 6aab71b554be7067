//! Images get their names only if the verifiers let them; what is refused leaves nothing.

mod archives;
mod misbehaved;
mod names;
mod registry;
mod signer;

use capstan_integration::{FakeRegistry, Fault, Host, Image, Layer};

use signer::Signer;

fn image(what: &str) -> Image {
    Image::new(vec![Layer::new().busybox().file("what", 0o644, what.as_bytes())])
}

/// A daemon with rules for `verifier.NAME`.
fn host(name: &str, rules: &str) -> Host {
    Host::with_config(&format!("[plugins.\"verifier.{name}\"]\n{rules}\n"))
}

fn assert_refused(host: &Host, image: &str, reason: &[&str]) {
    assert_fails(host, image, 8, "PermissionDenied", reason);
}

/// A pull fails, and nothing is left of it.
fn assert_fails(host: &Host, image: &str, code: i32, class: &str, reason: &[&str]) {
    let mut parts = vec![image];
    parts.extend(reason);
    host.fails(&["images", "pull", "--plain-http", image], code, class, &parts);
    for list in
        [&["images", "ls"][..], &["content", "ls"], &["content", "active"], &["snapshots", "ls"]]
    {
        assert_eq!(host.ids(list), Vec::<String>::new(), "{list:?}");
    }
}

fn assert_taken(host: &Host, image: &str) {
    host.ok(&["images", "pull", "--plain-http", image]);
    host.ok(&["run", "--rm", "--pull", "never", image, "true"]);
}

#[test]
fn only_listed_digests_get_a_name() {
    let registry = FakeRegistry::start();
    let (good, other) = (image("good"), image("other"));
    let name = registry.offer("app", &other);
    let rules = format!(
        "default = \"accept\"\nrules = [{{ images = \"127.0.0.1:*/app\", digests = [{:?}] }}]",
        good.manifest
    );
    let host = host("digest", &rules);
    assert_refused(&host, &name, &["verifier.digest"]);
    registry.offer("app", &good);
    assert_taken(&host, &name);
    // No rule speaks of this one.
    let free = registry.offer("free", &other);
    assert_taken(&host, &free);
}

#[test]
fn a_verifier_that_must_be_asked_and_is_not_there_refuses() {
    let registry = FakeRegistry::start();
    let name = registry.offer("app", &image("good"));
    let host = Host::with_config("[plugins.\"images.local\"]\nverifiers = [\"verifier.mine\"]\n");
    let says = ["verifier.mine", "not there"];
    host.fails(&["images", "pull", "--plain-http", &name], 6, "FailedPrecondition", &says);
    assert_eq!(host.ids(&["content", "ls"]), Vec::<String>::new());
}

#[test]
fn only_what_the_right_key_signed_gets_a_name() {
    let (right, wrong) = (Signer::new(), Signer::new());
    let registry = FakeRegistry::start();
    let (good, other) = (image("good"), image("other"));
    let name = registry.offer("app", &good);
    let repository = name.strip_suffix(":latest").unwrap();
    let host = host("cosign", &right.rule("127.0.0.1:*/app"));
    let offer = |signature: &Image| {
        registry.offer_as("app", &signer::tag_of(&good), signature);
    };

    assert_refused(&host, &name, &["verifier.cosign", "nobody signed"]);
    offer(&wrong.signature(&good, repository));
    assert_refused(&host, &name, &["verifier.cosign", "no trusted key"]);
    // Signatures of another image, and for another repository.
    offer(&right.signature(&other, repository));
    assert_refused(&host, &name, &["verifier.cosign", "is for another digest"]);
    offer(&right.signature(&good, "registry.example/app"));
    assert_refused(&host, &name, &["verifier.cosign", "is for registry.example/app"]);
    offer(&right.signature(&good, repository));
    assert_taken(&host, &name);
    // The tag moves on to what nobody has signed.
    registry.offer("app", &other);
    host.fails(&["images", "pull", "--plain-http", &name], 8, "PermissionDenied", &[&name]);
    let digest = host.json(&["images", "ls"])[0]["target"]["digest"].clone();
    assert_eq!(digest, good.manifest.as_str(), "the name means what it meant before");
    let free = registry.offer("free", &other);
    assert_taken(&host, &free);
}

#[test]
fn a_signature_that_cannot_be_had_lets_nothing_in() {
    let signer = Signer::new();
    let registry = FakeRegistry::start();
    let good = image("good");
    let name = registry.offer("app", &good);
    let signature = signer.signature(&good, name.strip_suffix(":latest").unwrap());
    registry.offer_as("app", &signer::tag_of(&good), &signature);
    let few = "[plugins.\"transfer.local\"]\nattempts = 1";
    let host = host("cosign", &format!("{}\n{few}", signer.rule("127.0.0.1:*/app")));
    for (fault, code, class) in
        [(Fault::CutAfter(0), 7, "Unavailable"), (Fault::Instead(b"{}".to_vec()), 10, "Corrupt")]
    {
        let [payload] = &signature.layers[..] else { panic!("it has one signature") };
        registry.set_fault(payload, Some(fault));
        assert_fails(&host, &name, code, class, &["look for signatures"]);
        registry.set_fault(payload, None);
    }
    assert_taken(&host, &name);
}
