//! OCI image layouts as directories (OCI image-spec, image-layout.md): read as the archive that an import takes,
//! and written from the archive that an export gives.
//!
//! Everything here blocks. Paths are resolved beneath the layout's own directory and no symbolic link in it
//! is followed, whoever made it. What is written has its name once it is whole and synced; `index.json` comes
//! last, so a reader sees the old layout or the new one.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use capstan_schema::{Class, Error, Result};
use rustix::fs::{
    AtFlags, CWD, Dir, FileType, FlockOperation, Mode, OFlags, ResolveFlags, flock, fstat, fsync,
    mkdirat, openat, openat2, renameat, unlinkat,
};
use rustix::io::Errno;
use serde_json::{Value, json};

/// The file that says what the directory is.
const MARKER: &str = "oci-layout";
const INDEX: &str = "index.json";
const BLOBS: &str = "blobs";
/// The tag, or another short name, of an image in the index.
const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// What an index may have; real ones have some kilobytes.
const MAX_DOCUMENT_BYTES: u64 = 16 << 20;

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// An image layout in a directory.
#[derive(Debug)]
pub struct Layout {
    root: OwnedFd,
    path: PathBuf,
    /// The directory was made for it.
    is_made: bool,
}

/// The images of an archive whose blobs are in the layout already: what [`Layout::commit`] makes known.
#[derive(Debug)]
#[must_use = "nobody finds the images before they are committed"]
pub struct Unpacked {
    images: Vec<Value>,
}

impl Layout {
    /// Opens a directory that is a layout. It may be given by a symbolic link.
    ///
    /// # Errors
    /// `NotFound`. `InvalidArgument`: it is no layout, or one of another version.
    pub fn open(path: &Path) -> Result<Self> {
        let root = openat(CWD, path, DIRECTORY, Mode::empty())
            .map_err(|errno| Error::io(format!("open {}", path.display()), errno))?;
        let layout = Self { root, path: path.to_owned(), is_made: false };
        match layout.marker()? {
            Some(()) => Ok(layout),
            None => Err(Error::invalid(format!(
                "{} is no OCI image layout: there is no {MARKER} in it",
                path.display()
            ))),
        }
    }

    /// Opens a layout to put images into it; makes one of an empty directory, or makes that, too.
    ///
    /// # Errors
    /// `FailedPrecondition`: it has something in it and is no layout. `NotFound`: the directory that it is to
    /// be made in. `InvalidArgument`: a layout of another version.
    pub fn open_or_make(path: &Path) -> Result<Self> {
        let fail =
            |what: &str, errno: Errno| Error::io(format!("{what} {}", path.display()), errno);
        let is_made = match mkdirat(CWD, path, Mode::from_raw_mode(0o755)) {
            Ok(()) => true,
            Err(Errno::EXIST) => false,
            Err(errno) => return Err(fail("make", errno)),
        };
        let root =
            openat(CWD, path, DIRECTORY, Mode::empty()).map_err(|errno| fail("open", errno))?;
        let layout = Self { root, path: path.to_owned(), is_made };
        if layout.marker()?.is_some() {
            return Ok(layout);
        }
        if !layout.names(&layout.root, "")?.is_empty() {
            return Err(Error::precondition(format!(
                "{} is not empty and no OCI image layout; name another directory",
                path.display()
            )));
        }
        Ok(layout)
    }

    /// Writes it as a tar archive: the marker, the index, and the blobs in the order of their digests. Nothing
    /// else that is in the directory.
    ///
    /// # Errors
    /// `InvalidArgument`: a file of it is a symbolic link, or no file. `Aborted`: a file was changed while it
    /// was read. Those of the file system and of `to`.
    pub fn pack(&self, to: impl Write) -> Result<()> {
        let mut tar = tar::Builder::new(to);
        for name in [MARKER, INDEX] {
            self.pack_file(&mut tar, &self.root, name, name)?;
        }
        let blobs = match self.dir(&self.root, BLOBS, BLOBS) {
            Ok(blobs) => Some(blobs),
            // It has no image, so it needs no blob.
            Err(error) if error.class() == Class::NotFound => None,
            Err(error) => return Err(error),
        };
        for algorithm in blobs.as_ref().map_or(Ok(Vec::new()), |blobs| self.names(blobs, BLOBS))? {
            if !is_algorithm(&algorithm) {
                continue;
            }
            let path = format!("{BLOBS}/{algorithm}");
            let dir = self.dir(blobs.as_ref().unwrap_or(&self.root), &algorithm, &path)?;
            for name in self.names(&dir, &path)? {
                if is_encoded(&name) {
                    self.pack_file(&mut tar, &dir, &name, &format!("{path}/{name}"))?;
                }
            }
        }
        let mut to = tar.into_inner().map_err(|error| Error::io("write the archive", error))?;
        to.flush().map_err(|error| Error::io("write the archive", error))
    }

