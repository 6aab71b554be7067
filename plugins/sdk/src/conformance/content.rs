//! The suite of kind `content`.

use std::io::Read as _;
use std::os::unix::fs::FileExt as _;

use bytes::Bytes;
use capstan_schema::{Algorithm, Class, Digest, Namespace, Result};
use sha2::Digest as _;

use super::content_graph::shared_bytes_are_collected_last;
use crate::Link;
use crate::contract::content::{
    Abort, BlobInfo, Delete, Ingest, IngestInfo, Ingests, List, Open, OpenBlob, OpenIngest, Stat,
};
use crate::contract::{Content, Page};

/// One store under test.
pub struct Suite {
    pub(super) link: Link<Content>,
    namespace: Namespace,
}

impl std::fmt::Debug for Suite {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Suite({:?})", self.link)
    }
}

/// Runs all cases, each in a namespace of its own and with bytes of its own: bytes are shared by all.
///
/// # Panics
/// If a case fails.
pub async fn run(link: &Link<Content>) {
    let suite = |name: &str| Suite {
        link: link.clone(),
        namespace: Namespace::parse(name).expect("a case has a name"),
    };
    suite("name").a_name_comes_with_the_commit().await;
    suite("wrong").wrong_bytes_get_no_name().await;
    suite("resume").resume().await;
    suite("begun").begun_with_something_else().await;
    suite("writer").one_writer().await;
    suite("race").one_winner_per_ingest().await;
    suite("again").a_second_commit_of_the_same_bytes().await;
    suite("missing").missing().await;
    suite("delete").deleted_and_still_open().await;
    suite("pages").pages().await;
    suite("abort").abort().await;
    suite("along").reading_along().await;
    suite("large").large().await;
    suite("empty").empty().await;
    suite("sha512").another_algorithm().await;
    suite("algorithms").algorithms_by_choice().await;
    suite("ranges").ranges().await;
    suite("readers").several_readers().await;
    suite("fields").status_fields().await;
    suite("released").a_failed_open_releases_the_name().await;
    suite("walk").walk().await;
    suite("labels").labelled().await;
    suite("nodes").nodes_tell_uses().await;
    suite("collect").collections().await;
    suite("use-race").uses_and_collections_race().await;
    suite("audit").nothing_to_find().await;
    shared_bytes_are_collected_last(suite("shared-a"), suite("shared-b")).await;
    namespaces_share_bytes_and_no_names(suite("ns-a"), suite("ns-b")).await;
}

pub(super) fn class<T>(result: Result<T>) -> Class {
    result.err().expect("it must fail").class()
}

pub(super) fn digest_of(bytes: &[u8]) -> Digest {
    Digest::from_hash(Algorithm::Sha256, &sha2::Sha256::digest(bytes))
}

/// Writes bytes and waits until they are taken.
pub(super) async fn fill(writer: &Ingest, bytes: &[u8]) {
    let end = writer.offset() + bytes.len() as u64;
    writer.write(Bytes::copy_from_slice(bytes)).await.expect("write");
    writer.taken(end).await.expect("the store takes it");
}

/// Reads all that a writer writes, on a thread for blocking work.
fn read_along(writer: &Ingest) -> tokio::task::JoinHandle<std::io::Result<Vec<u8>>> {
    let mut tail = writer.follow().tail();
    tokio::task::spawn_blocking(move || {
        let mut bytes = Vec::new();
        tail.read_to_end(&mut bytes).map(|_| bytes)
    })
}

impl Suite {
    pub(super) fn ns(&self) -> Namespace {
        self.namespace.clone()
    }

    /// Bytes that only this case has.
    pub(super) fn bytes(&self) -> Vec<u8> {
        format!("bytes of case {}\n", self.namespace).into_bytes()
    }

