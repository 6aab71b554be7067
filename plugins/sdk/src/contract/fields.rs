//! The fields by which lists can be filtered, record by record.

use std::borrow::Cow;

use capstan_schema::Fields;
use capstan_schema::filter::label;

use super::containers::Container;
use super::content::{BlobInfo, IngestInfo};
use super::images::Image;
use super::namespaces::NamespaceInfo;
use super::runtime::{Status, TaskInfo};
use super::snapshotter::{Kind, SnapshotInfo};

type Value<'a> = Option<Cow<'a, str>>;

/// The words of a path, to be matched.
fn words(path: &[String]) -> Vec<&str> {
    path.iter().map(String::as_str).collect()
}

/// `id`, `image`, `runtime.name` (and `runtime`), `snapshotter`, `snapshotkey`, `rootfs` where there is one, `labels.*`.
impl Fields for Container {
    fn field(&self, path: &[String]) -> Value<'_> {
        let some = |text: &'_ String| (!text.is_empty()).then(|| Cow::Owned(text.clone()));
        match words(path)[..] {
            ["id"] => Some(self.id.as_str().into()),
            ["image"] => some(&self.image),
            ["runtime" | "runtime.name"] | ["runtime", "name"] => some(&self.runtime),
            ["snapshotter"] => some(&self.snapshotter),
            ["snapshotkey"] => some(&self.snapshot_key),
            ["rootfs"] => some(&self.rootfs),
            ["labels", ..] => label(&self.labels, &path[1..]),
            _ => None,
        }
    }
}

/// `name`, `target.digest`, `target.mediatype`, `target.size`, `labels.*`.
impl Fields for Image {
    fn field(&self, path: &[String]) -> Value<'_> {
        match words(path)[..] {
            ["name"] => Some(self.name.as_str().into()),
            ["target", "digest"] => Some(self.target.digest.as_str().into()),
            ["target", "mediatype"] => Some(self.target.media_type.as_str().into()),
            ["target", "size"] => Some(self.target.size.to_string().into()),
            ["labels", ..] => label(&self.labels, &path[1..]),
            _ => None,
        }
    }
}

/// `name`, `labels.*`.
impl Fields for NamespaceInfo {
    fn field(&self, path: &[String]) -> Value<'_> {
        match words(path)[..] {
            ["name"] => Some(self.name.as_str().into()),
            ["labels", ..] => label(&self.labels, &path[1..]),
            _ => None,
        }
    }
}

/// `digest`, `size`, `labels.*`.
impl Fields for BlobInfo {
    fn field(&self, path: &[String]) -> Value<'_> {
        match words(path)[..] {
            ["digest"] => Some(self.digest.as_str().into()),
            ["size"] => Some(self.size.to_string().into()),
            ["labels", ..] => label(&self.labels, &path[1..]),
            _ => None,
        }
    }
}

/// `ref`.
impl Fields for IngestInfo {
    fn field(&self, path: &[String]) -> Value<'_> {
        match words(path)[..] {
            ["ref"] => Some(self.reference.as_str().into()),
            _ => None,
        }
    }
}

/// `key` (and `name`), `parent` where there is one, `kind`, `labels.*`.
impl Fields for SnapshotInfo {
    fn field(&self, path: &[String]) -> Value<'_> {
        match words(path)[..] {
            ["key" | "name"] => Some(self.key.as_str().into()),
            ["parent"] if !self.parent.is_empty() => Some(self.parent.as_str().into()),
            ["kind"] => Some(
                match self.kind {
                    Kind::Active => "active",
                    Kind::View => "view",
                    Kind::Committed => "committed",
                }
                .into(),
            ),
            ["labels", ..] => label(&self.labels, &path[1..]),
            _ => None,
        }
    }
}

/// `id`, `pid`, `status`, `exitstatus` once it is stopped, `runtime`.
impl Fields for TaskInfo {
    fn field(&self, path: &[String]) -> Value<'_> {
        match words(path)[..] {
            ["id"] => Some(self.key.id.as_str().into()),
            ["pid"] => Some(self.pid.to_string().into()),
            ["status"] => Some(
                match self.status {
                    Status::Created => "created",
                    Status::Running => "running",
                    Status::Pausing => "pausing",
                    Status::Paused => "paused",
                    Status::Stopped => "stopped",
                }
                .into(),
            ),
            ["exitstatus"] => self.exit.as_ref().map(|exit| exit.status.to_string().into()),
            ["runtime"] => Some(self.runtime.as_str().into()),
            _ => None,
        }
    }
}
