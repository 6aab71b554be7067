//! A client that does all kinds of things, and notes what the daemon said that it had done.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use capstan_integration::{FakeRegistry, Host, Random, digest, noise};

use super::tree::{Base, Entry, Made, Tree};

/// Something that has a name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Thing {
    Blob(String),
    Image(String),
    Active(String),
    Committed(String),
    Namespace(String),
    Container(String),
}

/// What belongs to a thing.
#[derive(Clone)]
pub(super) enum About {
    Nothing,
    Image(Arc<Made>),
    Tree(Tree),
    /// A label: what it was, and what it is to be.
    Label(String, String),
}

/// What is known of a thing.
#[derive(Clone)]
pub(super) struct Fact {
    /// `None`: it was being made or removed when the power went.
    pub(super) is_there: Option<bool>,
    pub(super) about: About,
    /// When it was last touched.
    pub(super) point: usize,
}

/// All that one worker knows.
#[derive(Default)]
pub(super) struct Facts {
    pub(super) things: BTreeMap<Thing, Fact>,
    /// What the daemon said that it had done.
    pub(super) acknowledged: usize,
    /// What it said so when the power was going, which nobody could rely on.
    pub(super) late: usize,
    /// What went wrong while there was power.
    pub(super) failures: Vec<String>,
    /// For names that are used once.
    count: u32,
}

/// A worker during one point.
pub(super) struct Worker<'a> {
    pub(super) host: &'a Host,
    pub(super) registry: &'a FakeRegistry,
    pub(super) base: &'a Base,
    pub(super) is_cut: &'a AtomicBool,
    pub(super) number: usize,
    pub(super) point: usize,
    pub(super) facts: &'a mut Facts,
    pub(super) random: Random,
}