    /// Puts the blobs of an archive into the layout, in the place of those that have the same names. The images
    /// are not in the index yet.
    ///
    /// # Errors
    /// `Corrupt`: it is no archive of an OCI layout. Those of the file system and of `from`.
    pub fn unpack(&self, from: impl Read) -> Result<Unpacked> {
        let fail = |error| Error::io("read the archive", error);
        let mut archive = tar::Archive::new(from);
        let mut index = None;
        for entry in archive.entries().map_err(fail)? {
            let mut entry = entry.map_err(fail)?;
            let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
            if !entry.header().entry_type().is_file() {
                continue;
            }
            let parts: Vec<&str> = name.split('/').collect();
            match parts[..] {
                [INDEX] => index = Some(self.document(entry, INDEX)?),
                [BLOBS, algorithm, encoded] if is_algorithm(algorithm) && is_encoded(encoded) => {
                    let blobs = self.make_dir(&self.root, BLOBS, BLOBS)?;
                    let dir = self.make_dir(&blobs, algorithm, &format!("{BLOBS}/{algorithm}"))?;
                    self.put(&mut entry, &dir, encoded, &name)?;
                }
                // The marker is ours, and manifest.json is for another reader.
                _ => {}
            }
        }
        // Whoever writes the archive has written all of it then.
        io::copy(&mut archive.into_inner(), &mut io::sink()).map_err(fail)?;
        let index = index.ok_or_else(|| Error::corrupt(format!("the archive has no {INDEX}")))?;
        Ok(Unpacked { images: manifests(&index).cloned().unwrap_or_default() })
    }

    /// Adds images to the index. One that has the same name there gives way; others stay.
    ///
    /// # Errors
    /// `Corrupt`: the index that is there is none. Those of the file system.
    pub fn commit(&self, unpacked: Unpacked) -> Result<()> {
        // Two at once would lose the images of one of them.
        flock(&self.root, FlockOperation::LockExclusive)
            .map_err(|errno| self.failed("lock", ".", errno))?;
        let mut index = match self.open_file(&self.root, INDEX, INDEX) {
            Ok(file) => self.document(file, INDEX)?,
            Err(error) if error.class() == Class::NotFound => json!({
                "schemaVersion": 2,
                "mediaType": "application/vnd.oci.image.index.v1+json",
                "manifests": [],
            }),
            Err(error) => return Err(error),
        };
        let Some(known) = index.get_mut("manifests").and_then(Value::as_array_mut) else {
            return Err(self.no_index());
        };
        known.retain(|old| !unpacked.images.iter().any(|new| is_same(old, new)));
        known.extend(unpacked.images);
        self.make_dir(&self.root, BLOBS, BLOBS)
            .and_then(|blobs| self.make_dir(&blobs, "sha256", "blobs/sha256"))?;
        let marker = json!({ "imageLayoutVersion": "1.0.0" }).to_string();
        self.put(&mut marker.as_bytes(), &self.root, MARKER, MARKER)?;
        self.put(&mut index.to_string().as_bytes(), &self.root, INDEX, INDEX)
    }

