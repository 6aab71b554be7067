//! images: names for descriptors, and what stands behind them.

use capstan_schema::{Descriptor, Digest, Error, Labels, Namespace, Platform, Result};

use crate::contract::graph::{Finding, Node};
use crate::contract::verifier::Evidence;
use crate::contract::{Listed, Page};
use crate::oci::media::Kind;
use crate::oci::{ImageConfig, chain_ids};

/// A name and what it points at.
#[derive(Clone, Debug)]
pub struct Image {
    /// The full reference, `host/path:tag`.
    pub name: String,
    /// An index, or a manifest.
    pub target: Descriptor,
    /// When the name was first put.
    pub created_at_unix_ns: i64,
    /// When it was last put.
    pub updated_at_unix_ns: i64,
    /// Labels.
    pub labels: Labels,
}

/// What is present of an image.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Presence {
    /// Bytes of everything under the target.
    pub size: u64,
    /// Platforms whose manifest, config and layers are there.
    pub platforms: Vec<Platform>,
}

/// One platform's image, resolved.
#[derive(Clone, Debug)]
pub struct Manifest {
    /// The manifest itself.
    pub descriptor: Descriptor,
    /// The image configuration.
    pub config: Descriptor,
    /// Base first.
    pub layers: Vec<Descriptor>,
    /// Base first; as many as there are layers.
    pub diff_ids: Vec<Digest>,
    /// Of each layer, base first (OCI image-spec, config.md, "Layer ChainID").
    pub chain_ids: Vec<Digest>,
    /// The configuration, as stored.
    pub config_json: Vec<u8>,
    /// The manifest, as stored.
    pub manifest_json: Vec<u8>,
}

impl Manifest {
    /// Reads one whose manifest is read already: `config` and `layers` are what it names.
    ///
    /// # Errors
    /// `Corrupt`: it names other things than an image has, or does not fit its configuration.
    pub fn read(
        descriptor: Descriptor,
        manifest_json: Vec<u8>,
        config: Descriptor,
        config_json: Vec<u8>,
        layers: Vec<Descriptor>,
    ) -> Result<Self> {
        let place = |error: Error| error.at(format!("manifest {}", descriptor.digest));
        check_types(&config, &layers).map_err(place)?;
        let diff_ids = ImageConfig::parse(&config_json).map_err(place)?.diff_ids;
        if diff_ids.len() != layers.len() {
            return Err(place(Error::corrupt(format!(
                "{} layers, but the configuration has {} diff ids",
                layers.len(),
                diff_ids.len()
            ))));
        }
        let chain_ids = chain_ids(&diff_ids);
        Ok(Self { descriptor, config, layers, diff_ids, chain_ids, config_json, manifest_json })
    }

    /// The snapshot that holds all layers; `None` for an image without layers.
    pub fn top_chain_id(&self) -> Option<&Digest> {
        self.chain_ids.last()
    }
}

fn check_types(config: &Descriptor, layers: &[Descriptor]) -> Result<()> {
    for layer in layers {
        if !matches!(Kind::of(&layer.media_type)?, Kind::Layer(_)) {
            return Err(Error::corrupt(format!(
                "layer {} is of type {}, which is no layer",
                layer.digest, layer.media_type
            )));
        }
    }
    match Kind::of(&config.media_type)? {
        Kind::Config => Ok(()),
        _ => Err(Error::corrupt(format!(
            "its config is of type {}, which is no image configuration",
            config.media_type
        ))),
    }
}

/// Asks the verifiers whether an image may get a name, before anything of it is stored.
///
/// `PermissionDenied`: one refuses. `FailedPrecondition`: one should run and does not. `Unavailable`: one does not
/// answer. An error refuses, whatever its class is.
#[derive(Clone, Debug)]
pub struct Permit {
    /// In which namespace.
    pub namespace: Namespace,
    /// The full reference.
    pub name: String,
    /// What it is to point at.
    pub target: Descriptor,
    /// What `target` describes; verified.
    pub document: Vec<u8>,
    /// What was found beside it. `None`: nobody looked yet.
    pub evidence: Option<Vec<Evidence>>,
}

/// What comes of a [`Permit`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Permitted {
    /// All let it have its name.
    Granted,
    /// Somebody wants evidence: look for it and ask again, with what there is.
    WantsEvidence,
}

/// Whether the verifiers let an image have its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Leave {
    /// Nobody asked them. They are asked now, and are shown no evidence; the target has to be here.
    Unasked,
    /// A [`Permit`] was granted, for this evidence. It is kept, and shown when the image gets another name.
    Granted(Vec<Evidence>),
}

