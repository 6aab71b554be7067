//! Indexes and manifests (OCI image-spec, image-index.md and manifest.md).

use capstan_schema::{Descriptor, Digest, Error, Platform, Result};
use serde::Deserialize;

use super::media::Kind;
use super::object::{Object, from_object};

/// More descriptors than any real document has; a bound on the work that one can cause.
const MAX_DESCRIPTORS: usize = 1000;

/// What a document holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Document {
    /// Images for several platforms.
    Index(Vec<Descriptor>),
    /// One image for one platform.
    Manifest {
        /// The image configuration.
        config: Descriptor,
        /// Base first.
        layers: Vec<Descriptor>,
        /// What it is, if it is no container image: such as a signature, or a chart. Such a manifest is stored and
        /// passed on, and never unpacked.
        artifact: Option<String>,
    },
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw {
    schema_version: u32,
    media_type: Option<String>,
    manifests: Option<Vec<RawDescriptor>>,
    artifact_type: Option<String>,
    config: Option<RawDescriptor>,
    layers: Option<Vec<RawDescriptor>>,
}

/// A descriptor as documents write it (OCI image-spec, descriptor.md), not checked yet.
#[derive(Debug, Deserialize)]
#[serde(transparent)]
pub struct RawDescriptor(Object<RawFields>);

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawFields {
    media_type: String,
    digest: String,
    size: u64,
    platform: Option<Object<RawPlatform>>,
}

#[derive(Debug, Deserialize)]
struct RawPlatform {
    #[serde(default)]
    os: String,
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    variant: String,
}

impl RawDescriptor {
    /// The descriptor that it is.
    ///
    /// # Errors
    /// `InvalidArgument`: its digest is none.
    pub fn read(self) -> Result<Descriptor> {
        let Self(Object(raw)) = self;
        let platform = raw.platform.map(|Object(raw)| {
            let mut platform =
                Platform { os: raw.os, architecture: raw.architecture, variant: raw.variant };
            platform.normalize();
            platform
        });
        let digest = Digest::parse(&raw.digest)?;
        Ok(Descriptor { media_type: raw.media_type, digest, size: raw.size, platform })
    }
}

impl Document {
    /// Reads a document that came under a media type.
    ///
    /// # Errors
    /// `Corrupt`: it is no such document, or could be read as two kinds (CVE-2021-41190), or has a key
    /// twice. `Unimplemented`: the media type is that of something else.
    pub fn parse(media_type: &str, bytes: &[u8]) -> Result<Self> {
        let kind = Kind::of(media_type)?;
        let bad = |why: String| Error::corrupt(format!("document of type {media_type}: {why}"));
        let raw: Raw = from_object(bytes).map_err(|error| bad(error.to_string()))?;
        if raw.schema_version != 2 {
            return Err(bad(format!("schemaVersion {} is not 2", raw.schema_version)));
        }
        if let Some(own) = raw.media_type.filter(|own| own != media_type) {
            return Err(bad(format!("it calls itself {own:?}")));
        }
        let count =
            raw.manifests.as_ref().map_or(0, Vec::len) + raw.layers.as_ref().map_or(0, Vec::len);
        if count > MAX_DESCRIPTORS {
            return Err(bad(format!("{count} descriptors are more than {MAX_DESCRIPTORS}")));
        }
        let read = |list: Vec<RawDescriptor>| -> Result<Vec<Descriptor>> {
            list.into_iter()
                .map(RawDescriptor::read)
                .collect::<Result<_>>()
                .map_err(|error| bad(error.message().to_owned()))
        };
        match (kind, raw.manifests, raw.config, raw.layers) {
            (Kind::Index, Some(manifests), None, None) => Ok(Self::Index(read(manifests)?)),
            (Kind::Manifest, None, Some(config), Some(layers)) => {
                let mut config = read(vec![config])?;
                let config = config.pop().expect("one went in");
                let layers = read(layers)?;
                let artifact = artifact(raw.artifact_type, &config, &layers);
                Ok(Self::Manifest { config, layers, artifact })
            }
            (Kind::Index, ..) => Err(bad("an index has manifests, and no config or layers".into())),
            (Kind::Manifest, ..) => {
                Err(bad("a manifest has config and layers, and no manifests".into()))
            }
            (Kind::Config | Kind::Layer(_), ..) => {
                Err(bad("it is neither index nor manifest".into()))
            }
        }
    }
}

