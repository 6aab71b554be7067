//! What there is when the power is back, against what was said.

use std::collections::BTreeSet;
use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};

use capstan_integration::{Host, Output, digest};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::tree::{self, Made, Tree};
use super::worker::{About, Facts, Thing};

type Checked<T = ()> = Result<T, String>;

/// The daemon after a cut.
pub(super) struct Aftermath<'a> {
    pub(super) host: &'a Host,
    pub(super) point: usize,
    views: usize,
}

fn ok(output: Output, what: &[&str]) -> Checked<String> {
    match output.code {
        0 => Ok(output.stdout),
        code => Err(format!("{what:?} afterwards: {code} {}", output.stderr.trim_end())),
    }
}

impl<'a> Aftermath<'a> {
    pub(super) fn new(host: &'a Host, point: usize) -> Self {
        Self { host, point, views: 0 }
    }

    fn call(&self, args: &[&str]) -> Checked<String> {
        ok(self.host.capstan(args), args)
    }

    fn ids(&self, noun: &str) -> Checked<BTreeSet<String>> {
        Ok(self.call(&[noun, "ls", "-q"])?.lines().map(str::to_owned).collect())
    }

    /// Everything; what was in doubt is settled in `facts`.
    pub(super) fn check(&mut self, facts: &mut [Facts]) -> Vec<String> {
        let mut wrong = Vec::new();
        let mut note = |outcome: Checked| {
            if let Err(text) = outcome {
                wrong.push(text);
            }
        };
        note(self.sweep());
        note(self.blobs_are_whole());
        note(self.names(facts));
        for facts in facts.iter_mut() {
            note(self.trees(facts));
            note(self.pull_again(facts));
            note(self.start_one(facts));
        }
        note(self.use_ingests());
        wrong
    }

