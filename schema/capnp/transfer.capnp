@0xbc0d4e96f7a25138;
using Common = import "common.capnp";
using Image = import "image.capnp".Image;

enum ItemState {
  waiting @0;
  downloading @1;
  extracting @2;
  done @3;
  exists @4;      # it was there before
}

struct Item {
  # The state of one descriptor.
  name @0 :Text;               # "layer-sha256:...", "manifest-sha256:...", ...
  state @1 :ItemState;
  offset @2 :UInt64;           # bytes so far
  total @3 :UInt64;            # bytes in all; 0 = not known
}

interface Progress {
  # Implemented by the client. The next update is sent when the previous one was answered, and each
  # holds the newest state of all items, so a slow client gets fewer of them and delays nothing.
  update @0 (items :List(Item)) -> ();
}

struct PullOptions {
  platform @0 :Text;           # "os/arch[/variant]"; empty = the host's
  plainHttp @1 :Bool;
  snapshotter @2 :Text;        # name without kind; empty = the preferred one
  noUnpack @3 :Bool;
  concurrency @4 :UInt32;      # layers fetched at once; 0 = the configured default
}

interface Transfer {
  pull @0 (reference :Text, options :PullOptions, progress :Progress)
      -> (image :Image, error :Common.Error);
  # Resolve, fetch, verify, unpack, then name. Dropping the call cancels it. After a failure nothing
  # half-made is left: no name, no snapshot, no ingest. Pulls of the same thing at the same time
  # share one fetch and one unpack.
  #
  # InvalidArgument: reference or platform. NotFound: the registry has no such image, or none for
  # the platform. Unavailable: the registry cannot be reached, or broke off. Corrupt: what it sent
  # does not match digest or size, or is no valid layer. PermissionDenied: it wants credentials.
  # ResourceExhausted: disk, or a limit on sizes.

  unpack @1 (image :Text, platform :Text, snapshotter :Text) -> (chainId :Text, error :Common.Error);
  # Makes the snapshots of an image that is present. Idempotent.
}
