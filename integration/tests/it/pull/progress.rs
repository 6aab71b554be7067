//! What a pull shows while it goes on: to a person, to a program, and to neither.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use capstan_integration::{FakeRegistry, FaultProxy, Host, Image, Layer, Trouble, noise, program};
use serde_json::Value;

use super::choice::number;
use crate::terminal::Tmux;

/// How much noise is in the layer that comes slowly.
const SIZE: usize = 3 << 20;

/// A registry with an image of two layers, the upper of which comes slowly.
struct World {
    host: Host,
    image: Image,
    name: String,
    proxy: FaultProxy,
}

impl World {
    fn new(seed: u32) -> Self {
        let registry = FakeRegistry::start();
        let noise = Layer::new().file("noise", 0o644, &noise(SIZE, seed));
        let image = Image::new(vec![Layer::new().busybox(), noise]);
        registry.offer("app", &image);
        let proxy = FaultProxy::before(&registry.address());
        let slow = Trouble::Drip(400_000, Duration::from_millis(300));
        proxy.make(usize::MAX, "GET", &image.layers[1], slow);
        let name = proxy.reference("app");
        Self { host: Host::new(), image, name, proxy }
    }

    /// What is pulled, by kind and digest.
    fn things(&self) -> Vec<(&'static str, String)> {
        let layers = self.image.layers.iter().map(|layer| ("layer", layer.clone()));
        let documents =
            [("manifest", self.image.manifest.clone()), ("config", self.image.config())];
        layers.chain(documents).collect()
    }

    /// What a pull prints in the end.
    fn result(&self) -> String {
        format!("{}  {}", self.name, self.image.manifest)
    }
}

/// How a terminal shows it: by its kind and the first of its digest.
fn short(kind: &str, digest: &str) -> String {
    format!("{kind} {}", &digest[7..19])
}

#[test]
fn a_terminal_shows_a_line_for_each_layer_and_what_it_took() {
    let world = World::new(151);
    let tmux = Tmux::new(&world.host, "pull");
    tmux.run(&["resize-window", "-x", "180", "-y", "40"]);
    let pull = format!("{} images pull --plain-http {}", program("capstan").display(), world.name);
    tmux.type_line(&format!("clear; {pull}; echo end=$?"));
    // A bar for what is under way, with how far it is, and one that adds up.
    let noise = short("layer", &world.image.layers[1]);
    world.host.until("there are bars", || {
        let screen = tmux.screen();
        let has = |parts: &[&str]| {
            screen.lines().any(|line| parts.iter().all(|part| line.contains(part)))
        };
        has(&[&noise, "downloading", "=>", " KiB/3."]) && has(&[" of 4", "in all", "[="])
    });
    tmux.sees(&world.host, "end=0");
    let screen = tmux.screen();
    let lines: Vec<&str> = screen.lines().map(str::trim_end).collect();
    let place = |what: &str, fits: &dyn Fn(&str) -> bool| {
        let places: Vec<usize> = (0..lines.len()).filter(|at| fits(lines[*at])).collect();
        assert_eq!(places.len(), 1, "{what}: {screen}");
        places[0]
    };
    let elapsed = place("elapsed", &|line| line.starts_with("elapsed: "));
    for (kind, digest) in world.things() {
        let thing = short(kind, &digest);
        let at = place(&thing, &|line| line.starts_with(&thing));
        assert!(lines[at].contains(" done ") && at < elapsed, "{screen}");
    }
    assert!(lines[elapsed].contains(" s  total: ") && lines[elapsed].ends_with("/s)"), "{screen}");
    assert_eq!(place("the image", &|line| line == world.result()), elapsed + 1, "{screen}");
    assert_eq!(place("the end", &|line| line == "end=0"), elapsed + 2, "{screen}");
    assert!(!screen.contains("downloading") && !screen.contains("in all"), "{screen}");

    // What is there already says so, and a pull that fails has no summary.
    tmux.type_line(&format!("clear; {pull}; echo again=$?"));
    tmux.sees(&world.host, "again=0");
    let screen = tmux.screen();
    for (kind, digest) in world.things() {
        let thing = short(kind, &digest);
        let line = screen.lines().find(|line| line.starts_with(&thing));
        assert!(line.is_some_and(|line| line.contains(" exists ")), "{thing}: {screen}");
    }
    assert!(screen.contains("total: 0 B"), "{screen}");
    tmux.type_line(&format!("clear; {pull}-none; echo failed=$?"));
    tmux.sees(&world.host, "failed=3");
    let screen = tmux.screen();
    assert!(screen.contains("capstan: NotFound: ") && !screen.contains("elapsed"), "{screen}");
}

