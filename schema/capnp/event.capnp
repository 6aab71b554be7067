@0x8f23b6d47ae10c95;
using Common = import "common.capnp";

struct Event {
  cursor @0 :UInt64;       # position in the daemon's one total order; starts at 1, never reused
  timeUnixNs @1 :Int64;
  namespace @2 :Text;
  topic @3 :Text;          # "/tasks/exit"
  fields @4 :List(Common.Label);  # what happened, by topic: id, pid, exitStatus, ...
}

struct NewEvent {
  # An event before it is logged.
  namespace @0 :Text;          # empty = it concerns all
  topic @1 :Text;
  fields @2 :List(Common.Label);
}

interface EventLog {
  # The log for plugins outside of the daemon's program.

  publish @0 (events :List(NewEvent)) -> (cursor :UInt64, error :Common.Error);
  # In order and at once; answers the cursor of the last. Durable when answered.

  read @1 (after :UInt64, limit :UInt32, namespace :Text, topics :List(Text))
      -> (events :List(Event), cursor :UInt64, missed :UInt64, error :Common.Error);
  # Matching events behind a cursor. Does not wait. Empty namespace = every one.

  head @2 (beyond :UInt64) -> (cursor :UInt64, error :Common.Error);
  # The newest cursor, once it is beyond that.
}

interface Events {
  subscribe @0 (after :UInt64, fromNow :Bool, allNamespaces :Bool, filters :List(Text))
      -> (subscription :Subscription, cursor :UInt64, error :Common.Error);
  # Follows the log from behind cursor `after` (0 = the oldest kept), or from the present if
  # `fromNow`. `cursor` is the newest one at the time of the call.
  # A filter is a topic prefix ("/tasks/"); several are alternatives; none = everything.
  # The namespace is that of the service unless `allNamespaces`.
  # FailedPrecondition: the log ends before that cursor, which is of another one that was lost.

  publish @1 (topic :Text, fields :List(Common.Label)) -> (cursor :UInt64, error :Common.Error);
  # Appends an event of the caller's own. InvalidArgument: the topic does not start with "/".
}

interface Subscription {
  # Dropping it ends it. It holds no buffer: a slow reader costs the daemon nothing.

  next @0 (limit :UInt32, waitMillis :UInt32)
      -> (events :List(Event), missed :UInt64, error :Common.Error);
  # Up to `limit` (0 = 100, at most 1000) events in order. Waits for the first at most `waitMillis`
  # (0 = do not wait); an empty list means there is none yet.
  # `missed` counts the events that had been trimmed from the log before this reader got to them.
}