    /// Removes the directory if it was made for this layout; for use after a failure.
    pub fn discard(self) {
        if self.is_made {
            // What cannot be removed is no layout: it has no marker.
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }

    fn at(&self, name: &str) -> String {
        self.path.join(name).display().to_string()
    }

    fn failed(&self, what: &str, name: &str, errno: Errno) -> Error {
        match errno {
            Errno::LOOP => Error::invalid(format!(
                "{} is a symbolic link: an image layout has none",
                self.at(name)
            )),
            Errno::NOTDIR => Error::invalid(format!("{} is no directory", self.at(name))),
            errno => Error::io(format!("{what} {}", self.at(name)), errno),
        }
    }

    fn no_index(&self) -> Error {
        Error::corrupt(format!("{} is no image index", self.at(INDEX)))
    }

    /// Whether the directory says that it is a layout.
    fn marker(&self) -> Result<Option<()>> {
        let file = match self.open_file(&self.root, MARKER, MARKER) {
            Ok(file) => file,
            Err(error) if error.class() == Class::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let marker = self.document(file, MARKER)?;
        match marker["imageLayoutVersion"].as_str() {
            Some("1.0.0") => Ok(Some(())),
            version => Err(Error::invalid(format!(
                "{} has version {:?}; 1.0.0 is known",
                self.at(MARKER),
                version.unwrap_or_default()
            ))),
        }
    }

    /// Opens something beneath a directory; `path` is what it is called.
    fn open_at(&self, dir: &OwnedFd, name: &str, path: &str, flags: OFlags) -> Result<OwnedFd> {
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        openat2(dir, name, flags, Mode::empty(), resolve)
            .map_err(|errno| self.failed("open", path, errno))
    }

    fn dir(&self, dir: &OwnedFd, name: &str, path: &str) -> Result<OwnedFd> {
        self.open_at(dir, name, path, DIRECTORY)
    }

    fn make_dir(&self, dir: &OwnedFd, name: &str, path: &str) -> Result<OwnedFd> {
        match mkdirat(dir, name, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => self.dir(dir, name, path),
            Err(errno) => Err(self.failed("make", path, errno)),
        }
    }

    fn open_file(&self, dir: &OwnedFd, name: &str, path: &str) -> Result<File> {
        // A fifo does not hold us up.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let file = self.open_at(dir, name, path, flags)?;
        let stat = fstat(&file).map_err(|errno| self.failed("look at", path, errno))?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => Ok(file.into()),
            _ => Err(Error::invalid(format!("{} is no file", self.at(path)))),
        }
    }

    /// The names in a directory, sorted; those that are no text are not ours.
    fn names(&self, dir: &OwnedFd, path: &str) -> Result<Vec<String>> {
        let fail = |errno| self.failed("list", path, errno);
        let mut names = Vec::new();
        for entry in Dir::read_from(dir).map_err(fail)? {
            let entry = entry.map_err(fail)?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if name != "." && name != ".." {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    /// A JSON document of bounded size.
    fn document(&self, from: impl Read, name: &str) -> Result<Value> {
        let mut bytes = Vec::new();
        from.take(MAX_DOCUMENT_BYTES + 1)
            .read_to_end(&mut bytes)
            .map_err(|error| Error::io(format!("read {}", self.at(name)), error))?;
        if bytes.len() as u64 > MAX_DOCUMENT_BYTES {
            let text = format!("{} has more than {MAX_DOCUMENT_BYTES} bytes", self.at(name));
            return Err(Error::exhausted(text));
        }
        serde_json::from_slice(&bytes)
            .map_err(|error| Error::corrupt(format!("{}: {error}", self.at(name))))
    }

    fn pack_file<W: Write>(
        &self,
        tar: &mut tar::Builder<W>,
        dir: &OwnedFd,
        name: &str,
        path: &str,
    ) -> Result<()> {
        let fail = |error| Error::io(format!("pack {}", self.at(path)), error);
        let mut file = self.open_file(dir, name, path)?;
        let size = file.metadata().map_err(fail)?.len();
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o444);
        header.set_size(size);
        header.set_mtime(0);
        match tar.append_data(&mut header, path, Exact { inner: &mut file, left: size }) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                let text = format!("{} was cut while it was read; try again", self.at(path));
                Err(Error::new(Class::Aborted, text))
            }
            result => result.map_err(fail),
        }
    }

    /// Writes a file that has its name once it is whole and synced.
    fn put(&self, from: &mut dyn Read, dir: &OwnedFd, name: &str, path: &str) -> Result<()> {
        // Nobody looks for blobs in the root, and no name of a layout begins with a dot.
        let draft = format!(".{name}.{}", std::process::id());
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let fail = |errno| self.failed("write", path, errno);
        // Of a process that had our number and did not come to its end.
        let _ = unlinkat(&self.root, &draft, AtFlags::empty());
        let file = openat(&self.root, &draft, flags, Mode::from_raw_mode(0o644)).map_err(fail)?;
        let mut file = File::from(file);
        let mut work = || {
            io::copy(from, &mut file)
                .and_then(|_| file.sync_all())
                .map_err(|error| Error::io(format!("write {}", self.at(path)), error))?;
            renameat(&self.root, &draft, dir, name).map_err(fail)?;
            fsync(dir).map_err(fail)
        };
        let outcome = work();
        if outcome.is_err() {
            // It is the error before that is told.
            let _ = unlinkat(&self.root, &draft, AtFlags::empty());
        }
        outcome
    }
}

/// So many bytes, or an error.
struct Exact<R> {
    inner: R,
    left: u64,
}

impl<R: Read> Read for Exact<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        let got = self.inner.read(&mut buffer[..most])?;
        if got == 0 && most > 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.left -= got as u64;
        Ok(got)
    }
}

