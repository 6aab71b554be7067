//! Blobs by the command line and over the interface: what is expected, what is there already, who writes, what is left.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Child, Stdio};

use capstan_client::schema::content_capnp::{content, ingest};
use capstan_client::schema::{Class, MAX_CHUNK_BYTES};
use capstan_client::{Client, Error, check};
use capstan_integration::{Host, digest, noise};

/// `content ingest`, which waits for more after these bytes.
fn begin(host: &Host, args: &[&str], bytes: &[u8]) -> Child {
    let all = [&["content", "ingest"], args].concat();
    let mut child = host.command(&all).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.as_mut().unwrap().write_all(bytes).unwrap();
    child
}

/// How many bytes of an ingest have come; `None`: there is none.
fn offset(host: &Host, reference: &str) -> Option<u64> {
    let list = host.json(&["content", "active"]);
    let found = list.as_array().unwrap().iter().find(|ingest| ingest["ref"] == reference)?;
    found["offset"].as_u64()
}

/// F-028 to F-031, F-033, F-046, F-049.
#[test]
fn a_blob_is_what_was_expected_or_is_none() {
    let host = Host::new();
    let (bytes, other) = (b"hi\n", digest(b"something else"));
    let name = digest(bytes);
    let ingest =
        |args: &[&str]| host.capstan_with_input(&[&["content", "ingest"], args].concat(), bytes);
    let refused = |args: &[&str], code: i32, class: &str, part: &str| {
        let output = ingest(args);
        assert_eq!(
            (output.code, output.stdout.as_str()),
            (code, ""),
            "{args:?}: {}",
            output.stderr
        );
        assert!(output.stderr.starts_with(&format!("capstan: {class}: ")), "{}", output.stderr);
        assert!(output.stderr.contains(part), "{args:?}: {}", output.stderr);
        assert_eq!(host.ids(&["content", "ls"]), Vec::<String>::new());
        // The next try begins anew, not on bytes that nobody wanted.
        assert_eq!(host.ids(&["content", "active"]), Vec::<String>::new());
    };
    refused(&["--expected-digest", &other, "k"], 10, "Corrupt", &other);
    refused(&["--expected-size", "9", "k"], 10, "Corrupt", "9");
    refused(&["--expected-size", "1", "k"], 10, "Corrupt", "1 bytes");
    refused(&["--expected-digest", "sha256:12", "k"], 5, "InvalidArgument", "sha256:12");
    refused(&["--algorithm", "md5", "k"], 5, "InvalidArgument", "md5");
    refused(&[""], 5, "InvalidArgument", "name");
    for key in ["k", "k2"] {
        let output = ingest(&["--expected-digest", &name, "--expected-size", "3", key]);
        assert_eq!((output.code, output.stdout.trim()), (0, name.as_str()), "{}", output.stderr);
        let output = ingest(&[key]);
        assert_eq!((output.code, output.stdout.trim()), (0, name.as_str()), "{}", output.stderr);
    }
    assert_eq!(host.ids(&["content", "ls"]), [name.as_str()]);
    let file = host.root().join("content.local/blobs/sha256").join(&name["sha256:".len()..]);
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o7777, 0o444);
    host.ok(&["content", "rm", &name]);
    assert!(!file.exists());
    host.fails(&["content", "get", &name], 3, "NotFound", &[&name]);
    let events = host.ok(&["events", "--since", "0", "/content/"]);
    let lines = |topic: &str| events.lines().filter(|line| line.contains(topic)).count();
    assert_eq!((lines("/content/create"), lines("/content/delete")), (1, 1), "{events}");
}

/// F-032: what is here is not read again, however much comes.
#[test]
fn a_blob_that_is_here_is_not_read_again() {
    let host = Host::new();
    let name = digest(b"here");
    let first = host.capstan_with_input(&["content", "ingest", "k"], b"here");
    assert_eq!(first.stdout.trim(), name);
    let expecting = ["content", "ingest", "--expected-digest", &name];
    // Nobody ends this stdin.
    let again = |more: &[&str]| {
        let mut child =
            host.command(&[&expecting[..], more].concat()).stdin(Stdio::piped()).spawn().unwrap();
        let status = child.wait().unwrap();
        let mut text = String::new();
        child.stdout.take().unwrap().read_to_string(&mut text).unwrap();
        (status.code(), text)
    };
    assert_eq!(again(&["k"]), (Some(0), format!("{name}\n")));
    assert_eq!(again(&["--expected-size", "4", "k"]), (Some(0), format!("{name}\n")));
    assert_eq!(again(&["--expected-size", "5", "k"]), (Some(10), String::new()));
    let (code, text) = again(&["--format", "json", "k"]);
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!((code, &json["digest"], &json["size"]), (Some(0), &name.as_str().into(), &4.into()));
    assert_eq!(host.ids(&["content", "active"]), Vec::<String>::new());
}

