//! Who is asked, what they are asked, and what their answers come to.

use std::path::Path;
use std::sync::{Arc, Mutex};

use actix::{Actor, Context as Cell, Handler, ResponseFuture};
use capstan_sdk::contract::verifier::VerifierAddr;
use capstan_sdk::{
    Absent, Class, Control, DaemonInfo, Digest, Info, Kernel, Labels, LocalFuture, Lookup,
    Manifest, PluginStatus, Provider,
};
use tokio::sync::watch;

use super::*;

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
        let info = Info { id: "images.test", version: "1", about: "", requires: &[], rank: 0 };
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

fn target() -> Descriptor {
    let digest = Digest::parse(&format!("sha256:{}", "a".repeat(64))).unwrap();
    Descriptor { media_type: OCI_MANIFEST.into(), digest, size: 2, platform: None }
}

fn question(evidence: Option<Vec<Evidence>>) -> Permit {
    let namespace = Namespace::parse("default").unwrap();
    Permit { namespace, name: NAME.into(), target: target(), document: b"{}".to_vec(), evidence }
}

fn evidence() -> Vec<Evidence> {
    vec![Evidence {
        artifact_type: BUNDLE.into(),
        media_type: BUNDLE.into(),
        payload: b"{}".to_vec(),
        annotations: Labels::new(),
    }]
}

/// Asks as a pull does; answers also whether evidence was wanted.
async fn check(verifiers: &Verifiers) -> (Result<()>, bool) {
    match verifiers.permit(question(None)).await {
        Ok(Permitted::Granted) => (Ok(()), false),
        Ok(Permitted::WantsEvidence) => {
            let again = verifiers.permit(question(Some(evidence()))).await;
            assert_ne!(again, Ok(Permitted::WantsEvidence), "it has evidence");
            (again.map(drop), true)
        }
        Err(error) => (Err(error), false),
    }
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
        assert_eq!(check(&World::new().verifiers(&[])).await, (Ok(()), false));
    });
}

#[test]
fn all_are_asked_and_each_may_refuse() {
    run(|| async {
        let one = Scripted::new(Says::Accepted);
        let two = Scripted::new(Says::Accepted);
        let world = || World::new().with("verifier.b", &two).with("verifier.a", &one);
        assert_eq!(check(&world().verifiers(&["verifier.a"])).await, (Ok(()), false));
        for verifier in [&one, &two] {
            let [asked] = &verifier.asked()[..] else { panic!("it is asked once") };
            assert_eq!((asked.namespace.as_str(), asked.name.as_str()), ("default", NAME));
            assert_eq!(asked.target, target());
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
        assert_eq!(check(&verifiers).await, (Ok(()), true));
        for verifier in [&all, &some, &none] {
            assert_eq!(verifier.asked()[0].evidence, evidence());
        }
        assert_eq!(all.asked().len(), 1, "and nobody is asked before it is there");
    });
}

/// A tag, or what was made here: what is kept of the evidence is all that there is, and what has nobody to read it is not
/// read.
#[test]
fn what_is_here_is_judged_by_what_is_kept() {
    run(|| async {
        let namespace = Namespace::parse("default").unwrap();
        let place = || (&namespace, NAME);
        let unread = async || panic!("nobody is to be shown it");
        let none = World::new().verifiers(&[]);
        none.permit_stored(place(), &target(), evidence(), unread).await.unwrap();

        let wanting = Scripted::wanting(Says::Accepted);
        let verifiers = World::new().with("verifier.a", &wanting).verifiers(&[]);
        let read = async || Ok(b"{}".to_vec());
        verifiers.permit_stored(place(), &target(), evidence(), read).await.unwrap();
        let [asked] = &wanting.asked()[..] else { panic!("it is asked once") };
        assert_eq!((asked.document.as_slice(), &asked.evidence), (&b"{}"[..], &evidence()));
        assert_eq!(asked.target, target());

        let gone = async || Err(Error::not_found("it is gone"));
        let error = verifiers.permit_stored(place(), &target(), Vec::new(), gone).await;
        assert_eq!(error.unwrap_err().class(), Class::NotFound);
        let no = Scripted::new(Says::Refused("it is old"));
        let verifiers = World::new().with("verifier.no", &no).verifiers(&[]);
        let error = verifiers.permit_stored(place(), &target(), Vec::new(), read).await;
        assert_eq!(error.unwrap_err().class(), Class::PermissionDenied);
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
        let parts = ["verifier.b", "not there", "verifiers in [plugins.\"images.local\"]"];
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