    /// What an unpack or a `run --rm` left goes.
    fn sweep(&self) -> Checked {
        for id in self.ids("containers")?.iter().filter(|id| id.starts_with("once")) {
            // The daemon may be at it already, as the container goes with its task.
            let _ = self.host.capstan(&["tasks", "delete", "--force", id]);
            let _ = self.host.capstan(&["containers", "rm", id]);
        }
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let once = self.ids("containers")?.into_iter().filter(|id| id.starts_with("once"));
            let mut left: Vec<String> = once.collect();
            let is_scratch =
                |key: &String| key.starts_with("extract-") || key.starts_with("settle-");
            left.extend(self.ids("snapshots")?.into_iter().filter(is_scratch));
            if left.is_empty() {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(format!("left behind: {left:?}"));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// What has a digest for a name has its bytes.
    fn blobs_are_whole(&self) -> Checked {
        for name in self.ids("content")? {
            let hex = name.strip_prefix("sha256:").unwrap_or(&name);
            let file = self.host.root().join("content.local/blobs/sha256").join(hex);
            let bytes = fs::read(&file).map_err(|error| format!("blob {name}: {error}"))?;
            let got = digest(&bytes);
            if got != name {
                return Err(format!("blob {name} has the bytes of {got}, {} of them", bytes.len()));
            }
        }
        Ok(())
    }

    /// What was acknowledged, and nothing else.
    fn names(&self, facts: &mut [Facts]) -> Checked {
        let (blobs, images) = (self.ids("content")?, self.ids("images")?);
        let (snapshots, containers) = (self.ids("snapshots")?, self.ids("containers")?);
        let text = self.call(&["--format", "json", "namespaces", "ls"])?;
        let spaces: serde_json::Value = serde_json::from_str(&text).expect("it prints JSON");
        let space = |name: &str| spaces.as_array()?.iter().find(|space| space["name"] == name);
        let mut wrong = Vec::new();
        let things = facts.iter_mut().flat_map(|facts| facts.things.iter_mut());
        for (thing, fact) in things {
            let is_there = match thing {
                Thing::Blob(name) => blobs.contains(name),
                Thing::Image(name) => images.contains(name),
                Thing::Active(name) | Thing::Committed(name) => snapshots.contains(name),
                Thing::Container(name) => containers.contains(name),
                Thing::Namespace(name) => space(name).is_some(),
            };
            if fact.is_there.is_some_and(|said| said != is_there) {
                wrong.push(format!("{thing:?}: there {is_there}, said {:?}", fact.is_there));
            }
            if let (Thing::Namespace(name), About::Label(was, now)) = (thing, &fact.about)
                && let Some(space) = space(name)
            {
                let label = label_of(space);
                if label != *was && label != *now {
                    wrong.push(format!("namespace {name}: label {label:?}, said {now:?}"));
                }
                fact.about = About::Label(label.clone(), label);
            }
            if let (Thing::Image(name), About::Image(made)) = (thing, &fact.about)
                && is_there
                && let Some(missing) = missing_of(made, &blobs, &snapshots)
            {
                wrong.push(format!("image {name} has a name, and no {missing}"));
            }
            // An image whose pull was cut is pulled again.
            let is_pulled_again = matches!(thing, Thing::Image(_)) && fact.point == self.point;
            if !is_pulled_again || is_there {
                fact.is_there = Some(is_there);
            }
        }
        if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n")) }
    }

    /// The trees of what was touched last, named or not; of the rest those that are there are as they were before.
    fn trees(&mut self, facts: &Facts) -> Checked {
        let snapshots = self.ids("snapshots")?;
        for (thing, fact) in &facts.things {
            if fact.point != self.point {
                continue;
            }
            match (thing, &fact.about) {
                (Thing::Committed(key), About::Tree(want)) if snapshots.contains(key) => {
                    self.tree_is(key, want)?;
                }
                (Thing::Active(key), _) if snapshots.contains(key) => {
                    let text = self.call(&["--format", "json", "snapshots", "mounts", key])?;
                    self.look(&text).map_err(|error| format!("active {key}: {error}"))?;
                }
                (Thing::Image(_), About::Image(made)) => self.chain_is_right(made, &snapshots)?,
                _ => {}
            }
        }
        Ok(())
    }

    fn chain_is_right(&mut self, made: &Made, snapshots: &BTreeSet<String>) -> Checked {
        match made.chain.iter().rev().find(|(id, _)| snapshots.contains(id)) {
            Some((id, want)) => self.tree_is(id, want),
            None => Ok(()),
        }
    }

    fn tree_is(&mut self, name: &str, want: &Tree) -> Checked {
        self.views += 1;
        let key = format!("look-{}-{}", self.point, self.views);
        let text = self.call(&["--format", "json", "snapshots", "view", &key, name])?;
        let got = self.look(&text).map_err(|error| format!("snapshot {name}: {error}"));
        self.call(&["snapshots", "rm", &key])?;
        match tree::differs(&got?, want) {
            None => Ok(()),
            Some(difference) => Err(format!("snapshot {name}: {difference}")),
        }
    }

    /// Mounts what was printed and reads the tree.
    fn look(&self, mounts: &str) -> Result<Tree, String> {
        let mounts: serde_json::Value = serde_json::from_str(mounts).expect("it prints JSON");
        let told = &mounts[0];
        let text = |key: &str| told[key].as_str().unwrap_or_default().to_owned();
        let (kind, source) = (text("type"), text("source"));
        if kind == "bind" {
            return tree::read(source.as_ref()).map_err(|error| error.to_string());
        }
        let options: Vec<&str> =
            told["options"].as_array().into_iter().flatten().filter_map(|o| o.as_str()).collect();
        let point = self.host.path("look");
        fs::create_dir_all(&point).map_err(|error| error.to_string())?;
        let options = options.join(",");
        mount(
            Some(source.as_str()),
            &point,
            Some(kind.as_str()),
            MsFlags::empty(),
            Some(options.as_str()),
        )
        .map_err(|error| format!("mount {kind} {options}: {error}"))?;
        let tree = tree::read(&point).map_err(|error| error.to_string());
        umount2(&point, MntFlags::empty()).map_err(|error| format!("unmount: {error}"))?;
        tree
    }

    /// A pull that was cut works when it is done again.
    fn pull_again(&mut self, facts: &mut Facts) -> Checked {
        let mut pulled: Vec<(String, Arc<Made>)> = Vec::new();
        for (thing, fact) in &mut facts.things {
            if let (Thing::Image(name), About::Image(made)) = (thing, &fact.about)
                && fact.is_there.is_none()
            {
                pulled.push((name.clone(), Arc::clone(made)));
                fact.is_there = Some(true);
            }
        }
        for (name, made) in pulled {
            self.call(&["images", "pull", "--plain-http", &name])?;
            let (id, want) = made.chain.last().expect("it has layers");
            self.tree_is(id, want)?;
            let args = ["run", "--rm", "--net", "host", &name, "cat", "/w/marker"];
            let said = self.call(&args)?;
            if said != made.marker {
                return Err(format!("{args:?} said {said:?}, want {:?}", made.marker));
            }
        }
        Ok(())
    }

    /// A container that was made before runs.
    fn start_one(&self, facts: &Facts) -> Checked {
        let one = facts.things.iter().find(|(thing, fact)| {
            matches!(thing, Thing::Container(_)) && fact.is_there == Some(true)
        });
        let Some((Thing::Container(id), About::Image(made))) =
            one.map(|(thing, fact)| (thing, &fact.about))
        else {
            return Ok(());
        };
        let said = self.call(&["tasks", "start", id])?;
        let _ = self.host.capstan(&["tasks", "delete", "--force", id]);
        if said != made.marker {
            return Err(format!("container {id} said {said:?}, want {:?}", made.marker));
        }
        Ok(())
    }

    /// Ingests that were cut can be dropped.
    fn use_ingests(&self) -> Checked {
        for name in self.call(&["content", "active", "-q"])?.lines() {
            self.call(&["content", "abort", name])?;
        }
        Ok(())
    }
}

fn label_of(space: &serde_json::Value) -> String {
    let labels = space["labels"].as_array().into_iter().flatten();
    let mut found = labels.filter(|label| label["key"] == "k");
    let value = found.next().and_then(|label| label["value"].as_str());
    value.or_else(|| space["labels"]["k"].as_str()).unwrap_or_default().to_owned()
}

/// What an image needs and has not.
fn missing_of(
    made: &Made,
    blobs: &BTreeSet<String>,
    snapshots: &BTreeSet<String>,
) -> Option<String> {
    let blob = made.image.blobs.keys().find(|name| !blobs.contains(*name));
    let chain = made.chain.iter().map(|(id, _)| id).find(|id| !snapshots.contains(*id));
    blob.map(|name| format!("blob {name}")).or(chain.map(|id| format!("snapshot {id}")))
}
