@0xc28e7f41b6d0953a;
# What is stored. Structs only. A field is never removed or given another meaning; a new one must
# make sense with its default when an old record is read (EVOLUTION.md).

using Common = import "common.capnp";
using Stdio = import "task.capnp".Stdio;
using Evidence = import "verifier.capnp".Evidence;

struct NamespaceRecord {
  createdAtUnixNs @0 :Int64;
  labels @1 :List(Common.Label);
}

struct BlobRecord {
  size @0 :UInt64;
  createdAtUnixNs @1 :Int64;
  labels @2 :List(Common.Label);
  lastUsedAtUnixNs @3 :Int64;  # written now and then; 0 = not known
}

struct ImageRecord {
  target @0 :Common.Descriptor;
  createdAtUnixNs @1 :Int64;
  updatedAtUnixNs @2 :Int64;
  labels @3 :List(Common.Label);
  evidence @4 :List(Evidence); # for which verifiers let it; shown to them when it gets another name
}

struct SnapshotRecord {
  id @0 :UInt64;               # names its directory; unique per snapshotter, over all namespaces
  parent @1 :Text;
  kind @2 :UInt8;              # 0 active, 1 view, 2 committed
  createdAtUnixNs @3 :Int64;
  updatedAtUnixNs @4 :Int64;
  labels @5 :List(Common.Label);
  parentIds @6 :List(UInt64);  # immediate parent first
  sizeBytes @7 :UInt64;        # of its own
  lastUsedAtUnixNs @8 :Int64;  # written now and then; 0 = not known
  measured @9 :Bool;           # whether sizeBytes and inodes are known; only of committed ones
  inodes @10 :UInt64;
}

struct ContainerRecord {
  image @0 :Text;
  runtime @1 :Text;
  snapshotter @2 :Text;
  snapshotKey @3 :Text;
  spec @4 :Data;
  labels @5 :List(Common.Label);
  createdAtUnixNs @6 :Int64;
  updatedAtUnixNs @7 :Int64;
  ephemeral @8 :Bool;
  rootfs @9 :Text;
  restart @10 :Text;           # restart policy as users write it; empty = no
  storageBytes @11 :UInt64;    # limit of the writable layer; 0 = none
}

struct RestartRecord {
  # Of the task of a container that has a restart policy; the key is the container's id. It goes with
  # the task, when a user stops it, and when the policy gives up.
  stdio @0 :Stdio;
  wanted @1 :Bool;             # it is to run: a user started it, and nobody stopped it since
  restarts @2 :UInt32;         # how often it was started anew
  signal @3 :UInt32;           # the last one that a user sent to init; 0 = none
  signaledAtUnixNs @4 :Int64;
}

struct IngestRecord {
  # Beside an ingest's data, not in the database.
  namespace @0 :Text;
  ref @1 :Text;
  total @2 :UInt64;
  expected @3 :Text;
  startedAtUnixNs @4 :Int64;
  labels @5 :List(Common.Label);  # for the blob
  algorithm @6 :Text;          # empty = that of `expected`, or sha256
}

struct LeaseRecord {
  createdAtUnixNs @0 :Int64;
  expiresAtUnixNs @1 :Int64;   # 0 = never
  labels @2 :List(Common.Label);
  resources @3 :List(Text);    # "content/..", "snapshot/..", "image/.."; sorted
}

struct DeliveryRecord {
  # How far a sink is in the event log; the key is the sink's plugin id.
  cursor @0 :UInt64;           # the last event that it took
}

struct TaskRecord {
  # One entry of the file that a shim appends to, synced before anybody is told.
  atUnixNs @0 :Int64;
  union {
    shim @1 :ShimEntry;        # first entry, before anything else is done
    created @2 :CreatedEntry;
    started @3 :Void;
    exited @4 :UInt32;         # exit code, or 128 + signal
    deleted @5 :Void;
    paused @6 :Bool;           # true: frozen; false: it goes on
    creating @7 :CreatingEntry;  # the runtime is about to be called: there may be something of it
  }
  struct ShimEntry {
    pid @0 :UInt32;
    startTicks @1 :UInt64;     # field 22 of /proc/<pid>/stat: with the boot id, names the process
    bootId @2 :Text;
  }
  struct CreatingEntry {
    id @0 :Text;
    runtime @1 :Text;
    runtimeRoot @2 :Text;
    systemdCgroup @3 :Bool;
  }
  struct CreatedEntry {
    pid @0 :UInt32;
    startTicks @1 :UInt64;
    runtime @2 :Text;
    runtimeRoot @3 :Text;
    terminal @4 :Bool;
    stdin @5 :Text;
    stdout @6 :Text;
    stderr @7 :Text;
    cgroups @8 :List(Text);    # absolute directories, one per hierarchy
    id @9 :Text;
    attach @10 :Text;          # path of the attach socket; empty = there is none
    log @11 :Text;             # path of the log; empty = there is none
    logIsRaw @12 :Bool;
  }
}