    pub(super) async fn ingest(
        &self,
        name: &str,
        expected: Option<&Digest>,
        total: u64,
    ) -> Result<Ingest> {
        let expected = expected.cloned();
        self.link.send(OpenIngest { expected, total, ..OpenIngest::new(&self.ns(), name) }).await
    }

    /// As [`Suite::ingest`], where the writer before may still be on its way out.
    pub(super) async fn next(
        &self,
        name: &str,
        expected: Option<&Digest>,
        total: u64,
    ) -> Result<Ingest> {
        loop {
            match self.ingest(name, expected, total).await {
                Err(error) if error.class() == Class::Unavailable => {
                    tokio::task::yield_now().await;
                }
                answer => return answer,
            }
        }
    }

    pub(super) async fn store(&self, bytes: &[u8]) -> Digest {
        let writer = self.next("store", None, 0).await.expect("ingest");
        writer.write(Bytes::copy_from_slice(bytes)).await.expect("write");
        writer.commit(None, 0).await.expect("commit").0
    }

    pub(super) async fn stat(&self, digest: &Digest) -> Result<BlobInfo> {
        self.link.send(Stat { namespace: self.ns(), digest: digest.clone() }).await
    }

    pub(super) async fn open(&self, digest: &Digest) -> Result<OpenBlob> {
        self.link.send(Open { namespace: self.ns(), digest: digest.clone() }).await
    }

    async fn delete(&self, digest: &Digest) -> Result<()> {
        self.link.send(Delete { namespace: self.ns(), digest: digest.clone() }).await
    }

    async fn drop_ingest(&self, name: &str) -> Result<()> {
        self.link.send(Abort { namespace: self.ns(), reference: name.into() }).await
    }

    async fn ingests(&self) -> Vec<IngestInfo> {
        self.link.send(Ingests(self.ns())).await.expect("list ingests")
    }

    pub(super) async fn blobs(&self) -> Vec<BlobInfo> {
        let message = List { namespace: self.ns(), page: Page::all() };
        self.link.send(message).await.expect("list").items
    }

    async fn a_name_comes_with_the_commit(self) {
        let bytes = self.bytes();
        let (digest, size) = (digest_of(&bytes), bytes.len() as u64);
        let writer = self.ingest("x", Some(&digest), size).await.expect("ingest");
        let info = &writer.info;
        assert_eq!((info.reference.as_str(), info.offset, info.total), ("x", 0, size));
        assert_eq!(info.expected.as_ref(), Some(&digest));
        fill(&writer, &bytes).await;
        assert_eq!(class(self.stat(&digest).await), Class::NotFound);
        assert_eq!(class(self.open(&digest).await), Class::NotFound);
        let [ingest] = &*self.ingests().await else { panic!("there is one ingest") };
        assert_eq!((ingest.reference.as_str(), ingest.offset), ("x", size));
        let named = writer.commit(Some(digest.clone()), size).await.expect("commit");
        assert_eq!(named, (digest.clone(), size));
        let info = self.stat(&digest).await.expect("stat");
        assert_eq!((&info.digest, info.size), (&digest, size));
        assert!(info.created_at_unix_ns > 0);
        assert!(self.ingests().await.is_empty());
        let blob = self.open(&digest).await.expect("open");
        assert_eq!(blob.size, size);
        assert_eq!(blob.read_all(100).expect("read"), bytes);
        assert_eq!(class(blob.read_all(size - 1)), Class::ResourceExhausted);
        let mut read = Vec::new();
        blob.reader().read_to_end(&mut read).expect("read");
        assert_eq!(read, bytes);
    }

    async fn wrong_bytes_get_no_name(self) {
        let bytes = self.bytes();
        let (other, size) = (digest_of(b"something else"), bytes.len() as u64);
        let cases = [
            (Some(&other), 0, None, 0),
            (None, 0, Some(&other), 0),
            (None, size + 1, None, 0),
            (None, 0, None, size - 1),
            // Too many are noticed at once.
            (None, 5, None, 0),
        ];
        for (early, early_total, late, late_total) in cases {
            let writer = self.next("x", early, early_total).await.expect("ingest");
            let _ = writer.write(Bytes::from(bytes.clone())).await;
            let outcome = writer.commit(late.cloned(), late_total).await;
            assert_eq!(class(outcome), Class::Corrupt);
            assert!(self.blobs().await.is_empty());
            assert!(self.ingests().await.is_empty(), "a retry must not build on them");
        }
    }

