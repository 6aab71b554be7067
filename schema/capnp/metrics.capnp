@0x853db3e957a712ab;
using Common = import "common.capnp";

enum SampleKind {
  counter @0;    # only grows while the process lives that counts it
  gauge @1;      # goes up and down
}

struct Sample {
  name @0 :Text;                  # "capstan_process_resident_bytes": [a-z_][a-z0-9_]*, a counter ends in "_total"
  help @1 :Text;                  # one line
  kind @2 :SampleKind;
  labels @3 :List(Common.Label);  # in the order in which they are printed; no name twice
  value @4 :Float64;              # finite, in the unit that the name says
}

interface Metrics {
  collect @0 () -> (samples :List(Sample), error :Common.Error);
  # What the plugin counts and measures, now. No two samples have the same name and labels.
  # Nothing is measured between two calls; it may be called as often as one likes.
}
