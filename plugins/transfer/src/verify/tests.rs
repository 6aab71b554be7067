//! Who is asked, what they are asked, and what their answers come to.

use std::cell::Cell as Count;
use std::path::Path;
use std::sync::{Arc, Mutex};

use actix::{Actor, Context as Cell, Handler, ResponseFuture};
use capstan_sdk::contract::verifier::VerifierAddr;
use capstan_sdk::{
    Absent, Algorithm, Control, DaemonInfo, Info, Kernel, LocalFuture, Lookup, Manifest,
    PluginStatus, Provider,
};
use serde_json::json;
use tokio::sync::watch;

use super::*;

const SIMPLE: &str = "application/vnd.dev.cosign.simplesigning.v1+json";
const BUNDLE: &str = "application/vnd.dev.sigstore.bundle.v0.3+json";
const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const NAME: &str = "registry.example/app:1";

/// What a verifier of the tests answers.
#[derive(Clone)]
enum Says {
    Accepted,
    Refused(&'static str),
    Fails(Class),
    /// It fails already when it is asked what it wants.
    FailsToAsk,
    Nothing,
}

/// One that answers by a script, and keeps what it was asked.
#[derive(Clone)]
struct Scripted {
    wants: bool,
    says: Says,
    asked: Arc<Mutex<Vec<Verify>>>,
}

impl Scripted {
    fn new(says: Says) -> Self {
        Self { wants: false, says, asked: Arc::default() }
    }

    fn wanting(says: Says) -> Self {
        Self { wants: true, ..Self::new(says) }
    }

    fn asked(&self) -> Vec<Verify> {
        self.asked.lock().unwrap().clone()
    }
}

impl Actor for Scripted {
    type Context = Cell<Self>;
}

impl Handler<Ask> for Scripted {
    type Result = Result<bool>;
    fn handle(&mut self, ask: Ask, _: &mut Cell<Self>) -> Self::Result {
        assert_eq!((ask.namespace.as_str(), ask.name.as_str()), ("default", NAME));
        match self.says {
            Says::FailsToAsk => Err(Error::internal("it is out of order")),
            _ => Ok(self.wants),
        }
    }
}

impl Handler<Verify> for Scripted {
    type Result = ResponseFuture<Result<Verdict>>;
    fn handle(&mut self, verify: Verify, _: &mut Cell<Self>) -> Self::Result {
        self.asked.lock().unwrap().push(verify);
        let says = self.says.clone();
        Box::pin(async move {
            match says {
                Says::Accepted => Ok(Verdict::Accepted),
                Says::Refused(reason) => Ok(Verdict::Refused(reason.into())),
                Says::Fails(class) => Err(Error::new(class, "it is out of order")),
                Says::FailsToAsk => panic!("it is not to be asked"),
                Says::Nothing => std::future::pending().await,
            }
        })
    }
}

/// The plugins that there are.
struct World {
    plugins: Vec<(PluginStatus, Provider)>,
    changes: watch::Sender<u64>,
}

impl World {
    fn new() -> Self {
        Self { plugins: Vec::new(), changes: watch::Sender::new(0) }
    }

    fn with(self, id: &str, verifier: &Scripted) -> Self {
        self.in_state(id, verifier, PluginState::Running)
    }

    fn in_state(mut self, id: &str, verifier: &Scripted, state: PluginState) -> Self {
        let addr = VerifierAddr::from(&verifier.clone().start());
        let last_error = "it broke\nin two".to_owned();
        let status = PluginStatus { id: id.into(), state, last_error, ..PluginStatus::default() };
        let (id, stats) = (id.into(), Arc::default());
        self.plugins.push((status, Provider { id, generation: 1, stats, addr: Arc::new(addr) }));
        self
    }

    fn find(&self, target: &str) -> Result<Provider> {
        let found = self.plugins.iter().find(|(status, _)| status.id == target);
        found.map(|(_, provider)| provider.clone()).ok_or_else(|| Error::not_found(target))
    }

    fn verifiers(self, required: &[&str]) -> Verifiers {
        let info = Info {
            id: "transfer.test",
            version: "1",
            about: "",
            requires: &["verifier?"],
            rank: 0,
        };
        let (here, world) = (Path::new("/none"), Arc::new(self));
        let context =
            Context::new(&Manifest::from(&info), here, here, world.clone() as _, world as _);
        let required = required.iter().map(|id| (*id).to_owned()).collect();
        Verifiers { context, required, deadline: Duration::from_millis(50) }
    }
}

impl Lookup for World {
    fn provider(&self, target: &str) -> Result<Provider, Absent> {
        Ok(self.find(target)?)
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    fn resolve(&self, target: &str) -> Result<Arc<str>> {
        Ok(self.find(target)?.id)
    }
}

impl Kernel for World {
    fn plugins(&self) -> Vec<PluginStatus> {
        self.plugins.iter().map(|(status, _)| status.clone()).collect()
    }

