//! Changes of a record: what the mask names, and nothing else. Two changes at once both happen.

use capstan_sdk::contract::events::NewEvent;
use capstan_sdk::contract::images::{Image, Label, Update};
use capstan_sdk::revise::{Revision, revise};
use capstan_sdk::{Error, Labels, Namespace, Result, clock, merge_labels};

use crate::plugin::{LocalImages, missing, named};
use crate::record;

/// What an empty mask means.
const ALL: [&str; 2] = ["labels", "target"];

fn change_field(image: &mut Image, update: &Update, field: &str) -> Result<()> {
    match (field, &update.target) {
        ("labels", _) => image.labels = update.labels.clone(),
        ("target", Some(target)) => image.target = target.clone(),
        ("target", None) => return Err(Error::invalid("target: it is not given")),
        (field, _) => match field.strip_prefix("labels.") {
            Some(key) if !key.is_empty() => {
                let value = update.labels.get(key).cloned().unwrap_or_default();
                merge_labels(&mut image.labels, &Labels::from([(key.into(), value)]));
            }
            _ => {
                return Err(Error::invalid(format!(
                    "cannot update {field:?} field: name {} or labels.KEY",
                    ALL.join(", ")
                )));
            }
        },
    }
    Ok(())
}

impl LocalImages {
    pub(crate) async fn label(self, label: Label) -> Result<Image> {
        let Label { namespace, name, labels } = label;
        self.change(&namespace, &name, |image| {
            merge_labels(&mut image.labels, &labels);
            Ok(())
        })
        .await
    }

    pub(crate) async fn update(self, update: Update) -> Result<Image> {
        let mask = match update.mask.is_empty() {
            true => ALL.map(str::to_owned).to_vec(),
            false => update.mask.clone(),
        };
        if let (Some(target), true) = (&update.target, mask.iter().any(|field| field == "target")) {
            // What has no name gets none by this.
            self.stored(&update.namespace, &update.name).await?;
            self.permit(&update.namespace, &update.name, target, Vec::new()).await?;
        }
        let change = |image: &mut Image| {
            mask.iter().try_for_each(|field| change_field(image, &update, field))
        };
        self.change(&update.namespace, &update.name, change).await
    }

    async fn change(
        &self,
        namespace: &Namespace,
        name: &str,
        change: impl Fn(&mut Image) -> Result<()>,
    ) -> Result<Image> {
        revise(&self.metadata, &named(namespace, name)?, |old| {
            let old = old.ok_or_else(|| missing(name))?;
            let mut image = record::read(name, old).map_err(|error| error.at(name))?;
            let digest = image.target.digest.clone();
            change(&mut image)?;
            let evidence = match image.target.digest == digest {
                true => record::evidence(old).map_err(|error| error.at(name))?,
                false => Vec::new(),
            };
            image.updated_at_unix_ns = clock::now_unix_ns();
            let labels: Vec<String> =
                image.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
            let event = NewEvent::new(namespace, "/images/update")
                .with("name", name)
                .with("digest", &image.target.digest)
                .with("labels", labels.join(","));
            Ok(Revision::write(record::write(&image, &evidence), image).with(event))
        })
        .await
    }
}
