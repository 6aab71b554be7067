@0x827e6cde23fb323e;
using Common = import "common.capnp";
using Event = import "event.capnp";

interface Sink {
  # Where events go. The daemon is the caller and keeps, for each sink, the cursor of what it has taken.

  deliver @0 (events :List(Event.Event)) -> (error :Common.Error);
  # Takes events, in the order of their cursors, each at least once. When it answers without an error,
  # the sink has them all (on disk, if it keeps them). After an error, or when the caller went away
  # before the answer, the same events come again. An empty list is fine.
  # InvalidArgument: the cursors do not grow.
}
