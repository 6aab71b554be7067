//! Names that are given to what is here: by a tag, by an update, by an import, by a checkpoint. All are asked about once.

use capstan_client::schema::image_capnp::images;
use capstan_client::schema::{Class, write_texts};
use capstan_client::{Client, Error, check};
use capstan_integration::{DockerRegistry, FakeRegistry, Host, Image};
use serde_json::Value;

use super::signer::{Signer, tag_of};
use super::{host, image};
use crate::archive::digest_of;

/// How many questions a verifier answered so far.
fn questions(host: &Host, id: &str) -> u64 {
    host.json(&["plugins", "inspect", id])["calls"].as_u64().unwrap()
}

fn pull(host: &Host, name: &str) {
    host.ok(&["images", "pull", "--plain-http", name]);
}

fn assert_refused(host: &Host, source: &str, name: &str, reason: &[&str]) {
    let before = host.json(&["images", "ls"]);
    let mut parts = vec![source, name];
    parts.extend(reason);
    host.fails(&["images", "tag", source, name], 8, "PermissionDenied", &parts);
    assert_eq!(host.json(&["images", "ls"]), before, "all names mean what they meant");
}

/// Points a name at what another one means, as any client may.
fn update(host: &Host, name: &str, target: &Value) -> Result<(), Error> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, async {
        let client = Client::connect(&host.address()).await.unwrap();
        let service: images::Client = client.open("images", "default");
        let mut request = service.update_request();
        write_texts(&["target"], request.get().init_mask(1));
        let mut out = request.get().init_image();
        out.set_name(name);
        let mut descriptor = out.init_target();
        descriptor.set_media_type(target["mediaType"].as_str().unwrap());
        descriptor.set_digest(target["digest"].as_str().unwrap());
        descriptor.set_size(target["size"].as_u64().unwrap());
        let response = client.call(request.send().promise).await?;
        check!(response.get()?).map(drop)
    })
}

fn target(host: &Host, name: &str) -> Value {
    host.json(&["images", "inspect", name])["image"]["target"].clone()
}

#[test]
fn only_listed_digests_get_another_name() {
    const PROD: &str = "registry.example/prod:1";
    let registry = FakeRegistry::start();
    let (good, other) = (image("good"), image("other"));
    let names = [registry.offer("good", &good), registry.offer("other", &other)];
    let rules = format!(
        "default = \"accept\"\nrules = [{{ images = \"registry.example/prod\", digests = [{:?}] }}]",
        good.manifest
    );
    let host = host("digest", &rules);
    for name in &names {
        pull(&host, name);
    }
    let [good_name, other_name] = &names;
    let reason = ["verifier.digest refuses it", &other.manifest];
    assert_refused(&host, other_name, PROD, &reason);
    host.ok(&["images", "tag", good_name, PROD]);
    // Now that there is one it does not move to what it must not mean.
    assert_refused(&host, other_name, PROD, &reason);
    let error = update(&host, PROD, &target(&host, other_name)).unwrap_err();
    assert_eq!(error.class(), Class::PermissionDenied, "{error}");
    assert_eq!(digest_of(&host, PROD), good.manifest);
    update(&host, other_name, &target(&host, good_name)).unwrap();
    assert_eq!(digest_of(&host, other_name), good.manifest);
    host.ok(&["run", "--rm", "--pull", "never", PROD, "true"]);
}

#[test]
fn each_way_to_a_name_asks_once() {
    const ID: &str = "verifier.digest";
    let registry = FakeRegistry::start();
    let name = registry.offer("app", &image("good"));
    let other = registry.offer("other", &image("other"));
    let host = host("digest", "");
    let mut seen = questions(&host, ID);
    let mut asked = |what: &str, count: u64| {
        let now = questions(&host, ID);
        assert_eq!(now - std::mem::replace(&mut seen, now), count, "{what}");
    };
    // What is not here yet: whether it wants evidence, and what it says.
    pull(&host, &name);
    asked("a pull", 2);
    pull(&host, &other);
    asked("another one", 2);
    host.ok(&["images", "tag", &name, "registry.example/app:1"]);
    asked("a tag", 1);
    host.ok(&["images", "tag", &name, "registry.example/app:1"]);
    asked("a tag that changes nothing", 0);
    host.ok(&["images", "tag", &other, "registry.example/app:1"]);
    asked("a tag that moves", 1);
    let there = target(&host, &name);
    update(&host, "registry.example/app:1", &there).unwrap();
    asked("an update", 1);
    update(&host, "registry.example/app:1", &there).unwrap();
    asked("an update that changes nothing", 0);
    let mut otherwise = there.clone();
    otherwise["mediaType"] = "application/vnd.docker.distribution.manifest.v2+json".into();
    update(&host, "registry.example/app:1", &otherwise).unwrap();
    asked("the same bytes as something else", 1);
    let file = host.path("app.tar").display().to_string();
    host.ok(&["images", "export", &file, &name]);
    host.ok(&["images", "rm", &name]);
    asked("an export and a removal", 0);
    host.ok(&["images", "import", &file]);
    asked("an import", 2);
    host.ok(&["images", "label", &name, "a=1"]);
    host.ok(&["images", "unpack", &name]);
    host.ok(&["run", "--rm", "--pull", "never", &name, "true"]);
    let elsewhere = DockerRegistry::empty();
    let to = format!("{}/copy:1", elsewhere.address());
    host.ok(&["images", "copy", "--plain-http", &name, &to]);
    asked("what gives no name", 0);
}

