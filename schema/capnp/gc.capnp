@0xd07c3be1946af528;
using Common = import "common.capnp";
using Access = import "transfer.capnp".Access;

struct Removed {
  namespace @0 :Text;          # empty = none: a blob whose record a crash has cost
  resource @1 :Text;           # "content/sha256:..", "snapshot/overlay/key"
  sizeBytes @2 :UInt64;        # that went with it; 0 for a blob that another namespace has too
}

struct Report {
  removed @0 :List(Removed);
  freedBytes @1 :UInt64;
  kept @2 :UInt64;             # things that a root reaches
  spared @3 :UInt64;           # things that no root reaches, and a policy spares
  tookNs @4 :UInt64;
  longestPauseNs @5 :UInt64;   # for which one owner was kept busy in one piece
}

struct Chain {
  # A way from a root to a thing: each link keeps the next.
  root @0 :Text;               # what makes the first one a root
  links @1 :List(Text);        # root first, the thing last
}

struct Room {
  kind @0 :Text;               # "content", "snapshots.overlay", "images", "containers", "leases", "ingests"
  count @1 :UInt64;
  sizeBytes @2 :UInt64;        # what namespaces share counts once
  reclaimable @3 :UInt64;      # of these, how many a collection would remove
  reclaimableBytes @4 :UInt64;
}

enum Flaw {
  missing @0;                  # a name without its bytes, or without something that it needs
  damaged @1;                  # bytes that are not what they must be
  orphan @2;                   # bytes without a name
  leftover @3;                 # a mount or file that an operation left behind
}

struct Finding {
  namespace @0 :Text;          # empty = none
  what @1 :Text;               # a resource, or a path
  flaw @2 :Flaw;
  detail @3 :Text;
}

struct Healed {
  finding @0 :Finding;
  isHealed @1 :Bool;
  outcome @2 :Text;            # what was done; or why nothing could be, and what to do
}

interface Gc {
  # The ownership graph: images, containers, leases, ingests and active snapshots are roots; what none of
  # them reaches is garbage.

  collect @0 (namespace :Text, dryRun :Bool) -> (report :Report, error :Common.Error);
  # Removes garbage, as far as the policy lets it go; with `dryRun` only tells. An empty namespace = all, and with them
  # the blobs that are in none. What was begun
  # is carried out, also when the caller goes away. Unavailable: an owner does not answer; nothing is removed then.

  why @1 (namespace :Text, resource :Text) -> (chains :List(Chain), error :Common.Error);
  # One chain for each root that reaches a thing, the nearest first, at most 32; none = it is garbage. Also takes a digest,
  # an image's name, a container's id and a snapshot's key. NotFound.

  usage @2 (namespace :Text) -> (rooms :List(Room), error :Common.Error);
  # An empty namespace = all.

  audit @3 (full :Bool) -> (findings :List(Finding), error :Common.Error);
  # Compares all that is stored with itself. With `full` every blob is hashed, and one that is damaged is put aside, so that
  # it is missing from then on; and the files of unpacked layers are compared with their blobs.

  heal @4 (full :Bool, access :Access) -> (healed :List(Healed), error :Common.Error);
  # An audit whose findings are repaired: orphans go, blobs are fetched again from where they came, files are put
  # back from their layer's blob, snapshots are unpacked again. Registries are asked
  # as whom `access` says; by http only where a blob came so. One entry for each finding.
}
