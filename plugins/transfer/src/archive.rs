//! An archive of images, read once from its beginning to its end: blobs go into the content store as they come,
//! documents are kept.
//!
//! It blocks. Nothing here resolves a path on disk: names in the archive are only names, and links are only other
//! names in it. What is kept in memory is bounded: two documents, and a short entry for each file that has no digest
//! for a name.

use std::collections::BTreeMap;
use std::collections::btree_map;
use std::io::{self, BufReader, Read};
use std::path::{Component, Path};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use capstan_sdk::contract::Content;
use capstan_sdk::contract::content::{Ingest, OpenIngest};
use capstan_sdk::contract::transfer::{Item, ItemState, ProgressSender};
use capstan_sdk::oci::media::Compression;
use capstan_sdk::{Algorithm, Descriptor, Digest, Error, Labels, Link, Namespace, Result, random};
use tar::EntryType;
use tokio::runtime::Handle;

use crate::entries::{Entries, Entry, broken, no_archive, read_small};
use crate::fetch;

/// Bytes that go to the store at once.
const CHUNK: usize = 256 << 10;

/// Files that are known by name: a few for each layer of old archives.
const MAX_FILES: usize = 10_000;

/// What may follow the end of the archive: padding to a tape's record.
const MAX_TRAILER_BYTES: u64 = 1 << 20;

/// A file of an archive that is in the content store now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stored {
    pub(crate) digest: Digest,
    pub(crate) size: u64,
    /// By its first bytes.
    pub(crate) compression: Compression,
}

/// What an archive had.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// `index.json` of an OCI layout.
    pub(crate) index: Option<Vec<u8>>,
    /// `manifest.json` of `docker save`.
    pub(crate) manifest: Option<Vec<u8>>,
    files: BTreeMap<String, Stored>,
    links: BTreeMap<String, String>,
}

impl Found {
    /// A file by its name in the archive, also by that of a link to it.
    pub(crate) fn file(&self, name: &str) -> Option<&Stored> {
        let mut name = plain(Path::new(name)).ok()?;
        // More links in a row than that are a circle.
        for _ in 0..8 {
            if let Some(file) = self.files.get(&name) {
                return Some(file);
            }
            name = self.links.get(&name)?.clone();
        }
        None
    }
}

/// Where an archive goes.
pub(crate) struct Intake {
    pub(crate) runtime: Handle,
    pub(crate) content: Link<Content>,
    pub(crate) namespace: Namespace,
    pub(crate) max_document_bytes: u64,
    pub(crate) progress: ProgressSender,
}

impl Intake {
    /// Reads an archive, whatever it is compressed with.
    pub(crate) fn read(&self, archive: Box<dyn Read + Send>) -> Result<Found> {
        let failure = Failure::default();
        let source =
            Source { inner: archive, failure: failure.clone(), progress: self.progress.clone() };
        let outcome = self.read_any(source);
        match failure.take() {
            // What the reader of the tar makes of it says less.
            Some(error) => Err(error),
            None => outcome,
        }
    }

    fn read_any(&self, source: Source) -> Result<Found> {
        let mut source = BufReader::with_capacity(CHUNK, source);
        let head = io::BufRead::fill_buf(&mut source).map_err(no_archive)?;
        match compression(head) {
            Compression::None => self.read_tar(source),
            Compression::Gzip => self.read_tar(flate2::bufread::MultiGzDecoder::new(source)),
            Compression::Zstd => {
                self.read_tar(zstd::Decoder::with_buffer(source).map_err(no_archive)?)
            }
        }
    }

    fn read_tar(&self, source: impl Read) -> Result<Found> {
        let mut entries = Entries::new(source);
        let mut found = Found::default();
        while let Some(entry) = entries.next()? {
            self.entry(&mut found, entry, &mut entries)?;
        }
        let mut rest = entries.into_inner();
        let trailer = io::copy(&mut (&mut rest).take(MAX_TRAILER_BYTES + 1), &mut io::sink());
        if trailer.map_err(broken)? > MAX_TRAILER_BYTES {
            return Err(no_archive("it goes on behind its end"));
        }
        Ok(found)
    }

    fn entry(&self, found: &mut Found, entry: Entry, bytes: &mut impl Read) -> Result<()> {
        let Entry { kind, name, link, size } = entry;
        let name = plain(path(&name)?)?;
        match kind {
            EntryType::Directory => Ok(()),
            EntryType::Regular | EntryType::Continuous => self.file(found, name, size, bytes),
            EntryType::Link | EntryType::Symlink => {
                // A hard link's target is a name in the archive, a symbolic one's is seen from where it is.
                let base = match kind {
                    EntryType::Symlink => Path::new(&name).parent().unwrap_or(Path::new("")),
                    _ => Path::new(""),
                };
                let target = plain(&base.join(path(&link)?))?;
                note(&mut found.links, name, target)
            }
            other => Err(no_archive(format!("{name:?} is an entry of type {other:?}"))),
        }
    }