/// F-034, F-042.
#[test]
fn an_ingest_has_one_writer_and_is_told() {
    let host = Host::new();
    let total = ["--expected-size", "4000000", "k"];
    let mut first = begin(&host, &total, &vec![1; 3 << 20]);
    host.until("it is on its way", || offset(&host, "k") >= Some(2 << 20));
    let second = host.capstan_with_input(&["content", "ingest", "k"], b"other");
    assert_eq!((second.code, second.stdout.as_str()), (7, ""), "{}", second.stderr);
    assert!(second.stderr.contains("Unavailable") && second.stderr.contains("it has a writer"));
    host.fails(&["content", "abort", "k"], 7, "Unavailable", &["it has a writer"]);
    let table = host.ok(&["content", "active"]);
    let header: Vec<&str> = table.lines().next().unwrap().split_whitespace().collect();
    assert_eq!(header, ["REF", "SIZE", "AGE"]);
    let of = || host.json(&["content", "active"])[0].clone();
    let before = of();
    assert_eq!((&before["ref"], &before["total"]), (&"k".into(), &4_000_000.into()));
    // Others write meanwhile, under other names.
    assert_eq!(host.capstan_with_input(&["content", "ingest", "other"], b"x").code, 0);
    std::thread::sleep(std::time::Duration::from_millis(30));
    first.stdin.as_mut().unwrap().write_all(&[2; 500_000]).unwrap();
    host.until("more has come", || of()["offset"].as_u64() > before["offset"].as_u64());
    let after = of();
    assert_eq!(before["startedAtUnixNs"], after["startedAtUnixNs"], "a write is no beginning");
    assert!(before["updatedAtUnixNs"].as_i64() < after["updatedAtUnixNs"].as_i64());
    let rest = 4_000_000 - (3 << 20) - 500_000;
    first.stdin.take().unwrap().write_all(&vec![3; rest]).unwrap();
    assert!(first.wait().unwrap().success());
    assert_eq!(offset(&host, "k"), None);
}

/// F-037, F-038: what a killed client left is not taken for the beginning of another stdin.
#[test]
fn an_ingest_that_was_cut_off_is_what_the_next_stdin_has() {
    let host = Host::new();
    let bytes = noise(3 << 20, 1);
    for (next, killed) in
        [(bytes.as_slice(), "client"), (b"short", "client"), (&bytes[1..], "daemon")]
    {
        let mut host = Host::new();
        let mut first = begin(&host, &["k"], &bytes[..2 << 20]);
        host.until("half of it has come", || offset(&host, "k") >= Some(1 << 20));
        if killed == "daemon" {
            host.kill();
            host.start();
        }
        let _ = first.kill();
        first.wait().unwrap();
        // The writer is gone a moment after its client.
        let mut second = None;
        host.until("the name is free", || {
            let output = host.capstan_with_input(&["content", "ingest", "k"], next);
            let is_busy = output.code == 7 && output.stderr.contains("it has a writer");
            second = Some(output);
            !is_busy
        });
        let second = second.unwrap();
        assert_eq!(second.stdout.trim(), digest(next), "{killed}: {}", second.stderr);
        assert_eq!(host.ids(&["content", "active"]), Vec::<String>::new());
        assert_eq!(host.ids(&["content", "ls"]), [digest(next)]);
    }
    // What it was to become is not forgotten.
    let (name, other) = (digest(&bytes), digest(b"other"));
    let mut first = begin(&host, &["--expected-digest", &name, "k"], &bytes[..2 << 20]);
    host.until("half of it has come", || offset(&host, "k") >= Some(1 << 20));
    first.kill().unwrap();
    first.wait().unwrap();
    host.until("nobody writes it", || {
        let args = ["content", "ingest", "--expected-digest", &other, "k"];
        host.capstan_with_input(&args, b"other").code == 6
    });
    host.ok(&["content", "abort", "k"]);
    host.fails(&["content", "abort", "k"], 3, "NotFound", &["k"]);
}

type Result<T> = std::result::Result<T, Error>;

async fn open(client: &Client, reference: &str) -> Result<(ingest::Client, u64)> {
    let service: content::Client = client.open("content", "default");
    let mut request = service.ingest_request();
    request.get().set_ref(reference);
    let response = client.call(request.send().promise).await?;
    let reply = check!(response.get()?)?;
    Ok((reply.get_ingest()?, reply.get_info()?.get_offset()))
}

async fn write(client: &Client, ingest: &ingest::Client, at: u64, bytes: &[u8]) -> Result<u64> {
    let mut request = ingest.write_request();
    request.get().set_offset(at);
    request.get().set_bytes(bytes);
    let response = client.call(request.send().promise).await?;
    Ok(check!(response.get()?)?.get_offset())
}

async fn commit(
    client: &Client,
    ingest: &ingest::Client,
    expected: &str,
    total: u64,
) -> Result<(String, u64)> {
    let mut request = ingest.commit_request();
    request.get().set_expected(expected);
    request.get().set_total(total);
    let response = client.call(request.send().promise).await?;
    let reply = check!(response.get()?)?;
    Ok((reply.get_digest()?.to_string()?, reply.get_size()))
}

