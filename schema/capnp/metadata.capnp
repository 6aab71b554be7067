@0x93a6d0f1c2b8e547;
# Records of a plugin, for plugins outside of the daemon's program. A plugin reaches the buckets that
# are called like its id or its kind, or begin with its id and a slash, and may read the namespaces. The
# topics of its events are those of its kind.

using Common = import "common.capnp";
using Event = import "event.capnp";

struct Key {
  bucket @0 :Text;
  namespace @1 :Text;          # empty = none
  name @2 :Text;
}

struct Step {
  # Steps are taken in order; the first guard that fails undoes all.
  key @0 :Key;
  union {
    absent @1 :Common.Error;   # a guard, and what the caller is told if it fails
    present @2 :Common.Error;
    equals @3 :Equals;
    emptyNamespace @4 :Void;   # of `key`
    put @5 :Data;
    delete @6 :Void;
  }
  struct Equals {
    value @0 :Data;
    error @1 :Common.Error;
  }
}

struct Row {
  key @0 :Key;
  value @1 :Data;
}

interface Metadata {
  # PermissionDenied: a bucket or a topic of somebody else's.

  commit @0 (steps :List(Step), events :List(Event.NewEvent)) -> (cursor :UInt64, error :Common.Error);
  # All or nothing; what was answered survives a power cut. Errors: those of the guards.

  get @1 (key :Key) -> (found :Bool, value :Data, error :Common.Error);

  scan @2 (bucket :Text, namespace :Text, page :Common.Page) -> (rows :List(Row), error :Common.Error);
  # In byte order of their names. A page is at most 1,000 rows and 4 MiB; fewer rows than asked for and
  # more to come is possible: go on behind the last until none come.

  scanAll @3 (bucket :Text, after :Key) -> (rows :List(Row), more :Bool, error :Common.Error);
  # Of all namespaces, behind `after` (null = from the start).
}
