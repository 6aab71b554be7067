@0x9d4be0f1c85a3327;
using Common = import "common.capnp";

enum PluginState {
  starting @0;
  running @1;
  restarting @2;   # it ended by itself; a new instance follows after a back-off
  failed @3;       # it did not start, or gave up after too many restarts; `lastError` says why
  skipped @4;      # something that it requires is missing or failed
  disabled @5;     # the configuration denies it
  stopped @6;      # the daemon is going down
}

struct Plugin {
  id @0 :Text;                 # "snapshotter.overlay"
  state @1 :PluginState;
  source @2 :Text;             # "static", "cdylib" or "remote"
  version @3 :Text;
  restarts @4 :UInt32;         # since the daemon started
  about @5 :Text;
  requires @6 :List(Text);     # kinds and ids; optional ones end with "?"
  provides @7 :List(Text);     # contracts
  lastError @8 :Text;
  generation @9 :UInt64;       # grows with each instance
  calls @10 :UInt64;           # typed messages answered
  failures @11 :UInt64;        # of them, those lost in a panic or a dead instance
  config @12 :Text;            # TOML in effect
  startedAtUnixNs @13 :Int64;  # of this instance; 0 = not running
}

struct Info {
  version @0 :Text;
  revision @1 :Text;
  pid @2 :UInt32;
  root @3 :Text;
  state @4 :Text;
  address @5 :Text;
  startedAtUnixNs @6 :Int64;
  kernel @7 :Text;             # uname -r
  architecture @8 :Text;       # uname -m
  cgroup @9 :Text;             # "v1", "v2" or "hybrid"
  cpus @10 :UInt32;
  memoryBytes @11 :UInt64;
  pluginsRunning @12 :UInt32;
  pluginsTotal @13 :UInt32;
}

interface Introspection {
  plugins @0 () -> (plugins :List(Plugin), error :Common.Error);
  # All registered plugins, in start order.

  plugin @1 (id :Text) -> (plugin :Plugin, error :Common.Error);
  # NotFound.

  info @2 () -> (info :Info, error :Common.Error);
}
