//! Mistakes that the compiler finds, and what it says of them: each file in `ui/` must not compile, and what the
//! compiler says must have what stands behind `says:` in it.
//!
//! The compiler is called by hand, with the SDK that cargo has built for this test: a crate per case would build all
//! dependencies once more.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The newest build of the SDK beside this test.
fn sdk(dir: &Path) -> PathBuf {
    let is_sdk = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with("libcapstan_sdk-") && name.ends_with(".rlib")
    };
    let built = fs::read_dir(dir).unwrap().flatten().map(|entry| entry.path()).filter(is_sdk);
    built
        .max_by_key(|path| fs::metadata(path).unwrap().modified().unwrap())
        .expect("the SDK is built")
}

#[test]
fn what_is_wrong_is_said() {
    let own = std::env::current_exe().unwrap();
    let dir = own.parent().unwrap();
    let out = tempfile::tempdir().unwrap();
    let mut cases: Vec<PathBuf> =
        fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/ui"))
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
    cases.sort();
    assert!(cases.len() >= 5, "{cases:?}");
    for case in cases {
        let text = fs::read_to_string(&case).unwrap();
        let wanted: Vec<&str> =
            text.lines().filter_map(|line| line.strip_prefix("//! says: ")).collect();
        assert!(!wanted.is_empty(), "{}: it does not say what the compiler says", case.display());
        let output = Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()))
            .args(["--edition", "2024", "--emit", "metadata", "--out-dir"])
            .arg(out.path())
            .arg("-L")
            .arg(format!("dependency={}", dir.display()))
            .arg("--extern")
            .arg(format!("capstan_sdk={}", sdk(dir).display()))
            .arg(&case)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{}: it compiles", case.display());
        for part in wanted {
            assert!(said.contains(part), "{}: no {part:?} in\n{said}", case.display());
        }
        // A mistake that nobody meant would hide the one that is meant.
        let errors = said.lines().filter(|line| line.starts_with("error[")).count();
        assert_eq!(errors, 1, "{}:\n{said}", case.display());
    }
}
