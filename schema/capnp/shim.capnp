@0xfa15c7d3826e9b40;
# Between daemon and shim: one shim, one task. The peer of a shim is a daemon of the same build or
# of a later one: new methods and fields only at the end.

using Common = import "common.capnp";
using Task = import "task.capnp";

struct RawMount {
  # Ready for mount(2): the words were parsed by the daemon.
  type @0 :Text;
  source @1 :Text;
  flags @2 :UInt64;
  data @3 :Text;
  readOnlyBind @4 :Bool;       # a bind must be remounted to become read-only
  workdir @5 :Text;            # where relative paths in `data` start; empty = there are none
}

struct CreateParams {
  id @0 :Text;
  runtime @1 :Text;            # absolute path of an OCI runtime
  runtimeRoot @2 :Text;        # its --root
  systemdCgroup @3 :Bool;
  rootfs @4 :List(RawMount);   # mounted in order on ./rootfs in the shim's own mount namespace
  stdio @5 :Task.Stdio;
  terminal @6 :Bool;
  hideUnifiedCgroup @7 :Bool;  # crun refuses the hybrid cgroup layout: show it v1 alone
  checkpoint @8 :Text;         # not empty: `start` restores from this directory
  criu @10 :Text;              # absolute path of the criu that the runtime uses; empty = it looks in PATH
  idMappings @9 :List(IdMapping);
  # Not empty: the mounts of `rootfs` are such that ids on disk are ids of this user namespace.
}

struct IdMapping {
  isGroup @0 :Bool;
  container @1 :UInt32;
  host @2 :UInt32;
  size @3 :UInt32;
}

struct State {
  # What the shim knows.
  status @0 :Task.Status;
  pid @1 :UInt32;
  exit @2 :Task.Exit;          # null unless stopped
  created @3 :Bool;            # false: create has not succeeded (yet)
  droppedLogBytes @4 :UInt64;  # output that could not be written to the log
  starting @5 :Bool;           # a start is under way
}

interface Shim {
  create @0 (params :CreateParams) -> (pid :UInt32, error :Common.Error);
  start @1 () -> (pid :UInt32, error :Common.Error);
  wait @2 (execId :Text) -> (exit :Task.Exit, error :Common.Error);
  # Empty execId: the init process.
  kill @3 (execId :Text, signal :UInt32, all :Bool) -> (error :Common.Error);
  exec @4 (execId :Text, processJson :Data, stdio :Task.Stdio, terminal :Bool) -> (error :Common.Error);
  startExec @5 (execId :Text) -> (pid :UInt32, error :Common.Error);
  deleteExec @6 (execId :Text) -> (exit :Task.Exit, error :Common.Error);
  state @7 () -> (state :State, error :Common.Error);
  processes @8 () -> (processes :List(Task.ProcessInfo), error :Common.Error);
  resize @9 (execId :Text, columns :UInt16, rows :UInt16) -> (error :Common.Error);
  closeStdin @10 (execId :Text) -> (error :Common.Error);
  delete @11 (force :Bool) -> (exit :Task.Exit, error :Common.Error);
  # Ends what still runs (only with force), removes the container from the runtime, and ends the
  # shim once the answer is out.

  pause @12 () -> (error :Common.Error);
  resume @13 () -> (error :Common.Error);
  checkpoint @14 (directory :Text, workDirectory :Text, exit :Bool) -> (error :Common.Error);
}
