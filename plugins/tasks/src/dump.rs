//! The files that CRIU wrote, as one archive, and back.

use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Component, Path};

use capstan_sdk::{Error, Result};
use tar::{Archive, Builder, EntryType, Header};

/// Writes the files of a directory, by name. CRIU and runc make no directories in there.
///
/// # Errors
/// What the system says.
pub(crate) fn pack(dir: &Path, out: impl Write) -> Result<()> {
    let fail = |error| Error::io(format!("pack the dump in {}", dir.display()), error);
    let mut names = Vec::new();
    for entry in fs::read_dir(dir).map_err(fail)? {
        names.push(entry.map_err(fail)?.file_name());
    }
    names.sort();
    let mut archive = Builder::new(out);
    for name in names {
        let file = fs::File::open(dir.join(&name)).map_err(fail)?;
        let about = file.metadata().map_err(fail)?;
        if !about.is_file() {
            continue;
        }
        let mut header = Header::new_gnu();
        header.set_entry_type(EntryType::Regular);
        header.set_mode(0o600);
        header.set_size(about.len());
        archive.append_data(&mut header, &name, file.take(about.len())).map_err(fail)?;
    }
    archive.into_inner().and_then(|mut out| out.flush()).map_err(fail)
}

/// Writes the files of an archive to a directory. It may come from anywhere: what is not a file with a
/// plain name is refused.
///
/// # Errors
/// `Corrupt`; what the system says.
pub(crate) fn unpack(archive: impl Read, dir: &Path) -> Result<()> {
    let broken = |error: io::Error| Error::corrupt(format!("the dump of a checkpoint: {error}"));
    for entry in Archive::new(archive).entries().map_err(broken)? {
        let mut entry = entry.map_err(broken)?;
        let path = entry.path().map_err(broken)?.into_owned();
        let mut parts = path.components();
        let is_plain = matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None));
        if !is_plain || entry.header().entry_type() != EntryType::Regular {
            return Err(Error::corrupt(format!(
                "the dump of a checkpoint has {:?}, which is no file with a plain name",
                path.display().to_string()
            )));
        }
        let place = dir.join(&path);
        let fail = |error| Error::io(format!("write {}", place.display()), error);
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&place)
            .map_err(fail)?;
        io::copy(&mut entry, &mut file).map_err(fail)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use capstan_sdk::Class;

    #[test]
    fn files_come_back() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        fs::create_dir(&from).unwrap();
        fs::create_dir(&to).unwrap();
        fs::write(from.join("pages-1.img"), vec![7; 100_000]).unwrap();
        fs::write(from.join("descriptors.json"), "[]").unwrap();
        let mut bytes = Vec::new();
        pack(&from, &mut bytes).unwrap();
        unpack(bytes.as_slice(), &to).unwrap();
        assert_eq!(fs::read(to.join("pages-1.img")).unwrap(), vec![7; 100_000]);
        assert_eq!(fs::read(to.join("descriptors.json")).unwrap(), b"[]");
        assert_eq!(fs::read_dir(&to).unwrap().count(), 2);
    }

    #[test]
    fn nothing_reaches_out_of_the_directory() {
        for (name, kind) in [
            ("../out", EntryType::Regular),
            ("/out", EntryType::Regular),
            ("a/b", EntryType::Regular),
            ("link", EntryType::Symlink),
            ("link", EntryType::Link),
            ("dir", EntryType::Directory),
        ] {
            let mut header = Header::new_gnu();
            header.set_entry_type(kind);
            header.set_size(0);
            // The library would refuse some of these names.
            let field = &mut header.as_gnu_mut().unwrap().name;
            field[..name.len()].copy_from_slice(name.as_bytes());
            if kind == EntryType::Symlink || kind == EntryType::Link {
                header.set_link_name("/etc/passwd").unwrap();
            }
            header.set_cksum();
            let mut archive = Builder::new(Vec::new());
            archive.append(&header, io::empty()).unwrap();
            let bytes = archive.into_inner().unwrap();
            let dir = tempfile::tempdir().unwrap();
            let error = unpack(bytes.as_slice(), dir.path()).unwrap_err();
            assert_eq!(error.class(), Class::Corrupt, "{name}: {error}");
            assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "{name}");
        }
        let dir = tempfile::tempdir().unwrap();
        let error = unpack([1_u8; 700].as_slice(), dir.path()).unwrap_err();
        assert_eq!(error.class(), Class::Corrupt);
    }
}