/// While a registry says nothing, the clock goes on. A pull that fails leaves what is done, and says why below it.
#[test]
fn a_terminal_shows_what_stands_still_and_what_fails() {
    let world = World::new(154);
    let layer = &world.image.layers[1];
    let tmux = Tmux::new(&world.host, "stall");
    tmux.run(&["resize-window", "-x", "180", "-y", "40"]);
    let pull = format!("{} images pull --plain-http {}", program("capstan").display(), world.name);
    world.proxy.behave();
    world.proxy.make(usize::MAX, "GET", layer, Trouble::Stall(2 << 20));
    tmux.type_line(&format!("clear; {pull}"));
    let sum = || {
        let screen = tmux.screen();
        let line = screen.lines().find(|line| line.contains("in all"))?;
        let seconds = line.split_whitespace().last()?.strip_suffix('s')?.parse::<u64>().ok()?;
        let mib = line.split_once(" MiB/")?.0.split_whitespace().last()?.parse::<f64>().ok()?;
        Some((mib, seconds))
    };
    // All that came is counted.
    let come = world.image.blobs[&world.image.layers[0]].len() + (2 << 20);
    let come = f64::from(u32::try_from(come).unwrap()) / f64::from(1 << 20);
    let stands = |(mib, _): (f64, u64)| (mib - come).abs() < 0.02;
    world.host.until("it stands still", || sum().is_some_and(stands));
    let (begin, (_, before)) = (Instant::now(), sum().unwrap());
    world.host.until("the clock goes on", || sum().is_some_and(|(_, now)| now >= before + 3));
    assert!(begin.elapsed() < Duration::from_secs(15), "it went on with the pull only");
    tmux.run(&["send-keys", "C-c"]);
    tmux.type_line("echo end=$?");
    world.host.until("it was interrupted", || tmux.screen().contains("end=130"));
    assert!(!tmux.screen().contains("elapsed"), "{}", tmux.screen());

    world.proxy.behave();
    world.proxy.make(usize::MAX, "GET", layer, Trouble::Delay(Duration::from_secs(2)));
    world.proxy.make(usize::MAX, "GET", layer, Trouble::Answer(403, Vec::new(), Vec::new()));
    tmux.type_line(&format!("clear; {pull}; echo failed=$?"));
    let bar = short("layer", layer);
    world
        .host
        .until("it has a bar", || tmux.screen().contains(&format!("{bar}       downloading")));
    tmux.sees(&world.host, "failed=8");
    let screen = tmux.screen();
    let lines: Vec<&str> = screen.lines().map(str::trim_end).collect();
    let at = lines.iter().position(|line| line.starts_with("capstan: PermissionDenied: "));
    let above = &lines[..at.unwrap_or_else(|| panic!("{screen}"))];
    assert!(!above.is_empty(), "{screen}");
    for line in above {
        assert!(line.contains(" done ") || line.contains(" exists "), "{screen}");
    }
    assert!(!screen.contains(&bar) && !screen.contains("in all"), "{screen}");
}

#[test]
fn without_a_terminal_there_is_the_result_alone() {
    let world = World::new(152);
    let output = world.host.capstan(&["images", "pull", "--plain-http", &world.name]);
    assert_eq!((output.code, output.stderr.as_str()), (0, ""));
    assert_eq!(output.stdout, format!("{}\n", world.result()));
}

#[test]
fn a_program_gets_an_object_a_line() {
    let world = World::new(153);
    let args = ["--format", "json", "images", "pull", "--plain-http", &world.name];
    let output = world.host.capstan(&args);
    assert_eq!((output.code, output.stderr.as_str()), (0, ""));
    let lines = output.stdout.lines();
    let mut lines: Vec<Value> = lines.map(|line| serde_json::from_str(line).expect(line)).collect();
    let last = lines.pop().unwrap();
    assert_eq!(last["name"], world.name.as_str());
    assert_eq!(last["target"]["digest"], world.image.manifest.as_str());

    let mut told: BTreeMap<String, Vec<(String, u64)>> = BTreeMap::new();
    for item in lines.iter().flat_map(|line| line["items"].as_array().expect("items")) {
        let name = item["name"].as_str().unwrap().to_owned();
        let digest = name.split_once('-').unwrap().1;
        let (offset, total) = (number(&item["offset"]), number(&item["total"]));
        assert_eq!(total, world.image.blobs[digest].len() as u64, "{name}");
        assert!(offset <= total, "{item}");
        let state = item["state"].as_str().unwrap().to_owned();
        told.entry(name).or_default().push((state, offset));
    }
    let things = world.things();
    assert_eq!(told.len(), things.len(), "{told:?}");
    for (kind, digest) in things {
        let told = &told[&format!("{kind}-{digest}")];
        assert!(told.is_sorted_by_key(|(_, offset)| *offset), "{kind}: {told:?}");
        assert_eq!(told.last().unwrap().0, "done", "{kind}: {told:?}");
    }
    // The quick one was unpacked while the slow one came.
    let is_ahead = |line: &Value| {
        let state = |layer: &str| {
            let mut items = line["items"].as_array().expect("items").iter();
            items
                .find(|item| item["name"] == format!("layer-{layer}").as_str())
                .map(|item| item["state"].as_str().unwrap())
        };
        let [quick, slow] = &world.image.layers[..] else { panic!("it has two layers") };
        (state(quick), state(slow)) == (Some("done"), Some("downloading"))
    };
    assert!(lines.iter().any(is_ahead), "{told:?}");
    // The slow one was seen on its way.
    let slow = &told[&format!("layer-{}", world.image.layers[1])];
    let is_between =
        |(state, offset): &&(String, u64)| state != "done" && *offset > 0 && *offset < SIZE as u64;
    assert!(slow.iter().filter(is_between).count() >= 3, "{slow:?}");
}
