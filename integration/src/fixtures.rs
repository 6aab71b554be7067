//! Images made once with umoci and skopeo (data/make-images.sh), kept under the target directory.
//!
//! `busybox`: one layer, Debian's busybox-static. `minbase`: a Debian system by mmdebstrap. `big`: ten
//! layers with 300 MB and 30,000 files, whiteouts, links, owners and modes. `hundred`: as many layers, small ones, made
//! here.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::Command;

use rustix::fs::{FlockOperation, flock};

use crate::disk::succeed;
use crate::programs::target;
use crate::{DockerRegistry, Image, Layer, find, noise};

const SCRIPT: &str = include_str!("../data/make-images.sh");

/// The image of a hundred layers.
const HUNDRED: &str = "hundred";

/// A storage directory of docker-registry that has these images, and maybe more.
///
/// Tests run at the same time: the first that wants an image makes it, and others wait for that one.
pub fn storage(images: &[&str]) -> PathBuf {
    let dir = target().join("images");
    let storage = dir.join("registry");
    fs::create_dir_all(&storage).expect("make a directory for images");
    for image in images {
        let lock = File::create(dir.join(format!("{image}.lock"))).expect("make an image's lock");
        flock(&lock, FlockOperation::LockExclusive).expect("lock an image");
        // What was made by another script is made anew.
        let made = dir.join(format!("{image}.made"));
        if fs::read_to_string(&made).is_ok_and(|script| script == SCRIPT) {
            continue;
        }
        let registry = DockerRegistry::serve(&storage);
        if *image == HUNDRED {
            hundred().push_to(&registry.address(), HUNDRED, "latest");
            fs::write(&made, SCRIPT).expect("note that an image is made");
            continue;
        }
        let mut script = Command::new(find("bash"));
        script.args(["-c", SCRIPT, "make-images"]).arg(&dir).arg(registry.address()).arg(image);
        succeed(&mut script);
        fs::write(&made, SCRIPT).expect("note that an image is made");
    }
    storage
}

/// Each layer changes a directory of its own and one that is everybody's.
fn hundred() -> Image {
    let layers = (0..100_u32).map(|number| {
        let mut layer = if number == 0 { Layer::new().busybox() } else { Layer::new() };
        layer = layer.dir("shared").dir(&format!("own-{number}"));
        for file in 0..12 {
            let bytes = noise(8_000, number * 12 + file);
            layer = layer.file(&format!("own-{number}/file-{file}"), 0o644, &bytes).file(
                &format!("shared/file-{number}-{file}"),
                0o640,
                &bytes,
            );
        }
        layer.file("shared/last", 0o644, format!("{number}\n").as_bytes())
    });
    Image::new(layers.collect())
}