    fn daemon(&self) -> DaemonInfo {
        unreachable!("nobody asks")
    }

    fn control(&self, _: Control) -> LocalFuture<'static, Result<Vec<String>>> {
        unreachable!("nobody asks")
    }
}

/// Runs a test inside an actix system.
fn run<F: Future<Output = ()>>(test: impl FnOnce() -> F) {
    actix::System::new().block_on(async { test().await });
}

fn digest_of(bytes: &[u8]) -> Digest {
    hash(Algorithm::Sha256, bytes)
}

fn describe(media_type: &str, bytes: &[u8]) -> Descriptor {
    let (digest, size) = (digest_of(bytes), bytes.len() as u64);
    Descriptor { media_type: media_type.into(), digest, size, platform: None }
}

fn evidence() -> Vec<Evidence> {
    vec![Evidence {
        artifact_type: BUNDLE.into(),
        media_type: BUNDLE.into(),
        payload: b"{}".to_vec(),
        annotations: Labels::new(),
    }]
}

/// Asks, and counts how often evidence was looked for.
async fn check(verifiers: &Verifiers) -> (Result<()>, usize) {
    let (namespace, document) = (Namespace::parse("default").unwrap(), b"{}");
    let target = describe(OCI_MANIFEST, document);
    let question = Question { namespace: &namespace, name: NAME, target: &target, document };
    let looks = Count::new(0);
    let outcome = verifiers
        .check(&question, async || {
            looks.set(looks.get() + 1);
            Ok(evidence())
        })
        .await;
    (outcome, looks.get())
}

async fn fails(verifiers: &Verifiers, class: Class, parts: &[&str]) {
    let error = check(verifiers).await.0.unwrap_err();
    assert_eq!(error.class(), class, "{error}");
    for part in parts {
        assert!(error.message().contains(part), "no {part:?} in {error}");
    }
    assert!(!error.message().contains(char::is_control), "{error:?} is one line");
}

#[test]
fn without_verifiers_everything_has_its_name() {
    run(|| async {
        assert_eq!(check(&World::new().verifiers(&[])).await, (Ok(()), 0));
    });
}

#[test]
fn all_are_asked_and_each_may_refuse() {
    run(|| async {
        let one = Scripted::new(Says::Accepted);
        let two = Scripted::new(Says::Accepted);
        let world = || World::new().with("verifier.b", &two).with("verifier.a", &one);
        assert_eq!(check(&world().verifiers(&["verifier.a"])).await, (Ok(()), 0));
        for verifier in [&one, &two] {
            let [asked] = &verifier.asked()[..] else { panic!("it is asked once") };
            assert_eq!((asked.namespace.as_str(), asked.name.as_str()), ("default", NAME));
            assert_eq!(asked.target, describe(OCI_MANIFEST, b"{}"));
            assert_eq!(asked.document, b"{}");
            assert_eq!(asked.evidence, [], "nobody wants evidence");
        }
        let no = Scripted::new(Says::Refused(" it is\nold\u{1b}[2J "));
        let verifiers = world().with("verifier.no", &no).verifiers(&[]);
        let parts = ["verifier.no refuses it: it is old [2J"];
        fails(&verifiers, Class::PermissionDenied, &parts).await;
    });
}

#[test]
fn a_reason_is_one_short_line() {
    assert_eq!(one_line(" a\tb\r\n"), "a b");
    assert_eq!(one_line(" \n "), "it does not say why");
    assert_eq!(one_line(&"\u{e9}".repeat(1000)).chars().count(), MAX_REASON_CHARS);
}

#[test]
fn evidence_is_looked_for_once_if_somebody_wants_it() {
    run(|| async {
        let (all, some) = (Scripted::wanting(Says::Accepted), Scripted::wanting(Says::Accepted));
        let none = Scripted::new(Says::Accepted);
        let world = World::new().with("verifier.a", &all).with("verifier.b", &none);
        let verifiers = world.with("verifier.c", &some).verifiers(&[]);
        assert_eq!(check(&verifiers).await, (Ok(()), 1));
        for verifier in [&all, &some, &none] {
            assert_eq!(verifier.asked()[0].evidence, evidence());
        }

        let namespace = Namespace::parse("default").unwrap();
        let target = describe(OCI_MANIFEST, b"{}");
        let question =
            Question { namespace: &namespace, name: NAME, target: &target, document: b"{}" };
        let broken = async || Err(Error::unavailable("the registry is down"));
        let error = verifiers.check(&question, broken).await.unwrap_err();
        assert_eq!(error.class(), Class::Unavailable);
        assert!(error.message().contains("look for signatures: the registry is down"), "{error}");
        assert_eq!(all.asked().len(), 1, "without all evidence nobody is asked");
    });
}

#[test]
fn what_cannot_be_asked_refuses() {
    run(|| async {
        let fine = Scripted::new(Says::Accepted);
        let with = |says| World::new().with("verifier.a", &fine).with("verifier.b", &says);
        for class in [Class::Unavailable, Class::NotFound, Class::Internal] {
            let verifiers = with(Scripted::new(Says::Fails(class))).verifiers(&[]);
            let parts = ["verifier.b could not be asked, so it is refused", "out of order"];
            fails(&verifiers, class, &parts).await;
        }
        let verifiers = with(Scripted::wanting(Says::FailsToAsk)).verifiers(&[]);
        fails(&verifiers, Class::Internal, &["verifier.b could not be asked"]).await;
        let verifiers = with(Scripted::new(Says::Nothing)).verifiers(&[]);
        let parts = ["verifier.b could not be asked", "no answer within 50ms"];
        fails(&verifiers, Class::Unavailable, &parts).await;
    });
}

#[test]
fn what_should_be_there_and_is_not_refuses() {
    run(|| async {
        let fine = Scripted::new(Says::Accepted);
        let world = || World::new().with("verifier.a", &fine);
        for state in [PluginState::Failed, PluginState::Skipped, PluginState::Stopped] {
            let verifiers = world().in_state("verifier.b", &fine, state).verifiers(&[]);
            let parts = ["verifier.b", state.name(), "it broke in two", "restart it"];
            fails(&verifiers, Class::FailedPrecondition, &parts).await;
        }
        assert_eq!(fine.asked().len(), 0, "nobody is asked in vain");
        // One that is about to come is waited for, by the link.
        for state in [PluginState::Starting, PluginState::Restarting, PluginState::Replacing] {
            let verifiers = world().in_state("verifier.b", &fine, state).verifiers(&["verifier.b"]);
            assert_eq!(check(&verifiers).await.0, Ok(()));
        }
        // What the configuration denies is not there: that is in order, unless it must be.
        let denied = || world().in_state("verifier.b", &fine, PluginState::Disabled);
        assert_eq!(check(&denied().verifiers(&["verifier.a"])).await.0, Ok(()));
        let parts = ["verifier.b", "not there", "verifiers in [plugins.\"transfer.local\"]"];
        for verifiers in [denied().verifiers(&["verifier.b"]), world().verifiers(&["verifier.b"])] {
            fails(&verifiers, Class::FailedPrecondition, &parts).await;
        }
        // Others than verifiers are not asked, whatever they are called.
        let other = Scripted::new(Says::Refused("nobody asked"));
        let world = world().with("metrics.verifier", &other).with("verifiers.a", &other);
        let world = world.in_state("metrics.failed", &other, PluginState::Failed);
        assert_eq!(check(&world.verifiers(&[])).await.0, Ok(()));
        assert_eq!(other.asked().len(), 0);
    });
}

/// A manifest of signatures.
fn manifest(layers: &serde_json::Value) -> Vec<u8> {
    let config = json!({
        "mediaType": "application/vnd.oci.image.config.v1+json",
        "digest": digest_of(b"{}").as_str(),
        "size": 2,
    });
    let manifest = json!({
        "schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config, "layers": layers,
    });
    manifest.to_string().into_bytes()
}

fn piece(payload: &[u8], size: u64) -> serde_json::Value {
    json!({
        "mediaType": SIMPLE,
        "digest": digest_of(payload).as_str(),
        "size": size,
        "annotations": { "dev.cosignproject.cosign/signature": "AAAA", "": "no key" },
    })
}

/// What is found in a manifest whose blobs are all the same, and how often one was read.
async fn findings(manifest: &[u8], kind: &str, blob: &[u8]) -> (Result<Vec<Evidence>>, usize) {
    let (mut findings, reads) = (Findings::default(), Count::new(0));
    let read = async |_: &Descriptor| {
        reads.set(reads.get() + 1);
        Ok(Bytes::copy_from_slice(blob))
    };
    let added = findings.add(&describe(OCI_MANIFEST, manifest), manifest, kind, read).await;
    (added.map(|()| findings.into_evidence()), reads.get())
}

#[test]
fn pieces_of_a_manifest_are_evidence() {
    run(|| async {
        let manifest = manifest(&json!([piece(b"payload", 7)]));
        for (kind, want) in [("", SIMPLE), (BUNDLE, BUNDLE)] {
            let (found, reads) = findings(&manifest, kind, b"payload").await;
            let signature = ("dev.cosignproject.cosign/signature".into(), "AAAA".into());
            let want = Evidence {
                artifact_type: want.into(),
                media_type: SIMPLE.into(),
                payload: b"payload".to_vec(),
                annotations: Labels::from([signature]),
            };
            assert_eq!((found, reads), (Ok(vec![want]), 1));
        }
        let error = findings(&manifest, "", b"another").await.0.unwrap_err();
        assert_eq!(error.class(), Class::Corrupt);
        assert!(error.message().contains(digest_of(b"payload").as_str()), "{error}");
    });
}

#[test]
fn what_is_no_manifest_of_signatures_has_no_evidence() {
    run(|| async {
        let mut bad = piece(b"payload", 7);
        bad["digest"] = "sha256:short".into();
        let index = json!({ "schemaVersion": 2, "manifests": [] }).to_string().into_bytes();
        for manifest in [b"".to_vec(), b"[]".to_vec(), index, manifest(&json!([bad]))] {
            assert_eq!(findings(&manifest, "", b"payload").await, (Ok(vec![]), 0));
        }
    });
}

#[test]
fn evidence_beyond_the_limits_is_left_out() {
    run(|| async {
        // Too large as it says itself: it is not even read.
        let large = manifest(&json!([piece(b"payload", MAX_EVIDENCE_BYTES + 1)]));
        assert_eq!(findings(&large, "", b"payload").await, (Ok(vec![]), 0));
        let many = vec![piece(b"payload", 7); MAX_EVIDENCE + 5];
        let (found, reads) = findings(&manifest(&json!(many)), "", b"payload").await;
        assert_eq!((found.unwrap().len(), reads), (MAX_EVIDENCE, MAX_EVIDENCE));
        // As many of the largest as fit.
        let largest = vec![0; usize::try_from(MAX_EVIDENCE_BYTES).unwrap()];
        let fit = usize::try_from(MAX_EVIDENCE_TOTAL_BYTES / MAX_EVIDENCE_BYTES).unwrap();
        let many = vec![piece(&largest, MAX_EVIDENCE_BYTES); fit + 1];
        let (found, reads) = findings(&manifest(&json!(many)), "", &largest).await;
        assert_eq!((found.unwrap().len(), reads), (fit, fit));
    });
}

#[test]
fn signatures_are_known_by_name_by_kind_and_by_what_they_refer_to() {
    let digest = digest_of(b"image");
    let tag = cosign_tag(&Reference::parse(NAME).unwrap(), &digest).unwrap().to_string();
    assert_eq!(tag, format!("registry.example/app:sha256-{}.sig", digest.hex()));
    let pinned = Reference::parse(&format!("registry.example:5000/a/b:1@{digest}")).unwrap();
    let tag = cosign_tag(&pinned, &digest).unwrap().to_string();
    assert_eq!(tag, format!("registry.example:5000/a/b:sha256-{}.sig", digest.hex()));
    let long = hash(Algorithm::Sha512, b"image");
    assert_eq!(cosign_tag(&pinned, &long), None, "a tag has at most 128 characters");

    for kind in ["sigs", "atts", "sboms"] {
        assert!(is_about_an_image(&format!("dev.cosignproject.cosign/{kind}")), "{kind}");
    }
    for kind in
        ["", "sigs", "dev.cosignproject.cosign/image", "dev.cosignproject.cosign/imageIndex"]
    {
        assert!(!is_about_an_image(kind), "{kind}");
    }

    let referrer = |kind: Option<&str>, config: &str, subject: &Digest| {
        let mut manifest = json!({
            "config": { "mediaType": config }, "subject": { "digest": subject.as_str() },
        });
        if let Some(kind) = kind {
            manifest["artifactType"] = kind.into();
        }
        artifact_type_of(manifest.to_string().as_bytes(), &digest)
    };
    let empty = "application/vnd.oci.empty.v1+json";
    let old = "application/vnd.dev.cosign.artifact.sig.v1+json";
    assert_eq!(referrer(Some(BUNDLE), empty, &digest).as_deref(), Some(BUNDLE));
    assert_eq!(referrer(None, old, &digest).as_deref(), Some(old));
    assert_eq!(referrer(Some(BUNDLE), empty, &digest_of(b"other")), None);
    assert_eq!(referrer(Some("application/spdx+json"), empty, &digest), None);
    assert_eq!(artifact_type_of(b"{}", &digest), None);
}

#[test]
fn a_registry_without_signatures_is_no_error_and_one_that_fails_is() {
    for class in [Class::NotFound, Class::Unimplemented, Class::Corrupt] {
        assert_eq!(there_is::<()>(Err(Error::new(class, "none"))), Ok(None));
    }
    for class in [Class::Unavailable, Class::PermissionDenied, Class::ResourceExhausted] {
        assert_eq!(there_is::<()>(Err(Error::new(class, "no"))).unwrap_err().class(), class);
    }
    assert_eq!(there_is(Ok(1)), Ok(Some(1)));
}
