//! `Snapshotter` of snapshot.capnp.

use std::rc::Rc;

use capnp::capability::Client;
use capstan_schema::{
    Mount, Namespace, Result, read_labels, read_texts, snapshot_capnp as wire, write_labels,
    write_texts,
};

use super::{answer, graph, length, page, text};
use crate::Link;
use crate::contract::Snapshotter;
use crate::contract::snapshotter::{
    Ask, Audit, Collect, Commit, CommitChain, Kind, Label, List, Measure, Mounts, Nodes, OwnLayer,
    Prepare, Remove, SnapshotInfo, Stack, StackLayer, Stat, Use, View,
};

struct Server {
    link: Link<Snapshotter>,
    namespace: Namespace,
}

/// The interface for one peer, bound to a namespace.
pub fn serve(link: Link<Snapshotter>, namespace: Namespace) -> Client {
    capnp_rpc::new_client::<wire::snapshotter::Client, _>(Server { link, namespace }).client
}

pub(crate) fn write_mounts(
    mounts: &[Mount],
    mut list: capnp::struct_list::Builder<'_, capstan_schema::common_capnp::mount::Owned>,
) {
    for (index, mount) in (0..).zip(mounts) {
        mount.write(list.reborrow().get(index));
    }
}

fn write_info(info: &SnapshotInfo, mut out: wire::snapshot_info::Builder<'_>) {
    out.set_key(&info.key);
    out.set_parent(&info.parent);
    out.set_kind(match info.kind {
        Kind::Active => wire::SnapshotKind::Active,
        Kind::View => wire::SnapshotKind::View,
        Kind::Committed => wire::SnapshotKind::Committed,
    });
    out.set_created_at_unix_ns(info.created_at_unix_ns);
    out.set_updated_at_unix_ns(info.updated_at_unix_ns);
    let count = u32::try_from(info.labels.len()).expect("labels are few");
    write_labels(&info.labels, out.init_labels(count));
}

impl wire::snapshotter::Server for Server {
    async fn prepare(
        self: Rc<Self>,
        params: wire::snapshotter::PrepareParams,
        mut results: wire::snapshotter::PrepareResults,
    ) -> capnp::Result<()> {
        let work = async {
            let params = params.get()?;
            let message = Prepare {
                namespace: self.namespace.clone(),
                key: text(params.get_key())?,
                parent: text(params.get_parent())?,
                labels: read_labels(params.get_labels()?)?,
            };
            self.link.send(message).await
        };
        answer!(results, work, |out, mounts| write_mounts(
            &mounts,
            out.init_mounts(length(&mounts))
        ))
    }

    async fn view(
        self: Rc<Self>,
        params: wire::snapshotter::ViewParams,
        mut results: wire::snapshotter::ViewResults,
    ) -> capnp::Result<()> {
        let work = async {
            let params = params.get()?;
            let message = View {
                namespace: self.namespace.clone(),
                key: text(params.get_key())?,
                parent: text(params.get_parent())?,
                labels: read_labels(params.get_labels()?)?,
            };
            self.link.send(message).await
        };
        answer!(results, work, |out, mounts| write_mounts(
            &mounts,
            out.init_mounts(length(&mounts))
        ))
    }

    async fn mounts(
        self: Rc<Self>,
        params: wire::snapshotter::MountsParams,
        mut results: wire::snapshotter::MountsResults,
    ) -> capnp::Result<()> {
        let work = async {
            let key = text(params.get()?.get_key())?;
            self.link.send(Mounts { namespace: self.namespace.clone(), key }).await
        };
        answer!(results, work, |out, mounts| write_mounts(
            &mounts,
            out.init_mounts(length(&mounts))
        ))
    }

    async fn commit(
        self: Rc<Self>,
        params: wire::snapshotter::CommitParams,
        mut results: wire::snapshotter::CommitResults,
    ) -> capnp::Result<()> {
        let work = async {
            let params = params.get()?;
            let message = Commit {
                namespace: self.namespace.clone(),
                name: text(params.get_name())?,
                key: text(params.get_key())?,
                rebase: match params.get_rebase() {
                    true => Some(text(params.get_parent())?),
                    false => None,
                },
                labels: read_labels(params.get_labels()?)?,
            };
            self.link.send(message).await
        };
        answer!(results, work)
    }

    async fn remove(
        self: Rc<Self>,
        params: wire::snapshotter::RemoveParams,
        mut results: wire::snapshotter::RemoveResults,
    ) -> capnp::Result<()> {
        let work = async {
            let key = text(params.get()?.get_key())?;
            self.link.send(Remove { namespace: self.namespace.clone(), key }).await
        };
        answer!(results, work)
    }

    async fn stat(
        self: Rc<Self>,
        params: wire::snapshotter::StatParams,
        mut results: wire::snapshotter::StatResults,
    ) -> capnp::Result<()> {
        let work = async {
            let key = text(params.get()?.get_key())?;
            self.link.send(Stat { namespace: self.namespace.clone(), key }).await
        };
        answer!(results, work, |out, info| write_info(&info, out.init_info()))
    }

    async fn list(
        self: Rc<Self>,
        params: wire::snapshotter::ListParams,
        mut results: wire::snapshotter::ListResults,
    ) -> capnp::Result<()> {
        let work = async {
            let page = page(params.get()?.get_page())?;
            self.link.send(List { namespace: self.namespace.clone(), page }).await
        };
        answer!(results, work, |out, listed| {
            out.set_next(&listed.next);
            let mut list = out.init_snapshots(length(&listed.items));
            for (index, info) in (0..).zip(&listed.items) {
                write_info(info, list.reborrow().get(index));
            }
        })
    }

