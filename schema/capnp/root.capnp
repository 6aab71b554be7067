@0xe1f2a7350c6b4d92;
# The bootstrap capability of a connection.

using Common = import "common.capnp";

interface Root {
  # What a peer holds after connecting. It knows no service by name: plugins register theirs.

  open @0 (service :Text, namespace :Text) -> (service :AnyPointer, error :Common.Error);
  # Opens one service, bound to one namespace.
  #
  # `service` is a kind ("images", "snapshotter": the preferred plugin of that kind) or a plugin id
  # ("snapshotter.native"). `namespace` may be empty only for services that have none
  # (namespaces, introspection, health, version, metrics, sink, gc-policy, verifier). The capability stays
  # usable over a restart of the plugin behind it; calls made while it is down fail Unavailable.
  #
  # NotFound: no plugin offers this service. InvalidArgument: bad namespace.
  # FailedPrecondition: the service needs a namespace. Unavailable: the plugin is not running.
}
