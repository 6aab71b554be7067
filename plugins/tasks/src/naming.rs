//! The name of a checkpoint: given when all of it is stored, because only then is it known what verifiers are asked about.

use capstan_sdk::contract::content::Label;
use capstan_sdk::contract::graph::LABEL_ROOT;
use capstan_sdk::contract::images::{Leave, Put};
use capstan_sdk::contract::{Content, Images};
use capstan_sdk::{Descriptor, Labels, Link, Namespace, Result};
use tracing::warn;

/// Names an index. If that fails and the task has ended for the checkpoint, no collection takes this: it is all that there is
/// of the task.
///
/// # Errors
/// Those of [`Put`].
pub(crate) async fn name(
    (images, content): (&Link<Images>, &Link<Content>),
    namespace: &Namespace,
    image: String,
    index: Descriptor,
    has_ended: bool,
) -> Result<()> {
    let digest = index.digest.clone();
    let put =
        Put { namespace: namespace.clone(), name: image, target: index, leave: Leave::Unasked };
    let Err(error) = images.send(put).await else { return Ok(()) };
    if !has_ended {
        return Err(error.at(format_args!("checkpoint {digest} is stored without a name")));
    }
    let labels = Labels::from([(LABEL_ROOT.to_owned(), "checkpoint".to_owned())]);
    let label = Label { namespace: namespace.clone(), digest: digest.clone(), labels };
    if let Err(error) = content.send(label).await {
        warn!(%digest, %error, "a checkpoint without a name is not kept from being collected");
    }
    Err(error.at(format_args!(
        "checkpoint {digest} is stored without a name, and kept ({LABEL_ROOT}) because the task has ended"
    )))
}
