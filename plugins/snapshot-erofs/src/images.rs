//! Images: made by mkfs.erofs, sealed with their digest.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

use capstan_sdk::contract::snapshotter::Usage;
use capstan_sdk::{Algorithm, Class, Digest, Error, Result, tool, tree};
use sha2::Digest as _;

/// Images have none of their own: the same tree gives the same image.
const UUID: &str = "00000000-0000-0000-0000-000000000000";

/// What is known of an image since it was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seal {
    /// Of the file.
    pub(crate) digest: Digest,
    /// Of the tree that went into it.
    pub(crate) usage: Usage,
}

impl Seal {
    /// Reads it.
    ///
    /// # Errors
    /// `Corrupt`: it is not one.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path)
            .map_err(|error| Error::io(format!("read {}", path.display()), error))?;
        let wrong = || Error::corrupt(format!("{} is no seal of an image", path.display()));
        let mut words = text.split_whitespace();
        let digest = Digest::parse(words.next().ok_or_else(wrong)?).map_err(|_| wrong())?;
        let mut number = || words.next().and_then(|word| word.parse().ok()).ok_or_else(wrong);
        Ok(Self { digest, usage: Usage { size: number()?, inodes: number()? } })
    }

    fn write(&self, path: &Path) -> io::Result<()> {
        let mut file = File::create(path)?;
        writeln!(file, "{} {} {}", self.digest, self.usage.size, self.usage.inodes)?;
        file.sync_all()
    }
}

/// Makes images.
#[derive(Debug)]
pub(crate) struct Maker {
    program: PathBuf,
}

impl Maker {
    /// Finds the program.
    ///
    /// # Errors
    /// `Unimplemented`: it is not there.
    pub(crate) fn new() -> Result<Self> {
        let program = tool::find("mkfs.erofs", "erofs-utils")
            .map_err(|error| error.as_class(Class::Unimplemented))?;
        Ok(Self { program })
    }

    /// Makes the image of a tree and its seal, both on disk when it answers. One that is there is replaced.
    ///
    /// # Errors
    /// `ResourceExhausted`: no space. What the program or the system says.
    pub(crate) fn make(&self, tree: &Path, image: &Path, seal: &Path) -> Result<()> {
        let fail = |error| Error::io(format!("make {}", image.display()), error);
        let fresh = image.with_extension("new");
        let options = ["--quiet", "--preserve-mtime", "-U", UUID].map(Path::new);
        let arguments = options.into_iter().chain([fresh.as_path(), tree]);
        let made = tool::run(&self.program, arguments);
        if let Err(error) = made {
            // What it wrote takes room that may be what is missing.
            let _ = fs::remove_file(&fresh);
            return Err(error.at(format!("make {}", image.display())));
        }
        File::open(&fresh).and_then(|file| file.sync_all()).map_err(fail)?;
        let sealed = Seal { digest: digest_of(&fresh)?, usage: tree::measure(tree)? };
        sealed.write(seal).map_err(fail)?;
        fs::rename(&fresh, image).map_err(fail)?;
        let dir = image.parent().expect("an image is in a directory");
        tree::sync_dir(dir)
    }
}

/// Hashes a file.
pub(crate) fn digest_of(path: &Path) -> Result<Digest> {
    let fail = |error| Error::io(format!("hash {}", path.display()), error);
    let mut file = File::open(path).map_err(fail)?;
    let mut hash = sha2::Sha256::new();
    let mut buffer = vec![0; 256 << 10];
    loop {
        match file.read(&mut buffer).map_err(fail)? {
            0 => return Ok(Digest::from_hash(Algorithm::Sha256, &hash.finalize())),
            got => hash.update(&buffer[..got]),
        }
    }
}
