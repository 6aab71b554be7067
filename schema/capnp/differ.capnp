@0xe84b17c6a90d35f2;
# A differ outside of the daemon's program.

using Common = import "common.capnp";

enum Whiteouts {
  remove @0;                   # the target shows the parents: remove what a whiteout names
  overlay @1;                  # the target is one layer of an overlay: write its form of deletions
}

struct Pending {
  directories @0 :List(Data);  # paths, as bytes
  links @1 :List(Link);
  struct Link {
    link @0 :Data;
    target @1 :Data;
  }
}

interface Differ {
  apply @0 (layer :UInt64, mediaType :Text, mounts :List(Common.Mount), whiteouts :Whiteouts)
      -> (diffId :Text, size :UInt64, pending :Pending, error :Common.Error);
  # `layer` is a descriptor: a pipe that ends where the layer does.

  settle @1 (layer :List(Common.Mount), parent :List(Common.Mount), pending :Pending) -> (error :Common.Error);
}
