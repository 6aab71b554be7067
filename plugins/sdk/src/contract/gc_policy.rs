//! gc-policy: which of the things that nothing references are spared for a while.
//!
//! A policy is asked about garbage alone, so it can delay a removal and never cause a wrong one. (The
//! collector that asks comes separately; until then nobody does.)

use capstan_schema::Labels;

/// Something that nothing references any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// `content/sha256:..`, `snapshot/overlay/key`; no two candidates of one question are the same.
    pub resource: String,
    /// Bytes that go when it goes.
    pub size: u64,
    /// When it was last of use to anybody.
    pub last_used_unix_ns: i64,
    /// Its own.
    pub labels: Labels,
}

/// What is to become of a candidate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It stays until the next question.
    Keep,
    /// It goes now.
    Remove,
}

/// Judges candidates: one verdict for each, in their order.
///
/// It changes nothing: the same question has the same answer, and the order of the candidates does
/// not change who is removed.
#[derive(Clone, Debug)]
pub struct Judge {
    /// All that could go.
    pub candidates: Vec<Candidate>,
    /// The time to judge by; a policy reads no clock.
    pub now_unix_ns: i64,
    /// Bytes that all unreferenced resources take, also those that are not asked about.
    pub total: u64,
}

crate::contract! {
    /// The contract of kind `gc-policy`.
    GcPolicy ("gc-policy") as GcPolicyAddr {
        judge: Judge => Vec<Verdict> [again],
    }
}
