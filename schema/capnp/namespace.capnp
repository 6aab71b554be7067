@0xc6d81f5e20b94a73;
using Common = import "common.capnp";

struct Namespace {
  name @0 :Text;
  labels @1 :List(Common.Label);
  createdAtUnixNs @2 :Int64;
}

interface Namespaces {
  # A namespace exists from its creation, explicit or by the first object in it, until its removal.

  create @0 (name :Text, labels :List(Common.Label)) -> (namespace :Namespace, error :Common.Error);
  # InvalidArgument: not an identifier. AlreadyExists.

  get @1 (name :Text) -> (namespace :Namespace, error :Common.Error);
  # NotFound.

  list @2 (page :Common.Page) -> (namespaces :List(Namespace), next :Text, error :Common.Error);
  # `next` is the `after` of the following page; empty at the end.

  label @3 (name :Text, labels :List(Common.Label)) -> (namespace :Namespace, error :Common.Error);
  # Sets the given labels and keeps the others; an empty value removes the key. NotFound.

  delete @4 (name :Text) -> (error :Common.Error);
  # FailedPrecondition: it still holds images, containers, snapshots or content. NotFound.

  update @5 (namespace :Namespace, mask :List(Text)) -> (namespace :Namespace, error :Common.Error);
  # Changes what `mask` names and nothing else: "labels" (all are replaced), "labels.<key>" (the rest is the key,
  # dots and all; an empty value removes it). Empty = labels. Two updates at once both happen. NotFound.
  # InvalidArgument: another field.
}