#[test]
fn an_image_may_have_other_names_by_the_signatures_that_it_came_with() {
    let signer = Signer::new();
    let registry = FakeRegistry::start();
    let (good, other) = (image("good"), image("other"));
    let name = registry.offer("app", &good);
    let repository = name.strip_suffix(":latest").unwrap();
    registry.offer_as("app", &tag_of(&good), &signer.signature(&good, repository));
    let free = registry.offer("free", &other);
    let public = signer.rule("ABOUT");
    let rule = |images: &str| {
        let rules = public.replace("ABOUT", images);
        rules.strip_prefix("rules = [").unwrap().strip_suffix(']').unwrap().to_owned()
    };
    let rules = [rule("127.0.0.1:*/app"), rule("registry.example/app")].join(", ");
    let mut host = host("cosign", &format!("rules = [{rules}]"));
    pull(&host, &name);
    pull(&host, &free);

    let prod = format!("{repository}:prod");
    host.ok(&["images", "tag", &name, &prod]);
    // They are kept over restarts, go from name to name, and outlive labels.
    host.kill();
    host.start();
    host.ok(&["images", "label", &prod, "a=1"]);
    let third = format!("{repository}:third");
    host.ok(&["images", "tag", &prod, &third]);
    assert_eq!(digest_of(&host, &third), good.manifest);
    // Where nobody asks for a signature they go along too.
    host.ok(&["images", "tag", &name, "elsewhere.example/app:1"]);
    host.ok(&["images", "tag", "elsewhere.example/app:1", &format!("{repository}:fourth")]);

    // What nobody signed, and what was signed for another repository.
    assert_refused(&host, &free, &prod, &["verifier.cosign", "nobody signed"]);
    let reason = format!("is for {repository}");
    assert_refused(&host, &name, "registry.example/app:1", &["verifier.cosign", &reason]);
    // An update has no source: signatures do not come along.
    let error = update(&host, &free, &target(&host, &name)).map(drop);
    error.unwrap();
    assert_refused(&host, &free, &format!("{repository}:fifth"), &["nobody signed"]);
}

/// A bundle says nothing of a repository: it is good for each that the rule of its key is about.
#[test]
fn what_came_in_an_archive_keeps_its_signatures_too() {
    let signer = Signer::new();
    let good = image("good");
    let host = host("cosign", &signer.rule("registry.example/**"));
    let archive = super::archives::signed(&good, "registry.example/app:1", &signer);
    let imported = host.capstan_with_input(&["images", "import", "-"], &archive);
    assert_eq!(imported.code, 0, "{}", imported.stderr);
    host.ok(&["images", "tag", "registry.example/app:1", "registry.example/other:2"]);
    assert_eq!(digest_of(&host, "registry.example/other:2"), good.manifest);
}

#[test]
fn a_tag_is_refused_while_a_verifier_that_must_be_asked_is_missing() {
    let registry = FakeRegistry::start();
    let good: Image = image("good");
    let name = registry.offer("app", &good);
    let host = Host::new();
    pull(&host, &name);
    host.ok(&["images", "tag", &name, "registry.example/app:1"]);
    host.configure("[plugins.\"images.local\"]\nverifiers = [\"verifier.mine\"]\n");
    host.ok(&["plugins", "reload"]);
    let tag = ["images", "tag", &name, "registry.example/app:2"];
    host.fails(&tag, 6, "FailedPrecondition", &["registry.example/app:2", "verifier.mine"]);
    assert_eq!(host.ids(&["images", "ls"]), [name.as_str(), "registry.example/app:1"]);
    // What it means already it may go on to mean.
    host.ok(&["images", "tag", &name, "registry.example/app:1"]);
}