    async fn resume(self) {
        let bytes = self.bytes();
        let (digest, size) = (digest_of(&bytes), bytes.len() as u64);
        let writer = self.ingest("x", Some(&digest), size).await.expect("ingest");
        fill(&writer, &bytes[..5]).await;
        // Not taken yet, perhaps, when the writer goes away.
        writer.write(Bytes::copy_from_slice(&bytes[5..7])).await.expect("write");
        drop(writer);
        let writer = self.next("x", None, 0).await.expect("resume");
        assert_eq!((writer.info.offset, writer.offset()), (7, 7));
        assert_eq!((writer.info.total, writer.info.expected.as_ref()), (size, Some(&digest)));
        let reader = read_along(&writer);
        fill(&writer, &bytes[7..]).await;
        assert_eq!(writer.commit(None, 0).await.expect("commit"), (digest, size));
        let read = reader.await.expect("it reads").expect("read");
        assert_eq!(read, bytes, "from the first byte, also of a resumed one");
    }

    async fn begun_with_something_else(self) {
        let (digest, other) = (digest_of(&self.bytes()), digest_of(b"something else"));
        drop(self.ingest("x", Some(&digest), 13).await.expect("ingest"));
        let differs = Class::FailedPrecondition;
        assert_eq!(class(self.next("x", Some(&other), 0).await), differs);
        assert_eq!(class(self.next("x", None, 99).await), differs);
        drop(self.next("x", Some(&digest), 13).await.expect("the same again"));
    }

    async fn one_writer(self) {
        let writer = self.ingest("x", None, 0).await.expect("ingest");
        assert_eq!(class(self.ingest("x", None, 0).await), Class::Unavailable);
        assert_eq!(class(self.drop_ingest("x").await), Class::Unavailable);
        let other = self.ingest("y", None, 0).await.expect("another name");
        fill(&other, b"other").await;
        fill(&writer, &self.bytes()).await;
        let names: Vec<_> = self.ingests().await.into_iter().map(|info| info.reference).collect();
        assert_eq!(names, ["x", "y"]);
        writer.commit(None, 0).await.expect("commit");
        other.abort().await.expect("abort");
        assert_eq!(class(self.ingest("", None, 0).await), Class::InvalidArgument);
    }

    async fn one_winner_per_ingest(self) {
        let tries = (0..16).map(|_| self.ingest("x", None, 0));
        let tries = futures::future::join_all(tries).await;
        assert_eq!(tries.iter().filter(|outcome| outcome.is_ok()).count(), 1);
        for outcome in tries {
            assert!(outcome.is_ok() || class(outcome) == Class::Unavailable);
        }
    }

    async fn a_second_commit_of_the_same_bytes(self) {
        let first = self.store(&self.bytes()).await;
        let created = self.stat(&first).await.expect("stat").created_at_unix_ns;
        assert_eq!(self.store(&self.bytes()).await, first);
        assert_eq!(self.stat(&first).await.expect("stat").created_at_unix_ns, created);
        assert_eq!(class(self.ingest("y", Some(&first), 0).await), Class::AlreadyExists);
        assert!(self.ingests().await.is_empty());
    }

    async fn missing(self) {
        let digest = digest_of(&self.bytes());
        assert_eq!(class(self.stat(&digest).await), Class::NotFound);
        assert_eq!(class(self.open(&digest).await), Class::NotFound);
        assert_eq!(class(self.delete(&digest).await), Class::NotFound);
        assert_eq!(class(self.drop_ingest("x").await), Class::NotFound);
        assert!(self.blobs().await.is_empty() && self.ingests().await.is_empty());
    }