    async fn usage(
        self: Rc<Self>,
        params: wire::snapshotter::UsageParams,
        mut results: wire::snapshotter::UsageResults,
    ) -> capnp::Result<()> {
        let work = async {
            let key = text(params.get()?.get_key())?;
            self.link.send(Measure { namespace: self.namespace.clone(), key }).await
        };
        answer!(results, work, |out, usage| {
            out.set_size(usage.size);
            out.set_inodes(usage.inodes);
        })
    }

    async fn abilities(
        self: Rc<Self>,
        _params: wire::snapshotter::AbilitiesParams,
        mut results: wire::snapshotter::AbilitiesResults,
    ) -> capnp::Result<()> {
        let work = self.link.send(Ask);
        answer!(results, work, |out, abilities| {
            out.set_can_rebase(abilities.can_rebase);
            out.set_can_chain(abilities.can_chain);
            out.set_can_limit(abilities.can_limit);
        })
    }

    async fn label(
        self: Rc<Self>,
        params: wire::snapshotter::LabelParams,
        mut results: wire::snapshotter::LabelResults,
    ) -> capnp::Result<()> {
        let work = async {
            let params = params.get()?;
            let labels = read_labels(params.get_labels()?)?;
            let key = text(params.get_key())?;
            self.link.send(Label { namespace: self.namespace.clone(), key, labels }).await
        };
        answer!(results, work, |out, info| write_info(&info, out.init_info()))
    }

    async fn note_use(
        self: Rc<Self>,
        params: wire::snapshotter::NoteUseParams,
        mut results: wire::snapshotter::NoteUseResults,
    ) -> capnp::Result<()> {
        let work = async {
            let params = params.get()?;
            let key = text(params.get_key())?;
            self.link.send(Use { namespace: self.namespace.clone(), key }).await
        };
        answer!(results, work, |out, info| write_info(&info, out.init_info()))
    }

    async fn collect(
        self: Rc<Self>,
        params: wire::snapshotter::CollectParams,
        mut results: wire::snapshotter::CollectResults,
    ) -> capnp::Result<()> {
        let work = async {
            let params = params.get()?;
            let message = Collect {
                namespace: self.namespace.clone(),
                keys: read_texts(params.get_keys()?)?,
                unused_since_unix_ns: params.get_unused_since_unix_ns(),
            };
            self.link.send(message).await
        };
        answer!(results, work, |out, collected| {
            out.set_freed(collected.freed);
            write_texts(&collected.removed, out.init_removed(length(&collected.removed)));
        })
    }

    async fn nodes(
        self: Rc<Self>,
        _params: wire::snapshotter::NodesParams,
        mut results: wire::snapshotter::NodesResults,
    ) -> capnp::Result<()> {
        let work = self.link.send(Nodes(self.namespace.clone()));
        answer!(results, work, |out, nodes| out.set_nodes(graph::nodes(nodes)))
    }

    async fn audit(
        self: Rc<Self>,
        params: wire::snapshotter::AuditParams,
        mut results: wire::snapshotter::AuditResults,
    ) -> capnp::Result<()> {
        let work = async {
            let params = params.get()?;
            let (is_full, is_cleaning) = (params.get_full(), params.get_repair());
            self.link.send(Audit { is_full, is_cleaning }).await
        };
        answer!(results, work, |out, findings| out.set_findings(graph::findings(findings)))
    }

    async fn own_layer(
        self: Rc<Self>,
        params: wire::snapshotter::OwnLayerParams,
        mut results: wire::snapshotter::OwnLayerResults,
    ) -> capnp::Result<()> {
        let work = async {
            let key = text(params.get()?.get_key())?;
            self.link.send(OwnLayer { namespace: self.namespace.clone(), key }).await
        };
        answer!(results, work, |out, mounts| write_mounts(
            &mounts,
            out.init_mounts(length(&mounts))
        ))
    }

    async fn stack(
        self: Rc<Self>,
        params: wire::snapshotter::StackParams,
        mut results: wire::snapshotter::StackResults,
    ) -> capnp::Result<()> {
        let work = async {
            let layer = |layer: wire::stack_layer::Reader<'_>| -> Result<StackLayer> {
                Ok(StackLayer { key: text(layer.get_key())?, name: text(layer.get_name())? })
            };
            let layers = params.get()?.get_layers()?.iter().map(layer).collect::<Result<_>>()?;
            self.link.send(Stack { namespace: self.namespace.clone(), layers }).await
        };
        answer!(results, work, |out, mounts| write_mounts(
            &mounts,
            out.init_mounts(length(&mounts))
        ))
    }

    async fn commit_chain(
        self: Rc<Self>,
        params: wire::snapshotter::CommitChainParams,
        mut results: wire::snapshotter::CommitChainResults,
    ) -> capnp::Result<()> {
        let work = async {
            let commit = |commit: wire::commit::Reader<'_>| -> Result<Commit> {
                Ok(Commit {
                    namespace: self.namespace.clone(),
                    name: text(commit.get_name())?,
                    key: text(commit.get_key())?,
                    rebase: match commit.get_rebase() {
                        true => Some(text(commit.get_parent())?),
                        false => None,
                    },
                    labels: read_labels(commit.get_labels()?)?,
                })
            };
            let commits = params.get()?.get_commits()?.iter().map(commit).collect::<Result<_>>()?;
            self.link.send(CommitChain(commits)).await
        };
        answer!(results, work)
    }
}
