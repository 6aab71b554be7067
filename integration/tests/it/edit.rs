//! `content edit`: a blob through an editor.

use std::fs;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};

use capstan_integration::Host;

/// Runs it with these variables, and gives its exit code, stdout and stderr.
fn edit(host: &Host, digest: &str, variables: &[(&str, &str)]) -> (i32, String, String) {
    let mut command = host.command(&["content", "edit", digest]);
    command.env_remove("VISUAL").env_remove("EDITOR").envs(variables.iter().copied());
    command.env("TMPDIR", scratch(host)).stdin(Stdio::null());
    let output = command.output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

fn scratch(host: &Host) -> std::path::PathBuf {
    let dir = host.path("scratch");
    fs::create_dir_all(&dir).unwrap();
    dir
}

fn assert_nothing_is_left(host: &Host, blobs: usize) {
    assert_eq!(fs::read_dir(scratch(host)).unwrap().count(), 0);
    assert_eq!(host.ids(&["content", "active"]), Vec::<String>::new());
    assert_eq!(host.ids(&["content", "ls"]).len(), blobs);
}

#[test]
fn a_blob_is_edited() {
    let host = Host::new();
    let text = "a line\n".repeat(300_000);
    let ingest = ["content", "ingest", "first"];
    let first = host.capstan_with_input(&ingest, text.as_bytes()).stdout.trim().to_owned();
    let sed = ("EDITOR", "sed -i s/a/b/");
    let (code, out, err) = edit(&host, &first, &[sed]);
    assert_eq!((code, err.as_str()), (0, ""));
    let second = out.trim().to_owned();
    assert_ne!(second, first);
    assert_eq!(host.ok(&["content", "get", &second]), text.replace('a', "b"));
    assert_eq!(host.ok(&["content", "get", &first]), text);
    assert_nothing_is_left(&host, 2);

    // $VISUAL comes first, and an empty one is none. Nothing changed: it says so.
    let (code, out, err) = edit(&host, &first, &[sed, ("VISUAL", "true")]);
    assert_eq!((code, out.trim()), (0, first.as_str()));
    assert!(err.contains("nothing was changed"), "{err}");
    let (code, out, _) = edit(&host, &first, &[sed, ("VISUAL", "")]);
    assert_eq!((code, out.trim()), (0, second.as_str()));
    assert_nothing_is_left(&host, 2);

    // The new blob is hashed as the old one.
    let ingest = ["content", "ingest", "--algorithm", "sha512", "third"];
    let third = host.capstan_with_input(&ingest, b"a").stdout.trim().to_owned();
    let (code, out, err) = edit(&host, &third, &[sed]);
    assert_eq!((code, err.as_str()), (0, ""));
    assert!(out.starts_with("sha512:"), "{out}");
    assert_nothing_is_left(&host, 4);

    for (variables, part) in [
        (&[][..], "VISUAL or EDITOR"),
        (&[("EDITOR", "false")], "failed"),
        (&[("EDITOR", "echo more >> \"$1\"; exit 3; #")], "failed"),
        (&[("EDITOR", "/does/not/exist")], "failed"),
    ] {
        let (code, out, err) = edit(&host, &first, variables);
        assert_eq!((code, out.as_str()), (6, ""), "{err}");
        assert!(err.contains("FailedPrecondition") && err.contains(part), "{err}");
        assert_nothing_is_left(&host, 4);
    }
    let (code, _, err) = edit(&host, &first, &[("EDITOR", "rm")]);
    assert!(code != 0 && err.contains("editor left"), "{err}");
    let none = format!("sha256:{}", "0".repeat(64));
    let (code, _, err) = edit(&host, &none, &[sed]);
    assert_eq!(code, 3, "{err}");
    assert_nothing_is_left(&host, 4);
}

/// An interrupt while the editor runs is the editor's own matter.
#[test]
fn an_interrupt_belongs_to_the_editor() {
    let host = Host::new();
    let ingest = ["content", "ingest", "first"];
    let first = host.capstan_with_input(&ingest, b"a").stdout.trim().to_owned();
    let mut command: Command = host.command(&["content", "edit", &first]);
    command.env_remove("VISUAL").env("TMPDIR", scratch(&host)).process_group(0);
    // As a terminal does it: the whole group is told.
    command.env("EDITOR", "trap '' INT; kill -INT 0; printf b >");
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let second = String::from_utf8(output.stdout).unwrap();
    assert_eq!(host.ok(&["content", "get", second.trim()]), "b");
    assert_nothing_is_left(&host, 2);
}
