//! The audit: records against files, and files against their names.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use capstan_sdk::contract::content::Audit;
use capstan_sdk::contract::graph::{Finding, Flaw, Resource};
use capstan_sdk::contract::metadata::ScanAll;
use capstan_sdk::{Digest, Namespace, Result, blocking};

use crate::blobs::Lying;
use crate::ingest::remove_any;
use crate::plugin::LocalContent;
use crate::record;

/// Who names a blob, and how many bytes they think it has.
type Named = BTreeMap<Digest, Vec<(Namespace, u64)>>;

impl LocalContent {
    pub(crate) async fn audit(self, audit: Audit) -> Result<Vec<Finding>> {
        let (named, mut findings) = self.named().await?;
        let (blobs, ingests) = (self.blobs.clone(), self.ingests.clone());
        let (lying, strays) = blocking::run("audit the content store", move || {
            let lying = blobs.lying()?;
            let mut strays = ingests.strays(audit.is_cleaning)?;
            for path in &lying.strays {
                if audit.is_cleaning {
                    remove_any(path)?;
                }
            }
            strays.extend(lying.strays.iter().cloned());
            Ok((lying, strays))
        })
        .await?;
        findings.extend(strays.iter().map(|path| stray(path, audit.is_cleaning)));
        findings.extend(self.compare(&named, &lying, audit.is_full).await?);
        findings.extend(self.unnamed(&named, &lying, &audit).await?);
        Ok(findings)
    }

    /// All records by digest; those that do not decode are findings.
    async fn named(&self) -> Result<(Named, Vec<Finding>)> {
        let (mut named, mut findings) = (Named::new(), Vec::new());
        for (key, bytes) in self.metadata.send(ScanAll(record::BUCKET.into())).await? {
            let Some(namespace) = key.namespace else { continue };
            match record::read(&key.name, &bytes) {
                Ok(info) => named.entry(info.digest).or_default().push((namespace, info.size)),
                Err(error) => findings.push(Finding {
                    namespace: Some(namespace),
                    what: format!("content/{}", key.name),
                    flaw: Flaw::Damaged,
                    detail: format!("its record does not decode: {}", error.message()),
                }),
            }
        }
        Ok((named, findings))
    }

    /// What is named and has no bytes, or wrong ones.
    async fn compare(&self, named: &Named, lying: &Lying, is_full: bool) -> Result<Vec<Finding>> {
        let mut findings = Vec::new();
        for (digest, owners) in named {
            let flaw_of = |recorded: u64| match lying.blobs.get(digest) {
                _ if lying.damaged.contains(digest) => {
                    Some((Flaw::Damaged, "its bytes were wrong and are put aside".to_owned()))
                }
                None => Some((Flaw::Missing, "its file is gone".to_owned())),
                Some(&size) if size != recorded => Some((
                    Flaw::Damaged,
                    format!("its file has {size} bytes, recorded are {recorded}"),
                )),
                Some(_) => None,
            };
            let mut flaws: HashMap<&Namespace, (Flaw, String)> = HashMap::new();
            for (namespace, recorded) in owners {
                flaws.extend(flaw_of(*recorded).map(|flaw| (namespace, flaw)));
            }
            // It may have come, or gone, since the lists were made.
            if !flaws.is_empty() && self.is_sound_now(digest, owners).await? {
                continue;
            }
            if flaws.is_empty() && is_full && self.is_damaged(digest).await? {
                let detail = "its bytes do not hash to its name; they are put aside";
                flaws.extend(
                    owners.iter().map(|(name, _)| (name, (Flaw::Damaged, detail.to_owned()))),
                );
            }
            findings.extend(flaws.into_iter().map(|(namespace, (flaw, detail))| Finding {
                namespace: Some(namespace.clone()),
                what: Resource::Content(digest.clone()).to_string(),
                flaw,
                detail,
            }));
        }
        Ok(findings)
    }

    /// Whether nothing is wrong any more, by the records and files of this moment.
    async fn is_sound_now(&self, digest: &Digest, owners: &[(Namespace, u64)]) -> Result<bool> {
        let _alone = self.hold(true).await?;
        let mut sizes = Vec::new();
        for (namespace, _) in owners {
            let found = self.find(namespace, digest).await?;
            sizes.extend(found.map(|(blob, _)| blob.info.size));
        }
        let (blobs, digest) = (self.blobs.clone(), digest.clone());
        blocking::run("look at a blob", move || {
            let size = blobs.find(&digest)?.map(|(_, size)| size);
            Ok(sizes.into_iter().all(|recorded| size == Some(recorded)))
        })
        .await
    }

    /// Hashes a blob, and puts it aside if its bytes are wrong.
    async fn is_damaged(&self, digest: &Digest) -> Result<bool> {
        let hash = || {
            let (blobs, digest) = (self.blobs.clone(), digest.clone());
            blocking::run("hash a blob", move || blobs.is_sound(&digest))
        };
        if hash().await? {
            return Ok(false);
        }
        // Again where nobody can replace it: the bytes that were read may have been the last of the old ones.
        let _alone = self.hold(true).await?;
        if hash().await? {
            return Ok(false);
        }
        let (blobs, digest) = (self.blobs.clone(), digest.clone());
        blocking::run("put a blob aside", move || blobs.put_aside(&digest)).await?;
        Ok(true)
    }

    /// Files that no namespace names.
    async fn unnamed(&self, named: &Named, lying: &Lying, audit: &Audit) -> Result<Vec<Finding>> {
        let mut findings = Vec::new();
        let files = lying.blobs.keys().chain(&lying.damaged);
        for digest in files.filter(|digest| !named.contains_key(*digest)) {
            // Alone: a file gets its name before its record.
            let _alone = self.hold(true).await?;
            if self.recorded_size(digest).await?.is_some() {
                continue;
            }
            let mut detail = "no namespace has a record of it".to_owned();
            if audit.is_cleaning {
                self.remove_unnamed(digest).await?;
                detail += "; removed";
            }
            let what = Resource::Content(digest.clone()).to_string();
            findings.push(Finding { namespace: None, what, flaw: Flaw::Orphan, detail });
        }
        Ok(findings)
    }
}

fn stray(path: &Path, is_removed: bool) -> Finding {
    let removed = if is_removed { "; removed" } else { "" };
    Finding {
        namespace: None,
        what: path.display().to_string(),
        flaw: Flaw::Orphan,
        detail: format!("it is no blob and no ingest{removed}"),
    }
}
