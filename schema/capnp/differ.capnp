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

  diff @2 (parent :List(Common.Mount), tree :List(Common.Mount), mediaType :Text, out :UInt64)
      -> (digest :Text, size :UInt64, diffId :Text, error :Common.Error);
  # `out` is a descriptor, a pipe: the differ closes it where the layer ends, before it answers.
  # Aborted: the tree was changed meanwhile. FailedPrecondition: a file that a layer cannot hold.
  # InvalidArgument: a media type that it cannot write. ResourceExhausted: a limit, which is named.

  verify @3 (layers :UInt64, mediaTypes :List(Text), mounts :List(Common.Mount), whiteouts :Whiteouts,
             isRepair :Bool) -> (differences :List(Difference), error :Common.Error);
  # `layers` is a descriptor, a pipe with all layers, one for each media type, top first: each is pieces,
  # and each piece has its length before it, four bytes, little-endian. A length of 0 ends a layer.
  # Corrupt: a layer cannot be read. ResourceExhausted: a limit, which is named.
}

struct Difference {
  path @0 :Data;
  what @1 :Text;               # `content`, `size`, `mode`, `missing`, ...
  isRepaired @2 :Bool;
}