    async fn deleted_and_still_open(self) {
        let bytes = self.bytes();
        let digest = self.store(&bytes).await;
        let blob = self.open(&digest).await.expect("open");
        self.delete(&digest).await.expect("delete");
        assert_eq!(class(self.stat(&digest).await), Class::NotFound);
        assert_eq!(class(self.open(&digest).await), Class::NotFound);
        assert_eq!(class(self.delete(&digest).await), Class::NotFound);
        assert_eq!(blob.read_all(100).expect("what is open stays readable"), bytes);
        assert_eq!(self.store(&bytes).await, digest, "and it can come again");
    }

    async fn pages(self) {
        let mut stored = Vec::new();
        for number in 0..5 {
            stored.push(self.store(format!("blob {number}").as_bytes()).await);
        }
        stored.sort_by(|a, b| a.as_str().cmp(b.as_str()));
        let mut after = String::new();
        let mut listed = Vec::new();
        loop {
            let message =
                List { namespace: self.ns(), page: Page { after, limit: 2, ..Page::default() } };
            let page = self.link.send(message).await.expect("list");
            assert!(page.items.len() <= 2);
            listed.extend(page.items.into_iter().map(|info| info.digest));
            after = page.next;
            if after.is_empty() {
                break;
            }
        }
        assert_eq!(listed, stored);
        let all: Vec<_> = self.blobs().await.into_iter().map(|info| info.digest).collect();
        assert_eq!(all, stored);
    }

    async fn abort(self) {
        let writer = self.ingest("x", None, 0).await.expect("ingest");
        fill(&writer, &self.bytes()).await;
        writer.abort().await.expect("abort");
        assert!(self.ingests().await.is_empty());
        let writer = self.next("x", None, 0).await.expect("begin anew");
        assert_eq!(writer.info.offset, 0);
        fill(&writer, &self.bytes()).await;
        drop(writer);
        loop {
            match self.drop_ingest("x").await {
                Err(error) if error.class() == Class::Unavailable => {
                    tokio::task::yield_now().await;
                }
                outcome => break outcome.expect("abort without a writer"),
            }
        }
        assert!(self.ingests().await.is_empty() && self.blobs().await.is_empty());
    }

    async fn reading_along(self) {
        let bytes = self.bytes();
        let writer = self.ingest("x", None, 0).await.expect("ingest");
        let (follow, reader) = (writer.follow(), read_along(&writer));
        for piece in bytes.chunks(3) {
            writer.write(Bytes::copy_from_slice(piece)).await.expect("write");
        }
        writer.commit(None, 0).await.expect("commit");
        assert_eq!(reader.await.expect("it reads").expect("read"), bytes);
        assert_eq!(follow.offset(), bytes.len() as u64);
        let late = tokio::task::spawn_blocking(move || {
            let mut read = Vec::new();
            follow.tail().read_to_end(&mut read).map(|_| read)
        });
        assert_eq!(late.await.expect("it reads").expect("also after the commit"), bytes);

        // What a reader has seen by then is not the end, whatever happens to the writer.
        let broken_off = async |end: &str| {
            let writer = self.ingest(end, None, 0).await.expect("ingest");
            let reader = read_along(&writer);
            fill(&writer, &bytes).await;
            match end {
                "aborted" => writer.abort().await.expect("abort"),
                "corrupt" => {
                    let outcome = writer.commit(Some(digest_of(b"something else")), 0).await;
                    assert_eq!(class(outcome), Class::Corrupt);
                }
                _ => drop(writer),
            }
            let error = reader.await.expect("it reads").expect_err("the rest will not come");
            error.downcast::<capstan_schema::Error>().expect("it is one of ours").class()
        };
        assert_eq!(broken_off("aborted").await, Class::Aborted);
        assert_eq!(broken_off("corrupt").await, Class::Corrupt);
        assert_eq!(broken_off("left").await, Class::Aborted);
    }

