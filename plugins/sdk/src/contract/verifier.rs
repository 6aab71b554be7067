//! verifier: whether an image may get its name.
//!
//! All verifiers of a deployment are asked once before an image gets a name, whoever gives it, and each may refuse. One
//! that fails, or that should be there and is not, refuses too. What a name means already it may go on to mean.

use capstan_schema::{Descriptor, Labels, Namespace};

/// A document that a registry has beside an image, such as a signature. Nobody has verified it yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Evidence {
    /// Of its manifest; for what a cosign tag names the media type of the layer.
    pub artifact_type: String,
    /// Of `payload`.
    pub media_type: String,
    /// At most [`MAX_EVIDENCE_BYTES`]; it has the digest that its manifest says.
    pub payload: Vec<u8>,
    /// Those of its descriptor.
    pub annotations: Labels,
}

/// The largest payload of a piece of evidence, in bytes.
pub const MAX_EVIDENCE_BYTES: u64 = 1 << 20;

/// The most pieces of evidence that come with one question.
pub const MAX_EVIDENCE: usize = 64;

/// The most bytes that all payloads of one question have together: with the document it fits into one message.
pub const MAX_EVIDENCE_TOTAL_BYTES: u64 = 16 << 20;

/// Whether the verifier looks at evidence before it answers for a name. Evidence costs requests to the registry.
#[derive(Clone, Debug)]
pub struct Ask {
    /// In which namespace.
    pub namespace: Namespace,
    /// What the image is to be called.
    pub name: String,
}

/// The question whether an image may get a name.
///
/// The same question has the same answer, in whatever order the evidence is; it changes nothing. An error refuses too.
#[derive(Clone, Debug)]
pub struct Verify {
    /// In which namespace.
    pub namespace: Namespace,
    /// What it is to be called: `host/repository[:tag][@digest]`.
    pub name: String,
    /// What the name will mean.
    pub target: Descriptor,
    /// The manifest or index that `target` describes; verified.
    pub document: Vec<u8>,
    /// What was found beside it, at most [`MAX_EVIDENCE`] pieces; for a second name of an image that is here, what the
    /// image came with. Nothing, if nobody wanted evidence.
    pub evidence: Vec<Evidence>,
}

/// What a verifier says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It has nothing against it.
    Accepted,
    /// The image gets no name, and this is why: one line for people.
    Refused(String),
}

crate::contract! {
    /// The contract of kind `verifier`.
    Verifier ("verifier") as VerifierAddr {
        ask: Ask => bool [again],
        verify: Verify => Verdict [again],
    }
}
