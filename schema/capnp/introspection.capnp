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
  replacing @7;    # it was told to restart or is being replaced: calls wait for the next instance
  degraded @8;     # it runs, and something that it requires does not; `degraded` says what
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
  abi @14 :UInt32;             # of the boundary behind which it is; 0 = compiled in
  origin @15 :Text;            # file, command or socket; empty = compiled in
  builtWith @16 :Text;         # compiler and SDK, as it says itself
  degraded @17 :Text;
  mailbox @18 :UInt32;         # calls that it has and did not answer yet
  latencyP50Ns @19 :UInt64;    # of its answers since the daemon started, to a quarter of a power of two; 0 = none
  latencyP99Ns @20 :UInt64;
  blackoutNs @21 :UInt64;      # for how long it did not answer when it was last restarted or replaced
  rights @22 :List(Text);      # what it can reach: plugins, directories
  pid @23 :UInt32;             # of its process; 0 = the daemon's
  memoryBytes @24 :UInt64;     # of its process; 0 = the daemon's
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

  restart @3 (id :Text) -> (error :Common.Error);
  # Ends the instance once it has answered what it has, and makes a new one; answers when that is ready. A plugin
  # that had failed is tried again. If the new one does not come up: its error, and the plugin is tried again later.
  # FailedPrecondition: the configuration denies it.

  load @4 (path :Text, isolated :Bool) -> (id :Text, error :Common.Error);
  # Adds a plugin from a shared library (absolute path), now and at each boot. `isolated`: in a process of its own.
  # The daemon keeps a copy. PermissionDenied: others than root could have changed the file. Corrupt: it is no
  # shared library. InvalidArgument: it is no plugin, or of another ABI. AlreadyExists: its id is taken.
  # FailedPrecondition: a circle of requirements.

  replace @5 (id :Text, path :Text) -> (error :Common.Error);
  # Puts a library in the place of a plugin. If it does not become ready the plugin is as it was, and
  # the error says why. As `load` otherwise. InvalidArgument: the library is of another id.

  unload @6 (id :Text) -> (error :Common.Error);
  # Ends a plugin that was loaded, and forgets it; a built-in one that was replaced is itself again.
  # FailedPrecondition: it is neither, or is named in the configuration.

  reload @7 () -> (changed :List(Text), error :Common.Error);
  # Reads the configuration anew, as SIGHUP does: restarts what changed, all or nothing.
}
