//! namespaces: the tenants.

use capstan_schema::{Labels, Namespace};

use crate::contract::{Listed, Page};

/// What is known of a namespace.
#[derive(Clone, Debug)]
pub struct NamespaceInfo {
    /// Its name.
    pub name: Namespace,
    /// Labels.
    pub labels: Labels,
    /// When it was made, by hand or by the first object in it.
    pub created_at_unix_ns: i64,
}

/// Makes a namespace. `AlreadyExists`.
#[derive(Clone, Debug)]
pub struct Create {
    /// Its name.
    pub name: Namespace,
    /// Labels; one with an empty value is left out.
    pub labels: Labels,
}

/// Looks one up. `NotFound`.
#[derive(Clone, Debug)]
pub struct Get(pub Namespace);

/// Lists them by name.
#[derive(Clone, Debug)]
pub struct List(pub Page);

/// Sets labels and keeps the others; an empty value removes the key. `NotFound`.
#[derive(Clone, Debug)]
pub struct Label {
    /// Which one.
    pub name: Namespace,
    /// What to set.
    pub labels: Labels,
}

/// Changes what `mask` names and nothing else: `labels` (all of them), `labels.KEY`; empty = labels. `NotFound`.
/// `InvalidArgument`: another field.
#[derive(Clone, Debug)]
pub struct Update {
    /// Which one.
    pub name: Namespace,
    /// The new labels.
    pub labels: Labels,
    /// Which fields.
    pub mask: Vec<String>,
}

/// Removes an empty namespace. `NotFound`; `FailedPrecondition`: something is in it.
#[derive(Clone, Debug)]
pub struct Delete(pub Namespace);

crate::contract! {
    /// The contract of kind `namespaces`.
    Namespaces ("namespaces") as NamespacesAddr {
        create: Create => NamespaceInfo,
        get: Get => NamespaceInfo [again],
        list: List => Listed<NamespaceInfo> [again],
        label: Label => NamespaceInfo,
        update: Update => NamespaceInfo,
        delete: Delete => (),
    }
}
