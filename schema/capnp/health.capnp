@0xb7e05a91d2c3f864;
using Common = import "common.capnp";

interface Health {
  check @0 (plugin :Text) -> (serving :Bool, detail :Text, error :Common.Error);
  # Empty `plugin`: the daemon itself; serving means it answers and no plugin has given up or failed
  # to start; `detail` names those that have. With an id: that plugin. NotFound: no such plugin.
}