    fn file(
        &self,
        found: &mut Found,
        name: String,
        size: u64,
        bytes: &mut impl Read,
    ) -> Result<()> {
        match name.as_str() {
            "index.json" => self.document(&mut found.index, &name, bytes),
            "manifest.json" => self.document(&mut found.manifest, &name, bytes),
            _ => match blob_name(&name)? {
                Some(digest) => {
                    let stored = self.blob(&name, Some(digest), size, bytes)?;
                    // Twice is no harm: both had the bytes of their name.
                    found.files.remove(&name);
                    note(&mut found.files, name, stored)
                }
                None if is_wanted(&name) => {
                    let stored = self.blob(&name, None, size, bytes)?;
                    note(&mut found.files, name, stored)
                }
                None => Ok(()),
            },
        }
    }

    fn document(
        &self,
        place: &mut Option<Vec<u8>>,
        name: &str,
        bytes: &mut impl Read,
    ) -> Result<()> {
        if place.is_some() {
            return Err(no_archive(format!("{name} is in it twice")));
        }
        *place = Some(read_small(bytes, self.max_document_bytes, name)?);
        Ok(())
    }

    /// Stores a file, under the digest that it must have or under the one that it has.
    fn blob(
        &self,
        name: &str,
        expected: Option<Digest>,
        size: u64,
        bytes: &mut impl Read,
    ) -> Result<Stored> {
        let at = |error: Error| error.at(format_args!("{name} of the archive"));
        let head = read_chunk(bytes).map_err(at)?;
        let compression = compression(&head);
        let index = self.show(name, expected.as_ref(), size);
        let ingest = self.runtime.block_on(self.open(expected.as_ref(), size)).map_err(at)?;
        let Some(ingest) = ingest else {
            self.tell(index, size, ItemState::Exists);
            let digest = expected.expect("only what has a digest can be there");
            return Ok(Stored { digest, size, compression });
        };
        match self.fill(&ingest, head, bytes, index) {
            Ok(()) => {}
            Err(error) => {
                // The store may have ended it by itself, after an error of its own.
                let _ = self.runtime.block_on(ingest.abort());
                return Err(at(error));
            }
        }
        let (digest, size) = self.runtime.block_on(ingest.commit(expected, size)).map_err(at)?;
        self.tell(index, size, ItemState::Done);
        Ok(Stored { digest, size, compression })
    }

    async fn open(&self, expected: Option<&Digest>, size: u64) -> Result<Option<Ingest>> {
        let Some(digest) = expected else {
            let message = OpenIngest {
                namespace: self.namespace.clone(),
                reference: format!("import-{}", random::hex::<16>()?),
                expected: None,
                algorithm: Some(Algorithm::Sha256),
                total: size,
                labels: Labels::new(),
            };
            return self.content.send(message).await.map(Some);
        };
        let descriptor =
            Descriptor { media_type: String::new(), digest: digest.clone(), size, platform: None };
        fetch::open_anew(&self.content, &self.namespace, &descriptor).await
    }

    fn fill(
        &self,
        ingest: &Ingest,
        head: Vec<u8>,
        rest: &mut impl Read,
        index: usize,
    ) -> Result<()> {
        let (mut chunk, mut offset) = (head, 0);
        while !chunk.is_empty() {
            offset += chunk.len() as u64;
            self.runtime.block_on(ingest.write(Bytes::from(chunk)))?;
            self.tell(index, offset, ItemState::Downloading);
            chunk = read_chunk(rest)?;
        }
        Ok(())
    }

    /// What has a digest is known by it, as in all progress; what it is for shows when all of the archive was read.
    fn show(&self, name: &str, digest: Option<&Digest>, total: u64) -> usize {
        let name = digest.map_or_else(|| name.to_owned(), |digest| format!("blob-{digest}"));
        let item = Item { name, state: ItemState::Waiting, offset: 0, total };
        let mut index = 0;
        self.progress.send_modify(|items| {
            index = items.len();
            items.push(item);
        });
        index
    }

    fn tell(&self, index: usize, offset: u64, state: ItemState) {
        self.progress.send_modify(|items| {
            items[index].offset = offset;
            items[index].state = state;
        });
    }
}

fn note<T>(map: &mut BTreeMap<String, T>, name: String, value: T) -> Result<()> {
    if map.len() >= MAX_FILES {
        return Err(Error::exhausted(format!("the archive has more than {MAX_FILES} files")));
    }
    match map.entry(name) {
        btree_map::Entry::Vacant(place) => {
            place.insert(value);
            Ok(())
        }
        btree_map::Entry::Occupied(place) => {
            Err(no_archive(format!("{:?} is in it twice", place.key())))
        }
    }
}