/// F-052, F-053: what a client may send in which order. What is refused changes nothing, and is no end.
#[test]
fn content_write_stream() {
    let host = Host::new();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, async {
        let client = Client::connect(&host.address()).await.unwrap();
        let class = |outcome: Result<u64>| outcome.unwrap_err().class();
        assert_eq!(open(&client, "").await.err().unwrap().class(), Class::InvalidArgument);
        let (ingest, at) = open(&client, "k").await.unwrap();
        assert_eq!(at, 0);
        assert_eq!(class(write(&client, &ingest, 1, b"x").await), Class::InvalidArgument);
        assert_eq!(write(&client, &ingest, 0, b"hello").await.unwrap(), 5);
        for wrong in [0, 4, 6, u64::MAX] {
            let error = write(&client, &ingest, wrong, b"x").await.unwrap_err();
            assert_eq!(error.class(), Class::InvalidArgument);
            assert!(error.message().contains("stands at 5"), "{error}");
        }
        let large = vec![0; MAX_CHUNK_BYTES as usize + 1];
        assert_eq!(class(write(&client, &ingest, 5, &large).await), Class::InvalidArgument);
        assert_eq!(write(&client, &ingest, 5, b"").await.unwrap(), 5);
        // Who only asks how far it is has nothing to do with its writer.
        host.until("it is told", || offset(&host, "k") == Some(5));
        assert_eq!(open(&client, "k").await.err().unwrap().class(), Class::Unavailable);
        assert_eq!(write(&client, &ingest, 5, b", world").await.unwrap(), 12);
        let (name, size) = commit(&client, &ingest, "", 12).await.unwrap();
        assert_eq!((name, size), (digest(b"hello, world"), 12));
        // It is over.
        assert_eq!(class(write(&client, &ingest, 12, b"x").await), Class::FailedPrecondition);
        let again = commit(&client, &ingest, "", 0).await.unwrap_err();
        assert_eq!(again.class(), Class::FailedPrecondition);
        // Neither a wrong size nor a wrong digest makes a blob, and the next one begins at 0.
        for (expected, total) in [(String::new(), 3), (digest(b"else"), 0)] {
            let (ingest, at) = open(&client, "wrong").await.unwrap();
            assert_eq!(at, 0);
            write(&client, &ingest, 0, b"four").await.unwrap();
            let error = commit(&client, &ingest, &expected, total).await.unwrap_err();
            assert_eq!(error.class(), Class::Corrupt, "{error}");
        }
    });
    assert_eq!(host.ids(&["content", "ls"]), [digest(b"hello, world")]);
    assert_eq!(host.ids(&["content", "active"]), Vec::<String>::new());
}

/// F-044: parts of a blob over the interface. Behind its end there is nothing, which is no error.
#[test]
fn content_read_range() {
    let host = Host::new();
    let bytes = noise(2_500_000, 2);
    let name = host.capstan_with_input(&["content", "ingest", "k"], &bytes).stdout;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, async {
        let client = Client::connect(&host.address()).await.unwrap();
        let service: content::Client = client.open("content", "default");
        let mut request = service.open_request();
        request.get().set_digest(name.trim());
        let response = client.call(request.send().promise).await.unwrap();
        let reply = check!(response.get().unwrap()).unwrap();
        assert_eq!(reply.get_size(), bytes.len() as u64);
        let blob = reply.get_blob().unwrap();
        for (offset, length) in [
            (0, 10),
            (7, 0),
            (1, 1 << 20),
            (2_499_990, 10),
            (2_499_990, 11),
            (2_500_000, 5),
            (u64::MAX, 5),
        ] {
            let mut request = blob.read_request();
            request.get().set_offset(offset);
            request.get().set_length(length);
            let response = client.call(request.send().promise).await.unwrap();
            let got = check!(response.get().unwrap()).unwrap().get_bytes().unwrap();
            let from = usize::try_from(offset).unwrap().min(bytes.len());
            let to = from.saturating_add(length as usize).min(bytes.len());
            assert!(got == &bytes[from..to], "{offset} {length}");
        }
        // More at once than a message takes is as much as it takes.
        let mut request = blob.read_request();
        request.get().set_length(u32::MAX);
        let response = client.call(request.send().promise).await.unwrap();
        let got = check!(response.get().unwrap()).unwrap().get_bytes().unwrap();
        assert!(got == &bytes[..MAX_CHUNK_BYTES as usize]);
        // Removed, it is readable for whoever has it open.
        host.ok(&["content", "rm", name.trim()]);
        let mut request = blob.read_request();
        request.get().set_offset(3);
        request.get().set_length(4);
        let response = client.call(request.send().promise).await.unwrap();
        assert!(check!(response.get().unwrap()).unwrap().get_bytes().unwrap() == &bytes[3..7]);
    });
    host.fails(&["content", "get", name.trim()], 3, "NotFound", &[name.trim()]);
}
