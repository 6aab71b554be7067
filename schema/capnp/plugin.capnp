@0xb5e1c04d93f7a268;
# Between the daemon and a plugin from outside: a shared library or a process of its own (plugins/sdk/ABI.md).
#
# The two share a byte stream that carries Cap'n Proto, and a second socket that carries descriptors.
# A descriptor goes ahead on that socket under a number; the number then comes in a message.

using Common = import "common.capnp";

struct Manifest {
  id @0 :Text;                 # "snapshotter.mine"
  version @1 :Text;            # the plugin's own
  about @2 :Text;              # one line
  requires @3 :List(Text);     # kinds and ids; with "?" behind it, optional
  rank @4 :Int32;              # the highest of a kind is the preferred one
  builtWith @5 :Text;          # compiler and SDK, for people
}

interface Plugin {
  # What a plugin answers to: the bootstrap capability of its side.

  describe @0 () -> (manifest :Manifest, error :Common.Error);
  # What it is. Nothing is started by it.

  complete @1 (section :Text) -> (section :Text, error :Common.Error);
  # Its configuration section, TOML, with the defaults filled in. InvalidArgument: an unknown key, a wrong value.

  start @2 (host :Host, section :Text, state :Data, log :LogLevel)
      -> (services :Services, provides :List(Text), error :Common.Error);
  # Makes the one instance. `section` is complete; `state` is what an instance before it handed over,
  # `log` the least level that the daemon wants to read.
  # FailedPrecondition: it was started before.

  health @3 () -> (error :Common.Error);
  # Whether it can do its work. An answer that does not come in time counts as an end.

  drain @4 () -> (state :Data, error :Common.Error);
  # It is about to be ended: no more calls come. Writes down what must last and answers what the next
  # instance should know.
}

interface Services {
  # One provider of one contract.

  open @0 (namespace :Text) -> (service :AnyPointer, error :Common.Error);
  # The interface of the kind, bound to a namespace if the kind's is.
}

enum Directory {
  root @0;                     # for what must survive a reboot
  state @1;                    # for what must not
}

enum LogLevel {
  error @0;
  warn @1;
  info @2;
  debug @3;
  trace @4;
}

struct LogRecord {
  level @0 :LogLevel;
  target @1 :Text;             # the module
  text @2 :Text;
}

interface Host {
  # What the daemon lends to one plugin: what its manifest asks for and nothing else.

  link @0 (target :Text) -> (services :Services, error :Common.Error);
  # Another plugin, by kind or id. PermissionDenied: the manifest does not require it. NotFound.

  directory @1 (which :Directory) -> (path :Text, descriptor :UInt64, error :Common.Error);
  # Its own directory, made at the first use, mode 0700: as a path, and as a descriptor.

  log @2 (records :List(LogRecord), dropped :UInt64) -> ();
  # For the daemon's log. `dropped` counts what was lost because the plugin wrote faster than that.

  ended @3 (reason :Text) -> ();
  # Its instance has ended, and why. The stream is closed next.
}
