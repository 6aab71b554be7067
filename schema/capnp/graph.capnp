@0xb7d2e94f60c1a853;
# What owners say of their things, and what an audit finds. (contract `graph`)

using Common = import "common.capnp";

struct Node {
  resource @0 :Text;           # "content/sha256:...", "snapshot/overlay/key", "image/name", ...
  references @1 :List(Text);   # what it keeps; resources
  root @2 :Text;               # why it is kept by itself; empty = it is not
  size @3 :UInt64;             # bytes that go with it
  createdAtUnixNs @4 :Int64;
  usedAtUnixNs @5 :Int64;      # at least createdAtUnixNs
  labels @6 :List(Common.Label);
}

enum Flaw {
  missing @0;                  # a name without its bytes, or without what it needs
  damaged @1;                  # bytes that are not what they must be
  orphan @2;                   # bytes that nothing names
  leftover @3;                 # what an operation left behind
}

struct Finding {
  namespace @0 :Text;          # empty = of none, or of none that is known
  what @1 :Text;               # a resource, or a path
  flaw @2 :Flaw;
  detail @3 :Text;
}

interface Nodes {
  # An answer that may be longer than a message. It is as it was when it was asked for.
  next @0 () -> (nodes :List(Node), error :Common.Error);
  # The next ones; none at the end.
}

interface Findings {
  # As Nodes.
  next @0 () -> (findings :List(Finding), error :Common.Error);
}