/// What a manifest is, if it is no container image (OCI image-spec, manifest.md, "Guidelines for Artifact Usage"): its configuration
/// is none of an image, or none of its layers is one. A single layer that is not understood does not make an
/// artifact of an image: that is an error where it is unpacked.
fn artifact(
    declared: Option<String>,
    config: &Descriptor,
    layers: &[Descriptor],
) -> Option<String> {
    let is_layer = |layer: &Descriptor| matches!(Kind::of(&layer.media_type), Ok(Kind::Layer(_)));
    let has_config = Kind::of(&config.media_type) == Ok(Kind::Config);
    let is_image = has_config && (layers.is_empty() || layers.iter().any(is_layer));
    let of_parts = || match layers.first() {
        Some(layer) if has_config => layer.media_type.clone(),
        _ => config.media_type.clone(),
    };
    (!is_image).then(|| declared.filter(|kind| !kind.is_empty()).unwrap_or_else(of_parts))
}

/// How well a platform that is there fits the one that is wanted; the least is the best.
///
/// This is the order of containerd's `platforms.Only`: a later processor runs what was made for an earlier one, an
/// amd64 runs 386 and an arm64 runs arm where there is nothing better.
fn distance(want: &Platform, have: &Platform) -> Option<u32> {
    /// Behind everything of the processor's own kind.
    const OTHER_KIND: u32 = 1000;
    if want.os != have.os {
        return None;
    }
    let closest = |want: u32, have: u32| want.checked_sub(have);
    match (want.architecture.as_str(), have.architecture.as_str()) {
        ("amd64", "amd64") => closest(number(&want.variant, 1)?, number(&have.variant, 1)?),
        ("amd64", "386") => Some(OTHER_KIND),
        ("arm", "arm") => closest(number(&want.variant, 7)?, number(&have.variant, 7)?),
        ("arm64", "arm64") => {
            let ((want, want_minor), (have, have_minor)) =
                (arm64(&want.variant)?, arm64(&have.variant)?);
            match (want, have) {
                (9, 8) => Some(1 + want_minor + closest(want_minor + ARM_V9_0, have_minor)?),
                _ if want == have => closest(want_minor, have_minor),
                _ => None,
            }
        }
        ("arm64", "arm") => Some(OTHER_KIND + closest(8, number(&have.variant, 7)?)?),
        (want_kind, have_kind) => {
            let is_same_variant = want.variant == have.variant || have.variant.is_empty();
            (want_kind == have_kind && is_same_variant).then_some(0)
        }
    }
}

/// `v9.0` of arm64 grew out of `v8.5`.
const ARM_V9_0: u32 = 5;

/// The number in a variant such as `v7`.
fn number(variant: &str, plain: u32) -> Option<u32> {
    match variant.strip_prefix('v') {
        Some(digits) => digits.parse().ok().filter(|number| *number < 100),
        None => variant.is_empty().then_some(plain),
    }
}

/// The two numbers in a variant of arm64, such as `v8.2`.
fn arm64(variant: &str) -> Option<(u32, u32)> {
    match variant.split_once('.') {
        Some((major, minor)) => {
            Some((number(major, 8)?, minor.parse().ok().filter(|number| *number < 100)?))
        }
        None => Some((number(variant, 8)?, 0)),
    }
}

