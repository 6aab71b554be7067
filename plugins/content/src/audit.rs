//! Records against files.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{ErrorKind, Read as _};

use capstan_sdk::contract::content::Audit;
use capstan_sdk::contract::graph::{Finding, Flaw, Resource};
use capstan_sdk::contract::metadata::ScanAll;
use capstan_sdk::{Algorithm, Digest, Error, Namespace, Result, blocking};

use crate::blobs::Blobs;
use crate::hasher::Hasher;
use crate::plugin::LocalContent;
use crate::record;

/// Who has a blob, and of how many bytes.
type Owners = Vec<(Namespace, u64)>;

impl LocalContent {
    pub(crate) async fn audit(self, audit: Audit) -> Result<Vec<Finding>> {
        let mut recorded = self.recorded().await?;
        let mut findings = Vec::new();
        for digest in self.files(&mut findings).await? {
            match recorded.remove(&digest) {
                Some(owners) => findings.extend(self.check(&digest, owners, audit.is_full).await?),
                None => findings.extend(self.orphan(&digest, audit.is_cleaning).await?),
            }
        }
        for (digest, owners) in recorded {
            // It may have come after the files were listed, or have gone.
            findings.extend(self.check(&digest, owners, audit.is_full).await?);
        }
        Ok(findings)
    }

    async fn recorded(&self) -> Result<HashMap<Digest, Owners>> {
        let mut recorded: HashMap<Digest, Owners> = HashMap::new();
        for (key, bytes) in self.metadata.send(ScanAll(record::BUCKET.into())).await? {
            let Some(namespace) = key.namespace else { continue };
            let info = record::read(&key.name, &bytes).map_err(|error| error.at(&key.name))?;
            recorded.entry(info.digest).or_default().push((namespace, info.size));
        }
        Ok(recorded)
    }

    /// The blobs that have a file; what else lies beside them is a finding.
    async fn files(&self, findings: &mut Vec<Finding>) -> Result<Vec<Digest>> {
        let blobs = self.blobs.clone();
        let (digests, strays) = blocking::run("list the blobs", move || blobs.list()).await?;
        findings.extend(strays.into_iter().map(|path| Finding {
            namespace: None,
            what: path,
            flaw: Flaw::Leftover,
            detail: "no blob has such a name; remove it by hand if it is not yours".into(),
        }));
        Ok(digests)
    }

    /// Compares a file with its records.
    async fn check(&self, digest: &Digest, owners: Owners, is_full: bool) -> Result<Vec<Finding>> {
        let flaw = blocking::run("look at a blob", {
            let (blobs, digest) = (self.blobs.clone(), digest.clone());
            let size = owners.first().map_or(0, |(_, size)| *size);
            move || examine(&blobs, &digest, size, is_full)
        })
        .await?;
        let Some((flaw, detail)) = flaw else { return Ok(Vec::new()) };
        let mut findings = Vec::new();
        for (namespace, _) in owners {
            // Deleted meanwhile: nothing is wrong then.
            if self.stat(&namespace, digest).await?.is_some() {
                let what = Resource::Content(digest.clone()).to_string();
                let detail = detail.clone();
                findings.push(Finding { namespace: Some(namespace), what, flaw, detail });
            }
        }
        Ok(findings)
    }

    /// A file without a record, unless one came meanwhile.
    async fn orphan(&self, digest: &Digest, is_cleaning: bool) -> Result<Option<Finding>> {
        let _alone = self.hold(true).await?;
        for namespace in self.namespaces().await? {
            if self.stat(&namespace, digest).await?.is_some() {
                return Ok(None);
            }
        }
        let (blobs, wanted) = (self.blobs.clone(), digest.clone());
        let size = blocking::run("look at an orphan", move || {
            let size = blobs.find(&wanted)?.map(|(_, size)| size);
            if is_cleaning {
                blobs.remove(&wanted)?;
            }
            Ok(size)
        });
        Ok(size.await?.map(|size| Finding {
            namespace: None,
            what: Resource::Content(digest.clone()).to_string(),
            flaw: Flaw::Orphan,
            detail: format!("{size} bytes that no namespace has"),
        }))
    }
}

/// What is wrong with a blob's file. With `is_full` it is hashed, and put aside if it is not what its name says.
fn examine(
    blobs: &Blobs,
    digest: &Digest,
    size: u64,
    is_full: bool,
) -> Result<Option<(Flaw, String)>> {
    let Some((file, found)) = blobs.find(digest)? else {
        let detail = match blobs.has_damaged(digest) {
            true => "its bytes were damaged and are put aside; fetch it again, or heal",
            false => "its bytes are gone; fetch it again, or heal",
        };
        return Ok(Some((Flaw::Missing, detail.into())));
    };
    if found != size {
        let detail = format!("it has {found} bytes, recorded are {size}");
        if is_full {
            blobs.put_aside(digest)?;
        }
        return Ok(Some((Flaw::Damaged, detail)));
    }
    if !is_full {
        return Ok(None);
    }
    let detail = match hash(file, digest.algorithm()) {
        Ok(got) if got == *digest => return Ok(None),
        Ok(got) => format!("its bytes hash to {got}"),
        Err(error) => format!("its bytes cannot be read: {error}"),
    };
    blobs.put_aside(digest)?;
    Ok(Some((Flaw::Damaged, format!("{detail}; it is put aside"))))
}

fn hash(mut file: File, algorithm: Algorithm) -> std::io::Result<Digest> {
    let mut hasher = Hasher::new(algorithm);
    let mut buffer = vec![0; 256 << 10];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(hasher.finish()),
            Ok(got) => hasher.update(&buffer[..got]),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

impl Blobs {
    /// The digests that have a file, and the paths of what is none.
    fn list(&self) -> Result<(Vec<Digest>, Vec<String>)> {
        let (mut digests, mut strays) = (Vec::new(), Vec::new());
        for algorithm in Algorithm::ALL {
            let dir = self.algorithm_dir(algorithm);
            let fail = |error| Error::io(format!("list {}", dir.display()), error);
            for entry in fs::read_dir(&dir).map_err(fail)? {
                let entry = entry.map_err(fail)?;
                let name = entry.file_name().to_string_lossy().into_owned();
                match Digest::parse(&format!("{}:{name}", algorithm.name())) {
                    Ok(digest) if entry.file_type().is_ok_and(|kind| kind.is_file()) => {
                        digests.push(digest);
                    }
                    _ => strays.push(entry.path().to_string_lossy().into_owned()),
                }
            }
        }
        Ok((digests, strays))
    }
}
