//! Pulls, runs and prunes at once, each as fast as it can: no pull and no run fails because something was
//! collected under it, and afterwards all is sound.
//!
//! It takes twenty seconds; with `CAPSTAN_ROUNDS` as many seconds as that says (600 for the long one).

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use capstan_integration::{FakeRegistry, Host, Output};

use super::{assert_sound, collect, content, image, snapshot_dirs};

/// Images that are pulled and removed all the time.
const IMAGES: usize = 4;

fn length() -> Duration {
    let seconds = std::env::var("CAPSTAN_ROUNDS")
        .map_or(20, |text| text.parse().expect("CAPSTAN_ROUNDS is a number"));
    Duration::from_secs(seconds)
}

/// How often each loop went round, and what failed.
#[derive(Default)]
struct Tally {
    pulls: AtomicUsize,
    runs: AtomicUsize,
    collections: AtomicUsize,
    is_over: AtomicBool,
}

impl Tally {
    fn repeat(&self, count: &AtomicUsize, mut step: impl FnMut(usize)) {
        // A loop that fails ends the others too.
        struct Over<'a>(&'a AtomicBool);
        impl Drop for Over<'_> {
            fn drop(&mut self) {
                self.0.store(true, Ordering::Relaxed);
            }
        }
        let over = Over(&self.is_over);
        while !over.0.load(Ordering::Relaxed) {
            step(count.fetch_add(1, Ordering::Relaxed));
        }
    }
}

fn assert_worked(what: &str, output: &Output) {
    assert_eq!(output.code, 0, "{what}: {}", output.stderr);
}

#[test]
fn pulls_and_runs_do_not_fail_while_all_is_collected_that_can_be() {
    let registry = FakeRegistry::start();
    let host = Host::new();
    let names: Vec<String> = (0..IMAGES).map(|number| format!("i{number}")).collect();
    let references: Vec<String> =
        names.iter().map(|name| registry.offer(name, &image(name))).collect();
    // All share a layer with this one, which is never removed, and is run while they come and go.
    let lasting = registry.offer("lasting", &image("lasting"));
    host.ok(&["images", "pull", "--plain-http", &lasting]);
    let tally = Tally::default();
    let begin = Instant::now();
    std::thread::scope(|scope| {
        for first in 0..2 {
            let (tally, host, references) = (&tally, &host, &references);
            scope.spawn(move || {
                tally.repeat(&tally.pulls, |round| {
                    let reference = &references[(first + round) % IMAGES];
                    let args = ["images", "pull", "--plain-http", reference];
                    assert_worked("pull", &host.capstan(&args));
                });
            });
        }
        // One that stays must run each time.
        scope.spawn(|| {
            tally.repeat(&tally.runs, |_| {
                let args = ["run", "--rm", "--pull", "never", &lasting, "cat", "/name"];
                let output = host.capstan(&args);
                assert_worked("run", &output);
                assert_eq!(output.stdout, "lasting");
            });
        });
        // One that comes and goes runs, or it is said that somebody removed it.
        scope.spawn(|| {
            tally.repeat(&tally.runs, |round| {
                let at = round % IMAGES;
                let args = ["run", "--rm", "--plain-http", &references[at], "cat", "/name"];
                let output = host.capstan(&args);
                let is_removed = output.code == 125
                    && output.stderr.starts_with("capstan: NotFound: ")
                    && output.stderr.contains("image");
                assert!(is_removed || output.code == 0, "run: {}: {}", output.code, output.stderr);
                assert!(is_removed || output.stdout == names[at], "{output:?}");
            });
        });
        scope.spawn(|| {
            tally.repeat(&tally.collections, |round| {
                let removed = host.capstan(&["images", "rm", &references[round % IMAGES]]);
                assert!(removed.code == 0 || removed.code == 3, "rm: {}", removed.stderr);
                assert_worked("gc", &host.capstan(&["gc"]));
            });
        });
        while begin.elapsed() < length() && !tally.is_over.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(50));
        }
        tally.is_over.store(true, Ordering::Relaxed);
    });
    let count = |count: &AtomicUsize| count.load(Ordering::Relaxed);
    let counts = [count(&tally.pulls), count(&tally.runs), count(&tally.collections)];
    eprintln!("{counts:?} pulls, runs and collections in {:?}", begin.elapsed());
    assert!(counts.iter().all(|&count| count >= 5), "{counts:?}: somebody stood still");
    assert_sound(&host);
    // What is there is whole, and all of it goes.
    for reference in &references {
        host.ok(&["run", "--rm", "--plain-http", reference, "true"]);
    }
    host.assert_no_container();
    for reference in references.iter().chain([&lasting]) {
        host.ok(&["images", "rm", reference]);
    }
    collect(&host);
    assert_eq!((content(&host).len(), snapshot_dirs(&host).len()), (0, 0));
    assert_sound(&host);
}