/// The descriptor of an index that fits a platform best; the first of several that fit as well.
///
/// One without a platform fits if nothing else does: some tools leave it out where there is only one. What is neither
/// manifest nor index never fits.
pub fn choose<'d>(index: &'d [Descriptor], want: &Platform) -> Option<&'d Descriptor> {
    let mut best: Option<(u32, &Descriptor)> = None;
    let is_document =
        |d: &&Descriptor| matches!(Kind::of(&d.media_type), Ok(Kind::Manifest | Kind::Index));
    for descriptor in index.iter().filter(is_document) {
        let fit = match &descriptor.platform {
            Some(have) => distance(want, have),
            None => Some(u32::MAX),
        };
        if let Some(fit) = fit
            && best.is_none_or(|(least, _)| fit < least)
        {
            best = Some((fit, descriptor));
        }
    }
    best.map(|(_, descriptor)| descriptor)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::media::{OCI_CONFIG, OCI_INDEX, OCI_LAYER, OCI_MANIFEST};
    use capstan_schema::Class;

    fn descriptor(media_type: &str) -> String {
        let hex = "0".repeat(64);
        format!("{{\"mediaType\":\"{media_type}\",\"digest\":\"sha256:{hex}\",\"size\":3}}")
    }

    fn check(media_type: &str, json: &str, want: std::result::Result<&str, Class>) {
        let got = Document::parse(media_type, json.as_bytes());
        match (got, want) {
            (Ok(Document::Index(list)), Ok("index")) => assert_eq!(list.len(), 1),
            (Ok(Document::Manifest { layers, .. }), Ok("manifest")) => assert_eq!(layers.len(), 1),
            (Err(error), Err(class)) => assert_eq!(error.class(), class, "{error}"),
            (got, want) => panic!("{json}: {got:?}, want {want:?}"),
        }
    }

    #[test]
    fn documents_are_what_their_type_says() {
        let (config, layer, child) =
            (descriptor(OCI_CONFIG), descriptor(OCI_LAYER), descriptor(OCI_MANIFEST));
        let manifest = format!("\"config\":{config},\"layers\":[{layer}]");
        let index = format!("\"manifests\":[{child}]");
        let of = |body: &str| format!("{{\"schemaVersion\":2,{body}}}");
        check(OCI_MANIFEST, &of(&manifest), Ok("manifest"));
        check(OCI_INDEX, &of(&index), Ok("index"));
        check(OCI_INDEX, &of(&manifest), Err(Class::Corrupt));
        check(OCI_MANIFEST, &of(&index), Err(Class::Corrupt));
        check(OCI_MANIFEST, &of(&format!("{manifest},{index}")), Err(Class::Corrupt));
        check(OCI_INDEX, &of(&format!("{manifest},{index}")), Err(Class::Corrupt));
        check(OCI_MANIFEST, &of(&format!("{manifest},{manifest}")), Err(Class::Corrupt));
        check(OCI_CONFIG, &of(&manifest), Err(Class::Corrupt));
        check("text/html", &of(&manifest), Err(Class::Unimplemented));
        check(OCI_MANIFEST, &format!("{{\"schemaVersion\":1,{manifest}}}"), Err(Class::Corrupt));
        check(OCI_MANIFEST, &format!("{{{manifest}}}"), Err(Class::Corrupt));
        check(OCI_MANIFEST, "{", Err(Class::Corrupt));
        check(OCI_MANIFEST, "", Err(Class::Corrupt));
        check(OCI_MANIFEST, "[]", Err(Class::Corrupt));
        // serde takes a list of its values, in the order of this program, for an object.
        let listed = format!("[2,null,null,null,{config},[{layer}]]");
        check(OCI_MANIFEST, &listed, Err(Class::Corrupt));
        let listed = format!("[2,null,[{child}],null,null,null]");
        check(OCI_INDEX, &listed, Err(Class::Corrupt));
        let listed = format!("[\"{OCI_LAYER}\",\"sha256:{}\",3,null]", "0".repeat(64));
        let body = of(&format!("\"config\":{config},\"layers\":[{listed}]"));
        check(OCI_MANIFEST, &body, Err(Class::Corrupt));
        let placed = child.replace("}", ",\"platform\":[\"linux\",\"amd64\",\"\"]}");
        check(OCI_INDEX, &of(&format!("\"manifests\":[{placed}]")), Err(Class::Corrupt));
        let own = |name: &str| of(&format!("\"mediaType\":\"{name}\",{manifest}"));
        check(OCI_MANIFEST, &own(OCI_MANIFEST), Ok("manifest"));
        check(OCI_MANIFEST, &own(OCI_INDEX), Err(Class::Corrupt));
        // What nobody reads is skipped without recursion, so its depth costs no stack.
        let deep = format!("{}{}", "[".repeat(1 << 20), "]".repeat(1 << 20));
        check(OCI_MANIFEST, &of(&format!("\"annotations\":{deep},{manifest}")), Ok("manifest"));
        check(OCI_MANIFEST, &of(&format!("\"config\":{deep},\"layers\":[]")), Err(Class::Corrupt));
        let many = vec![layer.as_str(); 1001].join(",");
        check(
            OCI_MANIFEST,
            &of(&format!("\"config\":{config},\"layers\":[{many}]")),
            Err(Class::Corrupt),
        );
        check(OCI_MANIFEST, &of(&manifest.replace("sha256:0", "sha256:g")), Err(Class::Corrupt));
        check(OCI_MANIFEST, &of(&manifest.replace(":3", ":-3")), Err(Class::Corrupt));
    }

    #[test]
    fn the_best_platform_is_chosen() {
        let index = |platforms: &[&str]| -> Vec<Descriptor> {
            (0..)
                .zip(platforms)
                .map(|(number, text)| Descriptor {
                    media_type: OCI_MANIFEST.into(),
                    digest: Digest::parse(&format!("sha256:{number:064}")).unwrap(),
                    size: number,
                    platform: (!text.is_empty()).then(|| {
                        let mut parts = text.split('/').map(str::to_owned);
                        let mut next = || parts.next().unwrap_or_default();
                        Platform { os: next(), architecture: next(), variant: next() }
                    }),
                })
                .collect()
        };
        let check = |platforms: &[&str], want: &str, chosen: Option<u64>| {
            let index = index(platforms);
            let want = Platform::parse(want).unwrap();
            assert_eq!(choose(&index, &want).map(|d| d.size), chosen, "{platforms:?} {want}");
        };
        check(&["linux/arm64", "linux/amd64"], "linux/amd64", Some(1));
        check(&["linux/arm64"], "linux/amd64", None);
        check(&["windows/amd64"], "linux/amd64", None);
        check(&["unknown/unknown", ""], "linux/amd64", Some(1));
        check(&["", "linux/amd64"], "linux/amd64", Some(1));
        check(&["linux/amd64", "linux/amd64"], "linux/amd64", Some(0));
        check(&["linux/amd64", "linux/amd64/v2", "linux/amd64/v3"], "linux/amd64/v2", Some(1));
        check(&["linux/amd64/v3"], "linux/amd64", None);
        check(&["linux/arm/v6", "linux/arm/v7"], "linux/arm", Some(1));
        check(&["linux/arm/v5", "linux/arm/v6"], "linux/arm/v7", Some(1));
        check(&["linux/arm/v7"], "linux/arm/v6", None);
        check(&["linux/riscv64"], "linux/riscv64", Some(0));
        check(&["linux/arm/v5"], "linux/arm/v8", Some(0));
        check(&["linux/arm/v6", "linux/arm/v8"], "linux/arm/v8", Some(1));
        // Another kind of processor that this one is too, behind all of its own kind.
        check(&["linux/386"], "linux/amd64", Some(0));
        check(&["linux/386", "linux/amd64"], "linux/amd64/v3", Some(1));
        check(&["linux/amd64"], "linux/386", None);
        check(&["linux/arm/v6", "linux/arm/v7"], "linux/arm64", Some(1));
        check(&["linux/arm/v7", "linux/arm64"], "linux/arm64/v8.2", Some(1));
        check(&["linux/arm64"], "linux/arm/v7", None);
        check(&["windows/386"], "linux/amd64", None);
        // arm64 counts in halves: v9 is v8.5 and more.
        check(&["linux/arm64", "linux/arm64/v8.1"], "linux/arm64/v8.2", Some(1));
        check(&["linux/arm64/v8.1"], "linux/arm64", None);
        check(&["linux/arm64", "linux/arm64/v8.5"], "linux/arm64/v9", Some(1));
        check(&["linux/arm64/v8.6"], "linux/arm64/v9", None);
        check(&["linux/arm64/v8.6", "linux/arm64/v9"], "linux/arm64/v9.1", Some(1));
        check(&["linux/arm64/v9"], "linux/arm64/v8.9", None);
        check(&["linux/arm64/v4294967295.4294967295"], "linux/arm64/v9", None);
        check(&["linux/amd64/x", "linux/amd64/v"], "linux/amd64", None);
        check(&["linux/s390x/z13", "linux/s390x"], "linux/s390x/z15", Some(1));
    }
}