    /// F-044: whole, in parts, and past the end.
    async fn ranges(self) {
        let bytes = self.bytes();
        let digest = self.store(&bytes).await;
        let blob = self.open(&digest).await.expect("open");
        let read = |offset: u64, length: usize| {
            let mut part = vec![0; length];
            blob.file.read_at(&mut part, offset).map(|got| part[..got].to_vec())
        };
        let size = bytes.len();
        for (from, to) in [(0, size), (0, 1), (3, 7), (size - 1, size), (size, size)] {
            assert_eq!(read(from as u64, to - from).expect("read"), bytes[from..to]);
        }
        assert_eq!(read(size as u64 - 2, 10).expect("read"), bytes[size - 2..], "it ends there");
        assert_eq!(read(size as u64 + 5, 10).expect("read"), b"");
        let mut readers = [blob.reader(), blob.reader()];
        for reader in &mut readers {
            let mut all = Vec::new();
            reader.read_to_end(&mut all).expect("read");
            assert_eq!(all, bytes, "each reader has its own position");
        }
    }

    async fn several_readers(self) {
        let bytes = self.bytes().repeat(1000);
        let writer = self.ingest("x", None, 0).await.expect("ingest");
        let mut readers: Vec<_> = (0..3).map(|_| read_along(&writer)).collect();
        for piece in bytes.chunks(997) {
            writer.write(Bytes::copy_from_slice(piece)).await.expect("write");
        }
        readers.push(read_along(&writer));
        writer.commit(None, 0).await.expect("commit");
        for reader in readers {
            assert!(reader.await.expect("it reads").expect("read") == bytes);
        }
    }

    /// F-042, F-045.
    async fn status_fields(self) {
        let before = crate::clock::now_unix_ns();
        let bytes = self.bytes();
        let (digest, size) = (digest_of(&bytes), bytes.len() as u64);
        let writer = self.ingest("x", Some(&digest), size).await.expect("ingest");
        fill(&writer, &bytes[..5]).await;
        let [info] = &*self.ingests().await else { panic!("there is one ingest") };
        assert_eq!((info.reference.as_str(), info.offset, info.total), ("x", 5, size));
        assert_eq!(info.expected.as_ref(), Some(&digest));
        let now = crate::clock::now_unix_ns();
        assert!(before <= info.started_at_unix_ns && info.started_at_unix_ns <= now);
        // Times of files have the grain of the kernel's clock.
        assert!(info.updated_at_unix_ns + 20_000_000 >= info.started_at_unix_ns);
        fill(&writer, &bytes[5..]).await;
        writer.commit(None, 0).await.expect("commit");
        let info = self.stat(&digest).await.expect("stat");
        assert_eq!(info.size, size);
        assert!(info.created_at_unix_ns >= now);
    }

    /// F-035, F-036: what fails to open holds no name, and no writer frees the name of another.
    async fn a_failed_open_releases_the_name(self) {
        let (digest, other) = (digest_of(&self.bytes()), digest_of(b"something else"));
        drop(self.ingest("x", Some(&digest), 0).await.expect("ingest"));
        for _ in 0..3 {
            assert_eq!(class(self.next("x", Some(&other), 0).await), Class::FailedPrecondition);
        }
        let first = self.next("x", Some(&digest), 0).await.expect("the name is free");
        fill(&first, &self.bytes()).await;
        first.commit(None, 0).await.expect("commit");
        let second = self.next("x", None, 0).await.expect("and again");
        assert_eq!(class(self.ingest("x", None, 0).await), Class::Unavailable);
        second.abort().await.expect("abort");
    }

