//! Fetches that break off, and go on: within a pull, and in the next one.

use capstan_integration::{FakeRegistry, Fault, Host, Image, Layer, Random, noise};

/// An image of incompressible layers, each of its own size.
fn image(sizes: &[usize]) -> Image {
    let layers = (1..).zip(sizes).map(|(number, size)| {
        let layer = if number == 1 { Layer::new().busybox() } else { Layer::new() };
        layer.file(&format!("noise-{number}"), 0o644, &noise(*size, number))
    });
    Image::new(layers.collect())
}

fn assert_little_was_sent_twice(registry: &FakeRegistry, image: &Image) {
    for layer in &image.layers {
        let (sent, size) = (registry.sent_of(layer), image.blobs[layer].len());
        assert!(size <= sent && sent <= size + size / 10, "{layer}: {sent} bytes for {size}");
    }
}

#[test]
fn layers_that_are_cut_at_twenty_places_come_once() {
    let registry = FakeRegistry::start();
    let image = image(&[1_500_000, 2_500_000, 800_000]);
    let reference = registry.offer("app", &image);
    let mut random = Random::new();
    for layer in &image.layers {
        let size = image.blobs[layer].len() as u64;
        let mut cut = || usize::try_from(random.below(size)).expect("a place in memory");
        let cuts = (0..20).map(|_| cut()).collect();
        registry.set_fault(layer, Some(Fault::CutAt(cuts)));
    }
    let host = Host::new();
    host.ok(&["images", "pull", "--plain-http", &reference]);
    for layer in &image.layers {
        assert!(registry.asked_for(layer) > 10, "it was not cut");
    }
    assert_little_was_sent_twice(&registry, &image);
    host.ok(&["run", "--rm", "--pull", "never", &reference, "true"]);
}

/// A pull in which the layers hang half-way.
fn hanging(registry: &FakeRegistry, image: &Image) {
    for layer in &image.layers {
        let size = image.blobs[layer].len();
        registry.set_fault(layer, Some(Fault::HangAt(size / 2)));
    }
}

fn half_is_here(host: &Host, image: &Image) -> bool {
    let active = host.json(&["content", "active"]);
    let offset = |layer: &String| {
        let name = format!("layer-{layer}");
        let found = active.as_array()?.iter().find(|ingest| ingest["ref"] == name)?;
        found["offset"].as_str().and_then(|text| text.parse().ok()).or(found["offset"].as_u64())
    };
    image.layers.iter().all(|layer| {
        let half = image.blobs[layer].len() / 2;
        offset(layer).is_some_and(|offset: u64| offset >= half as u64)
    })
}

#[test]
fn a_pull_goes_on_where_a_killed_daemon_left_it() {
    let registry = FakeRegistry::start();
    let image = image(&[3_000_000, 2_000_000]);
    let reference = registry.offer("app", &image);
    hanging(&registry, &image);
    let mut host = Host::new();
    let mut pull = host.command(&["images", "pull", "--plain-http", &reference]);
    let mut pull = pull.stderr(std::process::Stdio::null()).spawn().unwrap();
    host.until("half of it is here", || half_is_here(&host, &image));
    host.kill();
    assert_ne!(pull.wait().unwrap().code(), Some(0));
    for layer in &image.layers {
        registry.set_fault(layer, None);
    }
    host.start();
    assert!(host.ids(&["images", "ls"]).is_empty(), "half an image has a name");
    host.ok(&["images", "pull", "--plain-http", &reference]);
    assert_little_was_sent_twice(&registry, &image);
    assert_eq!(host.ok(&["content", "active", "-q"]), "");
    host.ok(&["run", "--rm", "--pull", "never", &reference, "true"]);
}

#[test]
fn a_pull_goes_on_where_a_cancelled_or_failed_one_ended() {
    let registry = FakeRegistry::start();
    let image = image(&[1_000_000, 2_000_000]);
    let reference = registry.offer("app", &image);
    hanging(&registry, &image);
    let more = "[plugins.\"transfer.local\"]\nstall_timeout_seconds = 1\nattempts = 1\n";
    let host = Host::with_config(more);
    // The client gives up.
    let pull = ["--timeout", "700ms", "images", "pull", "--plain-http", &reference];
    host.fails(&pull, 11, "Aborted", &["--timeout"]);
    // The registry hangs for too long.
    let pull = ["images", "pull", "--plain-http", &reference];
    host.fails(&pull, 7, "Unavailable", &[&reference, "sent nothing"]);
    assert!(half_is_here(&host, &image), "what had come is gone");
    for layer in &image.layers {
        registry.set_fault(layer, None);
    }
    host.ok(&pull);
    assert_little_was_sent_twice(&registry, &image);
    assert_eq!(host.ok(&["content", "active", "-q"]), "");
}

/// What can be resumed is kept for a time, and no longer.
#[test]
fn the_rest_of_a_broken_pull_goes_in_the_end() {
    let registry = FakeRegistry::start();
    let image = image(&[1_000_000]);
    let reference = registry.offer("app", &image);
    hanging(&registry, &image);
    let more = "[plugins.\"transfer.local\"]\nstall_timeout_seconds = 1\nattempts = 1\n";
    let mut host = Host::with_config(more);
    host.fails(&["images", "pull", "--plain-http", &reference], 7, "Unavailable", &[&reference]);
    let rest = host.ids(&["content", "active"]);
    assert_eq!(rest.len(), 1);
    host.ok(&["gc"]);
    assert_eq!(host.ids(&["content", "active"]), rest, "it can be resumed for a day");
    host.stop();
    host.configure("[plugins.\"content.local\"]\nkeep_ingests_seconds = 0\n");
    host.start();
    let name = format!("ingest/{}", rest[0]);
    assert!(host.ok(&["gc", "--dry-run"]).contains(&name));
    assert!(host.ok(&["gc"]).contains(&name));
    assert_eq!(host.ids(&["content", "active"]), Vec::<String>::new());
}