fn path(bytes: &[u8]) -> Result<&Path> {
    std::str::from_utf8(bytes).map(Path::new).map_err(|_| no_archive("a name in it is not UTF-8"))
}

/// A name without `.`, and without a way out.
fn plain(path: &Path) -> Result<String> {
    let mut parts = Vec::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::Normal(name) => parts.push(name.to_string_lossy()),
            Component::ParentDir if parts.pop().is_some() => {}
            _ => {
                let shown: String = path.to_string_lossy().chars().take(200).collect();
                return Err(no_archive(format!("the name {shown:?} leads out of it")));
            }
        }
    }
    Ok(parts.join("/"))
}

/// The digest of `blobs/ALGORITHM/HEX`.
fn blob_name(name: &str) -> Result<Option<Digest>> {
    let Some((algorithm, hex)) = name.strip_prefix("blobs/").and_then(|name| name.split_once('/'))
    else {
        return Ok(None);
    };
    Digest::parse(&format!("{algorithm}:{hex}"))
        .map(Some)
        .map_err(|error| no_archive(format!("{name:?}: {}", error.message())))
}

/// Layers and configurations of `docker save`; of what else lies there nothing is needed.
fn is_wanted(name: &str) -> bool {
    let is_json = name.ends_with(".json") && !name.contains('/');
    is_json || [".tar", ".tar.gz", ".tar.zst"].iter().any(|end| name.ends_with(end))
}

fn compression(head: &[u8]) -> Compression {
    match head {
        [0x1f, 0x8b, ..] => Compression::Gzip,
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Compression::Zstd,
        _ => Compression::None,
    }
}

/// The next bytes; none at the end.
fn read_chunk(from: &mut impl Read) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    from.take(CHUNK as u64).read_to_end(&mut bytes).map_err(broken)?;
    Ok(bytes)
}

/// The first error of a source, as it was before a reader of tar or gzip made another one of it.
#[derive(Clone, Debug, Default)]
struct Failure(Arc<Mutex<Option<Error>>>);

impl Failure {
    fn set(&self, error: Error) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
    }

    fn take(&self) -> Option<Error> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// The bytes of an archive, until nobody wants them any more.
struct Source {
    inner: Box<dyn Read + Send>,
    failure: Failure,
    progress: ProgressSender,
}

impl Read for Source {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let outcome = match self.progress.is_closed() {
            true => Err(io::Error::other(Error::aborted("the import was cancelled"))),
            false => self.inner.read(buffer),
        };
        outcome.inspect_err(|error| {
            if error.kind() == io::ErrorKind::Interrupted {
                return;
            }
            let own = error.get_ref().and_then(|error| error.downcast_ref::<Error>());
            self.failure.set(
                own.cloned().unwrap_or_else(|| {
                    Error::unavailable(format!("the archive broke off: {error}"))
                }),
            );
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use capstan_sdk::Class;

    #[test]
    fn names_stay_inside() {
        for (name, want) in [("a", "a"), ("./a/./b", "a/b"), ("a/../b", "b"), ("a//b/", "a/b")] {
            assert_eq!(plain(Path::new(name)).unwrap(), want);
        }
        for name in ["..", "/a", "a/../../b", "../a", "./../a"] {
            assert_eq!(
                plain(Path::new(name)).unwrap_err().class(),
                Class::InvalidArgument,
                "{name}"
            );
        }
        assert!(blob_name("blobs/sha256/x").is_err());
        assert!(blob_name("x/layer.tar").unwrap().is_none());
    }

    #[test]
    fn links_lead_to_files_and_not_in_circles() {
        let digest = Digest::parse(&format!("sha256:{}", "0".repeat(64))).unwrap();
        let stored = Stored { digest, size: 1, compression: Compression::None };
        let mut found = Found::default();
        note(&mut found.files, "l.tar".into(), stored.clone()).unwrap();
        for (name, target) in [("x/layer.tar", "l.tar"), ("a", "b"), ("b", "a"), ("c", "none")] {
            note(&mut found.links, name.into(), target.into()).unwrap();
        }
        assert_eq!(found.file("x/layer.tar"), Some(&stored));
        assert_eq!(found.file("./x/../l.tar"), Some(&stored));
        for name in ["a", "c", "none", "../l.tar"] {
            assert_eq!(found.file(name), None, "{name}");
        }
        let twice = note(&mut found.files, "l.tar".into(), stored);
        assert_eq!(twice.unwrap_err().class(), Class::InvalidArgument);
    }
}