/// Points a name at a descriptor; makes the name or moves it. Answers the image.
///
/// The errors of a [`Permit`], if nobody asked.
#[derive(Clone, Debug)]
pub struct Put {
    /// In which namespace.
    pub namespace: Namespace,
    /// The full reference.
    pub name: String,
    /// What it points at.
    pub target: Descriptor,
    /// Whether it may.
    pub leave: Leave,
}

/// Looks an image up. `NotFound`.
#[derive(Clone, Debug)]
pub struct Get {
    /// In which namespace.
    pub namespace: Namespace,
    /// The full reference.
    pub name: String,
}

/// Lists images by name.
#[derive(Clone, Debug)]
pub struct List {
    /// In which namespace.
    pub namespace: Namespace,
    /// Which slice.
    pub page: Page,
}

/// Removes a name; content and snapshots stay. `NotFound`.
#[derive(Clone, Debug)]
pub struct Delete {
    /// In which namespace.
    pub namespace: Namespace,
    /// The full reference.
    pub name: String,
}

/// Finds the manifest for a platform, with its configuration and chain ids.
///
/// `NotFound`: the image, a manifest for the platform, or content that it needs.
/// `Corrupt`: a document that is not what its media type says.
#[derive(Clone, Debug)]
pub struct Resolve {
    /// In which namespace.
    pub namespace: Namespace,
    /// The full reference.
    pub name: String,
    /// For which platform.
    pub platform: Platform,
}

/// Looks what is present under a descriptor. It reads every document there: this is for show.
#[derive(Clone, Debug)]
pub struct Survey {
    /// In which namespace.
    pub namespace: Namespace,
    /// An index, or a manifest.
    pub target: Descriptor,
}

/// As [`Resolve`], for a descriptor that has no name (yet).
#[derive(Clone, Debug)]
pub struct ResolveTarget {
    /// In which namespace.
    pub namespace: Namespace,
    /// An index, or a manifest.
    pub target: Descriptor,
    /// For which platform.
    pub platform: Platform,
}

/// Sets labels and keeps the others; an empty value removes the key. `NotFound`.
#[derive(Clone, Debug)]
pub struct Label {
    /// Where.
    pub namespace: Namespace,
    /// Which.
    pub name: String,
    /// The changes.
    pub labels: Labels,
}

/// Gives an image a second name, or moves that one to it. Verifiers are asked, unless it means that already: they see the
/// evidence that the image came with. `NotFound`: the image. The errors of a [`Permit`].
#[derive(Clone, Debug)]
pub struct Tag {
    /// Where.
    pub namespace: Namespace,
    /// The image.
    pub name: String,
    /// What it is called as well.
    pub new_name: String,
}

/// Changes what `mask` names and nothing else: `labels` (all of them), `labels.KEY`, `target`; empty = labels and
/// target. Verifiers are asked about another target, which has to be here then; they see no evidence. `NotFound`.
/// `InvalidArgument`: another field. The errors of a [`Permit`].
#[derive(Clone, Debug)]
pub struct Update {
    /// Where.
    pub namespace: Namespace,
    /// Which.
    pub name: String,
    /// The new labels.
    pub labels: Labels,
    /// What it is to point at.
    pub target: Option<Descriptor>,
    /// Which fields.
    pub mask: Vec<String>,
}

/// Looks whether all that an image needs is there: under an index, of the platforms of which the manifest is
/// present; at least one must be. `NotFound`: the name.
#[derive(Clone, Debug)]
pub struct Check {
    /// Where.
    pub namespace: Namespace,
    /// Which.
    pub name: String,
}

/// What a [`Check`] found.
#[derive(Clone, Debug, Default)]
pub struct Checked {
    /// Bytes that are present.
    pub size: u64,
    /// What is not there or not readable, and what is wrong with it.
    pub missing: Vec<(Descriptor, String)>,
}

/// The images of a namespace, each a root with all content under its target, present or not, and the snapshots
/// of its chain ids.
#[derive(Clone, Debug)]
pub struct Nodes(pub Namespace);

/// Which content that images of a namespace need is not there.
#[derive(Clone, Debug)]
pub struct Audit(pub Namespace);

crate::contract! {
    /// The contract of kind `images`.
    Images ("images") as ImagesAddr {
        permit: Permit => Permitted [again, lasting],
        put: Put => Image,
        get: Get => Image [again],
        list: List => Listed<(Image, Presence)> [again],
        delete: Delete => (),
        resolve: Resolve => (Image, Manifest) [again],
        resolve_target: ResolveTarget => Manifest [again],
        survey: Survey => Presence [again],
        label: Label => Image,
        tag: Tag => Image,
        update: Update => Image,
        check: Check => Checked [again],
        nodes: Nodes => Vec<Node> [again],
        audit: Audit => Vec<Finding> [again],
    }
}