impl Worker<'_> {
    /// Works until the power goes.
    pub(super) fn run(mut self) {
        while !self.is_cut.load(Ordering::SeqCst) {
            match self.random.below(14) {
                0..3 => self.pull(),
                3 => self.remove_image(),
                4..6 => self.ingest(),
                6 => self.remove_blob(),
                7 | 8 => self.snapshot(),
                9 => self.remove_snapshot(),
                10 => self.namespace(),
                11 => self.container(),
                12 => self.remove_container(),
                _ => self.run_once(),
            }
        }
    }

    fn name(&mut self, kind: &str) -> String {
        self.facts.count += 1;
        format!("{kind}{}-{}", self.number, self.facts.count)
    }

    fn seed(&mut self) -> u32 {
        u32::try_from(self.random.below(1 << 31)).expect("below 2^31")
    }

    /// Whether the daemon said that it is done, while there was power. What it says after the cut began is in doubt: a
    /// kernel that shuts a file system down lets some syncs of that moment succeed that have written nothing.
    fn call(&mut self, args: &[&str], input: &[u8]) -> Option<String> {
        let output = self.host.capstan_with_input(args, input);
        if output.code == 0 {
            if self.is_cut.load(Ordering::SeqCst) {
                self.facts.late += 1;
                return None;
            }
            self.facts.acknowledged += 1;
            return Some(output.stdout);
        }
        if !self.is_cut.load(Ordering::SeqCst) {
            self.facts.failures.push(format!("{args:?}: {} {}", output.code, output.stderr));
        }
        None
    }

    /// Makes or removes a thing; what it is is known only when the answer has come.
    fn change(
        &mut self,
        thing: &Thing,
        about: About,
        to: bool,
        args: &[&str],
        input: &[u8],
    ) -> bool {
        let fact = Fact { is_there: None, about, point: self.point };
        self.facts.things.insert(thing.clone(), fact);
        let is_done = self.call(args, input).is_some();
        if is_done {
            let fact = self.facts.things.get_mut(thing).expect("it was just put");
            fact.is_there = Some(to);
        }
        is_done
    }

    /// One of those that are there.
    fn any(&mut self, is_wanted: impl Fn(&Thing) -> bool) -> Option<(Thing, About)> {
        let there: Vec<(Thing, About)> = self
            .facts
            .things
            .iter()
            .filter(|(thing, fact)| fact.is_there == Some(true) && is_wanted(thing))
            .map(|(thing, fact)| (thing.clone(), fact.about.clone()))
            .collect();
        let index = usize::try_from(self.random.below(there.len() as u64)).expect("it is small");
        there.into_iter().nth(index)
    }

    fn pull(&mut self) {
        let made = Arc::new(Made::new(self.base, self.seed()));
        let name = self.name("image");
        let reference = self.registry.offer(&name, &made.image);
        let args = ["images", "pull", "--plain-http", &reference];
        self.change(&Thing::Image(reference.clone()), About::Image(made), true, &args, b"");
    }

    fn remove_image(&mut self) {
        let Some((thing, about)) = self.any(|thing| matches!(thing, Thing::Image(_))) else {
            return;
        };
        let Thing::Image(name) = &thing else { return };
        let args = ["images", "rm", &name.clone()];
        self.change(&thing, about, false, &args, b"");
    }

    fn ingest(&mut self) {
        let length = usize::try_from(self.random.below(400_000)).expect("it is small");
        let bytes = noise(length, self.seed());
        let (name, digest) = (self.name("ingest"), digest(&bytes));
        let args = ["content", "ingest", "--expected-digest", &digest, &name];
        self.change(&Thing::Blob(digest.clone()), About::Nothing, true, &args, &bytes);
    }

    fn remove_blob(&mut self) {
        let Some((thing, about)) = self.any(|thing| matches!(thing, Thing::Blob(_))) else {
            return;
        };
        let Thing::Blob(digest) = &thing else { return };
        let args = ["content", "rm", &digest.clone()];
        self.change(&thing, about, false, &args, b"");
    }

    /// Prepares one, fills it, and mostly commits it.
    fn snapshot(&mut self) {
        let key = self.name("active");
        let thing = Thing::Active(key.clone());
        let fact = Fact { is_there: None, about: About::Nothing, point: self.point };
        self.facts.things.insert(thing.clone(), fact);
        let Some(text) = self.call(&["--format", "json", "snapshots", "prepare", &key], b"") else {
            return;
        };
        self.facts.things.get_mut(&thing).expect("it was just put").is_there = Some(true);
        if self.random.below(4) == 0 {
            return;
        }
        let mounts: serde_json::Value = serde_json::from_str(&text).expect("it prints JSON");
        let source = PathBuf::from(mounts[0]["source"].as_str().expect("a bind has a source"));
        let seed = self.seed();
        // The disk may be gone by now.
        let Ok(tree) = fill(&source, seed) else { return };
        let name = self.name("committed");
        // Both names are in doubt until the answer comes.
        self.facts.things.get_mut(&thing).expect("it was put").is_there = None;
        let args = ["snapshots", "commit", &name, &key];
        if self.change(&Thing::Committed(name.clone()), About::Tree(tree), true, &args, b"") {
            self.facts.things.get_mut(&thing).expect("it was put").is_there = Some(false);
        }
    }

    fn remove_snapshot(&mut self) {
        let is_wanted = |thing: &Thing| matches!(thing, Thing::Committed(_) | Thing::Active(_));
        let Some((thing, about)) = self.any(is_wanted) else { return };
        let (Thing::Committed(key) | Thing::Active(key)) = &thing else { return };
        let args = ["snapshots", "rm", &key.clone()];
        self.change(&thing, about, false, &args, b"");
    }

    fn namespace(&mut self) {
        let old = self.any(|thing| matches!(thing, Thing::Namespace(_)));
        let what = self.random.below(3);
        let value = self.name("value");
        match (what, old) {
            (0, Some((Thing::Namespace(name), about))) => {
                let args = ["namespaces", "rm", &name];
                self.change(&Thing::Namespace(name.clone()), about, false, &args, b"");
            }
            (1, Some((Thing::Namespace(name), About::Label(_, was)))) => {
                let label = format!("k={value}");
                let thing = Thing::Namespace(name.clone());
                let about = About::Label(was, value.clone());
                let fact = Fact { is_there: Some(true), about, point: self.point };
                self.facts.things.insert(thing.clone(), fact);
                if self.call(&["namespaces", "label", &name, &label], b"").is_some() {
                    let about = About::Label(value.clone(), value);
                    self.facts.things.get_mut(&thing).expect("it was just put").about = about;
                }
            }
            _ => {
                let name = self.name("space");
                let label = format!("k={value}");
                let about = About::Label(value.clone(), value);
                let args = ["namespaces", "create", &name, &label];
                self.change(&Thing::Namespace(name.clone()), about, true, &args, b"");
            }
        }
    }

    fn container(&mut self) {
        let Some((Thing::Image(image), about)) = self.any(|t| matches!(t, Thing::Image(_))) else {
            return;
        };
        let id = self.name("kept");
        let args = ["containers", "create", &id, &image, "cat", "/w/marker"];
        self.change(&Thing::Container(id.clone()), about, true, &args, b"");
    }

    fn remove_container(&mut self) {
        let Some((thing, about)) = self.any(|t| matches!(t, Thing::Container(_))) else { return };
        let Thing::Container(id) = &thing else { return };
        let args = ["containers", "rm", &id.clone()];
        self.change(&thing, about, false, &args, b"");
    }

    fn run_once(&mut self) {
        let Some((Thing::Image(image), _)) = self.any(|t| matches!(t, Thing::Image(_))) else {
            return;
        };
        let id = self.name("once");
        self.call(&["run", "--rm", "--name", &id, "--net", "host", &image, "true"], b"");
    }
}

/// Writes some files, and says what they are.
fn fill(dir: &Path, seed: u32) -> std::io::Result<Tree> {
    use std::os::unix::fs::PermissionsExt as _;
    let mut tree = Tree::new();
    fs::create_dir(dir.join("sub"))?;
    fs::set_permissions(dir.join("sub"), fs::Permissions::from_mode(0o750))?;
    tree.insert("sub".into(), Entry::Dir(0o750));
    for number in 0..6 {
        let bytes = noise(1 + (seed as usize >> number) % 30_000, seed ^ number);
        let name = format!("sub/f{number}");
        fs::write(dir.join(&name), &bytes)?;
        fs::set_permissions(dir.join(&name), fs::Permissions::from_mode(0o640))?;
        tree.insert(name, Entry::File(0o640, digest(&bytes)));
    }
    Ok(tree)
}
