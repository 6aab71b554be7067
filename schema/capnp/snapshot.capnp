@0xd97b3c60a1f8e245;
using Common = import "common.capnp";
using Graph = import "graph.capnp";

enum SnapshotKind {
  active @0;      # writable, from prepare
  view @1;        # read-only, from view
  committed @2;   # immutable, can be a parent
}

struct SnapshotInfo {
  key @0 :Text;
  parent @1 :Text;             # empty = none
  kind @2 :SnapshotKind;
  createdAtUnixNs @3 :Int64;
  updatedAtUnixNs @4 :Int64;
  labels @5 :List(Common.Label);
}

struct StackLayer {
  key @0 :Text;                # while it is active
  name @1 :Text;               # once it is committed
}

struct Commit {
  # The parameters of `Snapshotter.commit`.
  name @0 :Text;
  key @1 :Text;
  labels @2 :List(Common.Label);
  rebase @3 :Bool;
  parent @4 :Text;
}

interface Snapshotter {
  # Copy-on-write file trees. Active keys and committed names share one key space per namespace.
  # NotFound, AlreadyExists and InvalidArgument as one expects for keys.

  prepare @0 (key :Text, parent :Text, labels :List(Common.Label))
      -> (mounts :List(Common.Mount), error :Common.Error);
  # A writable tree on top of `parent` (empty = on nothing). NotFound: parent.
  # InvalidArgument: the parent is not committed. AlreadyExists: key. With the label capstan/size, "10m" for example,
  # InvalidArgument: it is no size; Unimplemented: it is not kept here, and nothing was made.

  view @1 (key :Text, parent :Text, labels :List(Common.Label))
      -> (mounts :List(Common.Mount), error :Common.Error);

  mounts @2 (key :Text) -> (mounts :List(Common.Mount), error :Common.Error);
  # Of an active snapshot or a view. FailedPrecondition: committed.

  commit @3 (name :Text, key :Text, labels :List(Common.Label), rebase :Bool, parent :Text)
      -> (error :Common.Error);
  # Syncs the tree and makes it immutable under `name`; `key` is consumed,
  # and its labels with it. FailedPrecondition: `key` is committed, or a view. AlreadyExists: name.
  # With `rebase` it is put on `parent`; Unimplemented unless `canRebase`.

  remove @4 (key :Text) -> (error :Common.Error);
  # FailedPrecondition: it has children.

  stat @5 (key :Text) -> (info :SnapshotInfo, error :Common.Error);

  list @6 (page :Common.Page) -> (snapshots :List(SnapshotInfo), next :Text, error :Common.Error);

  usage @7 (key :Text) -> (size :UInt64, inodes :UInt64, error :Common.Error);
  # Of the snapshot's own data, without its parents: apparent bytes, each inode counted once.

  abilities @8 () -> (canRebase :Bool, canChain :Bool, error :Common.Error, canLimit :Bool);
  # What it can do beyond the rest. canRebase: a tree that was prepared on nothing and filled with a layer in
  # overlay form can be put on a parent at commit. canChain: `stack` and `commitChain`.
  # canLimit: the label capstan/size of an active snapshot, which limits the bytes that it takes, where the file system can.

  label @9 (key :Text, labels :List(Common.Label)) -> (info :SnapshotInfo, error :Common.Error);
  # Sets these and keeps the others; an empty value removes the key. NotFound. capstan/size changes the limit of an
  # active snapshot; FailedPrecondition: it was made without one.

  noteUse @10 (key :Text) -> (info :SnapshotInfo, error :Common.Error);
  # As stat, and it is not collected by a run that has begun already.

  collect @11 (keys :List(Text), unusedSinceUnixNs :Int64)
      -> (removed :List(Text), freed :UInt64, error :Common.Error);
  # Removes those that nobody used since then and that have no children when their turn comes.

  nodes @12 () -> (nodes :Graph.Nodes, error :Common.Error);
  # The snapshots of this namespace, for the ownership graph.

  audit @13 (full :Bool, repair :Bool) -> (findings :Graph.Findings, error :Common.Error);
  # Compares records with what lies on disk, of all namespaces. With `repair` what nothing names is removed.

  ownLayer @14 (key :Text) -> (mounts :List(Common.Mount), error :Common.Error);
  # The snapshot's own layer, writable, whatever its kind. NotFound. Unimplemented: it has none that could be mounted.

  stack @15 (layers :List(StackLayer)) -> (mounts :List(Common.Mount), error :Common.Error);
  # Layers on each other, topmost first, to be read: active snapshots that were prepared on nothing, in overlay form,
  # and at the bottom one that is committed, with all that it stands on. What is committed meanwhile counts under its
  # name. NotFound. InvalidArgument: nothing is named, or an active one stands on something. Unimplemented unless `canChain`.

  commitChain @16 (commits :List(Commit)) -> (error :Common.Error);
  # As `commit` for each of these in order, with one sync, and all or none of them. One may be put on another
  # before it. Unimplemented unless `canChain`.
}
