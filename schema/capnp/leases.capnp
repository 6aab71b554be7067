@0xb8d1f03a5c6e2947;
using Common = import "common.capnp";

struct Lease {
  id @0 :Text;
  createdAtUnixNs @1 :Int64;
  expiresAtUnixNs @2 :Int64;   # by the wall clock; 0 = never
  labels @3 :List(Common.Label);
}

interface Leases {
  # What keeps things from garbage collection that nothing else references yet.
  #
  # A resource is "content/DIGEST", "snapshot/SNAPSHOTTER/KEY" or "image/NAME".

  create @0 (id :Text, expiresInNs :Int64, labels :List(Common.Label))
      -> (lease :Lease, error :Common.Error);
  # An empty `id` is a random one; `expiresInNs` 0 = never. AlreadyExists. InvalidArgument: no
  # identifier, or a time that has passed.

  get @1 (id :Text) -> (lease :Lease, error :Common.Error);
  # NotFound, also when it has expired.

  list @2 (page :Common.Page) -> (leases :List(Lease), next :Text, error :Common.Error);

  delete @3 (id :Text) -> (error :Common.Error);
  # What it alone kept goes with the next collection. NotFound.

  add @4 (id :Text, resource :Text) -> (error :Common.Error);
  # Has the lease keep something, which need not be there yet. Repeating it is fine. NotFound: the lease.

  remove @5 (id :Text, resource :Text) -> (error :Common.Error);
  # Lets go of it; that it did not keep it is fine. NotFound: the lease.

  resources @6 (id :Text) -> (resources :List(Text), error :Common.Error);
  # What it keeps, sorted. NotFound.

  hold @7 (owner :Text) -> (hold :Hold, error :Common.Error);
  # While the capability is held, what is used in this namespace (made, opened, found by an ingest, prepared on) is
  # kept. It ends when it is dropped or the connection does. `owner` is shown to people.
}

interface Hold {
  broken @0 () -> ();
  # Answers when this holds nothing any more, because the plugin behind it has ended: then begin anew.
}
