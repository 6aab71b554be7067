@0x9904bd1e9abee4c1;
using Common = import "common.capnp";

struct Candidate {
  # Something that nothing references any more.
  resource @0 :Text;              # "content/sha256:..", "snapshot/overlay/key"; no two alike in a call
  sizeBytes @1 :UInt64;
  lastUsedUnixNs @2 :Int64;
  labels @3 :List(Common.Label);
}

interface GcPolicy {
  # Says which of the resources that nothing references are spared for a while.

  judge @0 (candidates :List(Candidate), nowUnixNs :Int64, totalBytes :UInt64)
      -> (remove :List(Bool), error :Common.Error);
  # One answer per candidate, in their order: true = remove it now, false = keep it until asked again.
  # `totalBytes` is what all unreferenced resources take, also those that are not asked about.
  # The same question gets the same answer, in whatever order the candidates are; it changes nothing.
}
