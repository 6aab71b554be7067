//! Single blobs and documents of registries.

use bytes::Bytes;
use capstan_sdk::contract::content::Stat;
use capstan_sdk::contract::transfer::{GetObject, PutObject};
use capstan_sdk::{Descriptor, Error, Reference, Result};
use tokio::sync::mpsc;

use crate::push::{Pusher, Upload};
use crate::registry::{Hash, Object, Registry};
use crate::tree::Role;

/// Bytes that a reader gets at once, at most.
const CHUNK: usize = 1 << 20;

/// Gives what a registry has, without storing it.
pub(crate) async fn get(registry: Registry, get: GetObject) -> Result<()> {
    let GetObject { reference, access, found, bytes } = get;
    let work = async {
        let repository = registry.repository(&Reference::parse(&reference)?, &access)?;
        let object = repository.object().await?;
        let (Object::Document(descriptor, _) | Object::Blob(descriptor)) = &object;
        // Whoever does not want to know what it is may want its bytes all the same.
        let _ = found.send(descriptor.clone());
        match object {
            Object::Document(_, document) => give(&bytes, document).await,
            Object::Blob(blob) => {
                let mut hash = Hash::new(blob.digest.algorithm());
                let sink = async |piece: Bytes| {
                    hash.update(&piece);
                    give(&bytes, piece).await
                };
                repository.download(&blob, 0, sink).await?;
                match hash.finish() {
                    got if got == blob.digest => Ok(()),
                    got => Err(Error::corrupt(format!(
                        "blob {}: the registry sent {got} in place of it; do not trust it",
                        blob.digest
                    ))),
                }
            }
        }
    };
    let outcome = tokio::select! {
        biased;
        () = bytes.closed() => Err(gone()),
        outcome = work => outcome,
    };
    outcome.map_err(|error| error.at(format_args!("get {reference}")))
}

fn gone() -> Error {
    Error::aborted("nobody reads it any more")
}

async fn give(to: &mpsc::Sender<Bytes>, mut bytes: Bytes) -> Result<()> {
    while !bytes.is_empty() {
        let piece = bytes.split_to(bytes.len().min(CHUNK));
        to.send(piece).await.map_err(|_| gone())?;
    }
    Ok(())
}

/// Sends one blob or document that is here.
pub(crate) async fn put(pusher: Pusher, put: PutObject) -> Result<()> {
    let reference = Reference::parse(&put.reference)?;
    let at = |error: Error| error.at(format_args!("put {} to {reference}", put.object.digest));
    send(&pusher, &reference, &put).await.map_err(at)
}

/// Whether it is `type/subtype` (RFC 6838), without parameters.
fn is_media_type(text: &str) -> bool {
    let is_name = |name: &str| {
        let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$&-^_.+".contains(&byte);
        !name.is_empty() && name.len() <= 127 && name.bytes().all(is_allowed)
    };
    text.split_once('/').is_some_and(|(kind, name)| is_name(kind) && is_name(name))
}

async fn send(pusher: &Pusher, reference: &Reference, put: &PutObject) -> Result<()> {
    let repository = pusher.registry.repository(reference, &put.access)?;
    let PutObject { namespace, object, .. } = put;
    let digest = &object.digest;
    if !is_media_type(&object.media_type) {
        let shown: String = object.media_type.chars().take(100).collect();
        return Err(Error::invalid(format!("{shown:?} is no media type, such as text/plain")));
    }
    if let Some(other) = reference.digest().filter(|other| *other != digest) {
        return Err(Error::invalid(format!("the name says {other}; leave the digest out of it")));
    }
    let stat = Stat { namespace: namespace.clone(), digest: digest.clone() };
    let size = match object.size {
        0 => pusher.content.send(stat).await?.size,
        size => size,
    };
    let object = Descriptor { size, ..object.clone() };
    if Role::of(&object.media_type)?.is_document() {
        let document = pusher.open(namespace, &object).await?;
        return pusher.put(&document, &repository, reference.tag()).await;
    }
    pusher.send(namespace, &object, &repository, &Upload::default(), None).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn media_types_are_two_names() {
        let check = |text: &str, want: bool| assert_eq!(is_media_type(text), want, "{text:?}");
        check("text/plain", true);
        check("application/vnd.oci.image.layer.v1.tar+gzip", true);
        check("", false);
        check("text", false);
        check("text/", false);
        check("/plain", false);
        check("text/a/b", false);
        check("text/plain; charset=utf-8", false);
        check("text/plain\nX: y", false);
        check("text/\u{e9}", false);
    }
}
