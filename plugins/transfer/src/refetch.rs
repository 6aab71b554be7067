//! One blob again, from where it came.

use std::io::Read as _;

use bytes::Bytes;
use capstan_sdk::contract::Content;
use capstan_sdk::contract::access::Access;
use capstan_sdk::contract::content::{Ingest, Label, Open, OpenBlob, OpenIngest, Stat, Use};
use capstan_sdk::contract::transfer::{LABEL_SOURCE, Refetch};
use capstan_sdk::{
    Class, Descriptor, Digest, Error, Labels, Link, Namespace, Reference, Result, blocking,
};

use crate::fetch;
use crate::registry::{Hash, Registry, Repository};

/// Sources that are kept of one blob: more help nobody.
const MAX_SOURCES: usize = 8;

/// Whether a label names a source.
pub(crate) fn is_source(key: &str) -> bool {
    key.strip_prefix(LABEL_SOURCE).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// Notes where a blob came from, unless that is known; from then on it was used.
pub(crate) async fn note(
    content: &Link<Content>,
    namespace: &Namespace,
    digest: &Digest,
    source: &str,
) -> Result<()> {
    let (namespace, digest) = (namespace.clone(), digest.clone());
    let found = Use { namespace: namespace.clone(), digest: digest.clone() };
    let labels = content.send(found).await?.labels;
    let known: Vec<(&String, &String)> = labels.iter().filter(|(key, _)| is_source(key)).collect();
    if known.iter().any(|(_, value)| *value == source) || known.len() >= MAX_SOURCES {
        return Ok(());
    }
    let free = (0..=known.len()).map(|number| match number {
        0 => LABEL_SOURCE.to_owned(),
        number => format!("{LABEL_SOURCE}.{number}"),
    });
    let key = free.into_iter().find(|key| !labels.contains_key(key));
    let key = key.expect("there is one more than are taken");
    let labels = Labels::from([(key, source.to_owned())]);
    content.send(Label { namespace, digest, labels }).await.map(drop)
}

/// Fetches it, unless it is whole.
pub(crate) async fn refetch(
    content: Link<Content>,
    registry: Registry,
    refetch: Refetch,
) -> Result<()> {
    let Refetch { namespace, digest, access } = refetch;
    let stat = Stat { namespace: namespace.clone(), digest: digest.clone() };
    let info = content.send(stat).await?;
    let open = Open { namespace: namespace.clone(), digest: digest.clone() };
    if let Ok(blob) = content.send(open).await
        && is_whole(blob, digest.clone()).await?
    {
        return Ok(());
    }
    let sources = info.labels.iter().filter(|(key, _)| is_source(key));
    let mut failure = Error::not_found(format!(
        "nobody knows where blob {digest} came from; pull its image again, or import it"
    ));
    for (_, source) in sources {
        let descriptor = Descriptor {
            media_type: String::new(),
            digest: digest.clone(),
            size: info.size,
            platform: None,
        };
        let at = place(&registry, &access, source, &digest);
        match from(&content, at, &namespace, &descriptor).await {
            Ok(()) => return Ok(()),
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

/// Whether a blob has the bytes of its name.
pub(crate) async fn is_whole(blob: OpenBlob, digest: Digest) -> Result<bool> {
    blocking::run("hash a blob", move || {
        let mut hash = Hash::new(digest.algorithm());
        let (mut reader, mut buffer) = (blob.reader(), vec![0; 256 << 10]);
        loop {
            match reader.read(&mut buffer) {
                Ok(0) => return Ok(hash.finish() == digest),
                Ok(got) => hash.update(&buffer[..got]),
                // A sector that cannot be read is damage too.
                Err(_) => return Ok(false),
            }
        }
    })
    .await
}

/// The repository that a label names.
fn place(
    registry: &Registry,
    access: &Access,
    source: &str,
    digest: &Digest,
) -> Result<Repository> {
    let (is_plain_http, path) = match source.split_once("://") {
        Some(("http", path)) => (true, path),
        Some(("https", path)) => (false, path),
        _ => return Err(Error::invalid(format!("the label {LABEL_SOURCE} says {source:?}"))),
    };
    let access = Access { is_plain_http, ..access.clone() };
    registry.repository(&Reference::parse(&format!("{path}@{digest}"))?, &access)
}

async fn from(
    content: &Link<Content>,
    repository: Result<Repository>,
    namespace: &Namespace,
    descriptor: &Descriptor,
) -> Result<()> {
    let repository = repository?;
    let Some(ingest) = writer(content, namespace, descriptor).await? else { return Ok(()) };
    let fetched =
        repository.download(descriptor, 0, async |bytes: Bytes| ingest.write(bytes).await).await;
    let fetched = match fetched {
        // A registry keeps manifests elsewhere.
        Err(error) if error.class() == Class::NotFound && ingest.offset() == 0 => {
            match repository.manifest(descriptor).await {
                Ok(bytes) => ingest.write(bytes).await,
                Err(_) => Err(error),
            }
        }
        fetched => fetched,
    };
    match fetched {
        Ok(()) => ingest.commit(Some(descriptor.digest.clone()), descriptor.size).await.map(drop),
        Err(error) => {
            // The store may have ended it by itself, after an error of its own.
            let _ = ingest.abort().await;
            Err(error)
        }
    }
}

/// A writer whose bytes will take the place of those that are there.
async fn writer(
    content: &Link<Content>,
    namespace: &Namespace,
    descriptor: &Descriptor,
) -> Result<Option<Ingest>> {
    if let Some(ingest) = fetch::open_anew(content, namespace, descriptor).await? {
        return Ok(Some(ingest));
    }
    // The store believes in the bytes that it has, which are as many as they should be: it is not told at first
    // what these will be.
    let Descriptor { digest, size, .. } = descriptor;
    let open = OpenIngest {
        namespace: namespace.clone(),
        reference: format!("refetch-{digest}"),
        expected: None,
        algorithm: Some(digest.algorithm()),
        total: *size,
        labels: Labels::new(),
    };
    content.send(open).await.map(Some)
}