    /// F-047: many, each once, in order.
    async fn walk(self) {
        let mut stored = Vec::new();
        for number in 0..60_u32 {
            stored.push(self.store(&number.to_le_bytes()).await);
        }
        stored.sort_by(|a, b| a.as_str().cmp(b.as_str()));
        let listed: Vec<_> = self.blobs().await.into_iter().map(|info| info.digest).collect();
        assert_eq!(listed, stored);
    }

    /// Several times what fits into one message, in pieces of all sizes.
    async fn large(self) {
        let bytes: Vec<u8> =
            (0..5_u32 << 20).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        let (digest, size) = (digest_of(&bytes), bytes.len() as u64);
        let at_once = self.ingest("at once", Some(&digest), size).await.expect("ingest");
        let reader = read_along(&at_once);
        at_once.write(Bytes::from(bytes.clone())).await.expect("write");
        assert_eq!(at_once.commit(None, 0).await.expect("commit"), (digest.clone(), size));
        assert!(reader.await.expect("it reads").expect("read") == bytes);
        let blob = self.open(&digest).await.expect("open");
        assert!(blob.read_all(size).expect("read") == bytes);
        self.delete(&digest).await.expect("delete");

        let writer = self.ingest("in pieces", Some(&digest), size).await.expect("ingest");
        let mut rest = Bytes::from(bytes);
        let mut length = 1;
        while !rest.is_empty() {
            let piece = rest.split_to(rest.len().min(length));
            writer.write(piece).await.expect("write");
            length = length * 3 + 1;
        }
        assert_eq!(writer.commit(None, 0).await.expect("commit"), (digest, size));
    }

    async fn empty(self) {
        let digest = digest_of(b"");
        let writer = self.ingest("x", Some(&digest), 0).await.expect("ingest");
        writer.write(Bytes::new()).await.expect("write nothing");
        assert_eq!(writer.commit(None, 0).await.expect("commit"), (digest.clone(), 0));
        let blob = self.open(&digest).await.expect("open");
        assert_eq!((blob.size, blob.read_all(0).expect("read")), (0, Vec::new()));
    }

    async fn another_algorithm(self) {
        let bytes = self.bytes();
        let digest = Digest::from_hash(Algorithm::Sha512, &sha2::Sha512::digest(&bytes));
        let wrong = Digest::from_hash(Algorithm::Sha512, &sha2::Sha512::digest(b"else"));
        for (expected, fits) in [(&wrong, false), (&digest, true)] {
            let writer = self.next("x", Some(expected), 0).await.expect("ingest");
            writer.write(Bytes::from(bytes.clone())).await.expect("write");
            match writer.commit(None, 0).await {
                Ok((named, _)) => assert!(fits && named == digest),
                Err(error) => assert!(!fits && error.class() == Class::Corrupt, "{error}"),
            }
        }
    }
}

async fn namespaces_share_bytes_and_no_names(one: Suite, two: Suite) {
    let bytes = one.bytes();
    let digest = one.store(&bytes).await;
    assert_eq!(class(two.stat(&digest).await), Class::NotFound);
    assert_eq!(class(two.open(&digest).await), Class::NotFound);
    assert!(two.blobs().await.is_empty());
    // Asked for, it is there at once.
    assert_eq!(class(two.ingest("x", Some(&digest), 0).await), Class::AlreadyExists);
    assert_eq!(two.stat(&digest).await.expect("stat").size, bytes.len() as u64);
    one.delete(&digest).await.expect("delete");
    assert_eq!(class(one.stat(&digest).await), Class::NotFound);
    let blob = two.open(&digest).await.expect("open");
    assert_eq!(blob.read_all(100).expect("read"), bytes);
    two.delete(&digest).await.expect("delete");
    // An ingest of a name is another one in another namespace.
    let first = one.ingest("x", None, 0).await.expect("ingest");
    let second = two.ingest("x", None, 0).await.expect("ingest");
    fill(&first, b"1").await;
    assert_eq!(two.ingests().await[0].offset, 0);
    fill(&second, b"22").await;
    assert_eq!(one.ingests().await[0].offset, 1);
}