fn manifests(index: &Value) -> Option<&Vec<Value>> {
    index.get("manifests")?.as_array()
}

/// Whether two entries of an index are of one name; without a name, of one thing.
fn is_same(old: &Value, new: &Value) -> bool {
    match (&old["annotations"][REF_NAME], &new["annotations"][REF_NAME]) {
        (Value::Null, Value::Null) => old["digest"] == new["digest"],
        (old, new) => old == new,
    }
}

/// OCI image-spec, descriptor.md, "Digests": the part before the colon.
fn is_algorithm(name: &str) -> bool {
    let is_fine = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    name.bytes().next().is_some_and(is_fine)
        && name.bytes().all(|byte| is_fine(byte) || b"+._-".contains(&byte))
}

/// The part behind it.
fn is_encoded(name: &str) -> bool {
    !name.is_empty()
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"=_-".contains(&byte))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    /// An archive with these images, as an export gives it.
    fn archive(images: &[(&str, &str)]) -> Vec<u8> {
        let mut tar = tar::Builder::new(Vec::new());
        let mut add = |name: &str, bytes: &[u8]| {
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o444);
            tar.append_data(&mut header, name, bytes).unwrap();
        };
        let entries: Vec<Value> = images
            .iter()
            .map(|(name, digest)| match name.is_empty() {
                true => json!({ "digest": format!("sha256:{digest}") }),
                false => json!({
                    "digest": format!("sha256:{digest}"), "annotations": { REF_NAME: name },
                }),
            })
            .collect();
        add("oci-layout", b"not looked at");
        add("index.json", json!({ "manifests": entries }).to_string().as_bytes());
        add("manifest.json", b"[]");
        for (_, digest) in images {
            add(&format!("blobs/sha256/{digest}"), digest.as_bytes());
        }
        tar.into_inner().unwrap()
    }

    fn write(path: &Path, images: &[(&str, &str)]) -> Result<()> {
        let layout = Layout::open_or_make(path)?;
        let unpacked = layout.unpack(archive(images).as_slice())?;
        layout.commit(unpacked)
    }

    /// The images of the index, and the names of all files.
    fn listing(path: &Path) -> (Vec<String>, Vec<String>) {
        let index: Value = serde_json::from_slice(&fs::read(path.join(INDEX)).unwrap()).unwrap();
        let images = index["manifests"].as_array().unwrap().iter().map(|image| {
            let name = image["annotations"][REF_NAME].as_str().unwrap_or("-");
            format!("{name}={}", image["digest"].as_str().unwrap())
        });
        let mut files = Vec::new();
        let mut dirs = vec![path.to_owned()];
        while let Some(dir) = dirs.pop() {
            for entry in fs::read_dir(dir).unwrap() {
                let entry = entry.unwrap().path();
                match entry.is_dir() {
                    true => dirs.push(entry),
                    false => {
                        files.push(entry.strip_prefix(path).unwrap().display().to_string());
                    }
                }
            }
        }
        files.sort();
        (images.collect(), files)
    }

    #[test]
    fn oci_layout_is_made_and_added_to() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("new");
        write(&path, &[("one", "a1"), ("", "c3")]).unwrap();
        write(&path, &[("two", "b2"), ("one", "b2"), ("", "c3")]).unwrap();
        let (images, files) = listing(&path);
        assert_eq!(images, ["two=sha256:b2", "one=sha256:b2", "-=sha256:c3"]);
        let blobs = ["blobs/sha256/a1", "blobs/sha256/b2", "blobs/sha256/c3"];
        assert_eq!(files, [&blobs[..], &["index.json", "oci-layout"]].concat());
        let marker: Value = serde_json::from_slice(&fs::read(path.join(MARKER)).unwrap()).unwrap();
        assert_eq!(marker, json!({ "imageLayoutVersion": "1.0.0" }));

        // A damaged blob is put right, one that is a link is replaced and not written through.
        let secret = dir.path().join("secret");
        fs::write(&secret, "secret").unwrap();
        fs::write(path.join(blobs[0]), "damaged").unwrap();
        fs::remove_file(path.join(blobs[1])).unwrap();
        symlink(&secret, path.join(blobs[1])).unwrap();
        write(&path, &[("one", "a1"), ("two", "b2")]).unwrap();
        assert_eq!(fs::read_to_string(path.join(blobs[0])).unwrap(), "a1");
        assert_eq!(fs::read_to_string(path.join(blobs[1])).unwrap(), "b2");
        assert_eq!(fs::read_to_string(&secret).unwrap(), "secret");

        // What it has is what it gives, and nothing else.
        fs::write(path.join("other"), "").unwrap();
        fs::write(path.join("blobs/sha256/.draft"), "").unwrap();
        let mut bytes = Vec::new();
        Layout::open(&path).unwrap().pack(&mut bytes).unwrap();
        let mut archive = tar::Archive::new(bytes.as_slice());
        let names: Vec<String> = archive
            .entries()
            .unwrap()
            .map(|entry| entry.unwrap().path().unwrap().display().to_string())
            .collect();
        assert_eq!(names, [&["oci-layout", "index.json"], &blobs[..]].concat());
    }

    #[test]
    fn oci_layout_keeps_what_it_cannot_read() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let class = |path: PathBuf| write(&path, &[("one", "a1")]).unwrap_err().class();
        fs::create_dir(at("full")).unwrap();
        fs::write(at("full/mine"), "").unwrap();
        assert_eq!(class(at("full")), Class::FailedPrecondition);
        assert_eq!(fs::read_dir(at("full")).unwrap().count(), 1);
        fs::write(at("file"), "").unwrap();
        assert_eq!(class(at("missing/new")), Class::NotFound);
        assert!(Layout::open_or_make(&at("file")).is_err());
        write(&at("other"), &[("one", "a1")]).unwrap();
        fs::write(at("other/index.json"), "[]").unwrap();
        assert_eq!(class(at("other")), Class::Corrupt);
        fs::write(at("other/oci-layout"), r#"{"imageLayoutVersion":"2.0.0"}"#).unwrap();
        assert_eq!(class(at("other")), Class::InvalidArgument);
        assert_eq!(Layout::open(&at("full")).unwrap_err().class(), Class::InvalidArgument);
        assert_eq!(Layout::open(&at("missing")).unwrap_err().class(), Class::NotFound);

        // A directory that was made for it goes with it; one that was there does not.
        let made = Layout::open_or_make(&at("made")).unwrap();
        assert_eq!(made.unpack(&b""[..]).unwrap_err().class(), Class::Corrupt);
        made.discard();
        assert!(!at("made").exists());
        fs::create_dir(at("empty")).unwrap();
        Layout::open_or_make(&at("empty")).unwrap().discard();
        assert!(at("empty").exists());
    }

    #[test]
    fn oci_layout_follows_no_links() {
        let dir = tempfile::tempdir().unwrap();
        let secret = dir.path().join("secret");
        fs::create_dir_all(secret.join("sha256")).unwrap();
        fs::write(secret.join("file"), "{}").unwrap();
        for name in ["oci-layout", "index.json", "blobs", "blobs/sha256", "blobs/sha256/a1"] {
            let path = dir.path().join(name.replace('/', "-"));
            write(&path, &[("one", "a1")]).unwrap();
            let victim = path.join(name);
            let is_dir = victim.is_dir();
            if is_dir {
                fs::remove_dir_all(&victim).unwrap()
            } else {
                fs::remove_file(&victim).unwrap()
            }
            symlink(if is_dir { secret.clone() } else { secret.join("file") }, &victim).unwrap();
            let packed = Layout::open(&path).and_then(|layout| layout.pack(io::sink()));
            let error = packed.unwrap_err();
            assert_eq!(error.class(), Class::InvalidArgument, "{name}: {error}");
            assert!(error.message().contains("symbolic link"), "{error}");
            // Writing replaces a file, and refuses a directory.
            if name != "blobs/sha256/a1" {
                let error = write(&path, &[("one", "b2")]).unwrap_err();
                assert_eq!(error.class(), Class::InvalidArgument, "{name}: {error}");
            }
        }
        assert_eq!(fs::read_to_string(secret.join("file")).unwrap(), "{}");
        assert_eq!(fs::read_dir(secret.join("sha256")).unwrap().count(), 0);
        // A fifo does not hang a reader.
        let path = dir.path().join("fifo");
        write(&path, &[("one", "a1")]).unwrap();
        let fifo = path.join("blobs/sha256/f1");
        rustix::fs::mknodat(CWD, &fifo, FileType::Fifo, Mode::RUSR, 0).unwrap();
        let error = Layout::open(&path).unwrap().pack(io::sink()).unwrap_err();
        assert_eq!(error.class(), Class::InvalidArgument);
    }
}
