@0xc4f90e7b3d6a1825;
# A runtime outside of the daemon's program. What each message does is in the contract `runtime`.

using Common = import "common.capnp";
using Task = import "task.capnp";
using Resources = import "container.capnp".Resources;
using Sample = import "metrics.capnp".Sample;

struct TaskKey {
  namespace @0 :Text;
  id @1 :Text;
}

struct Info {
  key @0 :TaskKey;
  task @1 :Task.TaskInfo;
}

interface Runtime {
  create @0 (key :TaskKey, runtime :Text, spec :Data, rootfs :List(Common.Mount), stdio :Task.Stdio,
      terminal :Bool) -> (info :Info, error :Common.Error);
  start @1 (key :TaskKey) -> (pid :UInt32, error :Common.Error);
  wait @2 (key :TaskKey, execId :Text) -> (exit :Task.Exit, error :Common.Error);
  kill @3 (key :TaskKey, execId :Text, signal :UInt32, all :Bool) -> (error :Common.Error);
  delete @4 (key :TaskKey, force :Bool, keepLog :Bool) -> (exit :Task.Exit, error :Common.Error);
  inspect @5 (key :TaskKey) -> (info :Info, error :Common.Error);
  list @6 (namespace :Text) -> (tasks :List(Info), error :Common.Error);
  # Empty = all namespaces.
  exec @7 (key :TaskKey, execId :Text, process :Data, stdio :Task.Stdio, terminal :Bool)
      -> (stdin :Text, stdout :Text, stderr :Text, error :Common.Error, attach :Text);
  startExec @8 (key :TaskKey, execId :Text) -> (pid :UInt32, error :Common.Error);
  deleteExec @9 (key :TaskKey, execId :Text) -> (exit :Task.Exit, error :Common.Error);
  processes @10 (key :TaskKey) -> (processes :List(Task.ProcessInfo), error :Common.Error);
  resize @11 (key :TaskKey, execId :Text, columns :UInt16, rows :UInt16) -> (error :Common.Error);
  closeStdin @12 (key :TaskKey, execId :Text) -> (error :Common.Error);
  pause @13 (key :TaskKey) -> (error :Common.Error);
  resume @14 (key :TaskKey) -> (error :Common.Error);
  update @15 (key :TaskKey, resources :Resources) -> (error :Common.Error);
  metrics @16 (key :TaskKey) -> (samples :List(Sample), error :Common.Error);
  checkpoint @17 (key :TaskKey, directory :Text, exit :Bool) -> (error :Common.Error);
  # Dumps the processes into an empty directory that the caller made.
  restore @18 (key :TaskKey, runtime :Text, spec :Data, rootfs :List(Common.Mount), stdio :Task.Stdio,
      terminal :Bool, directory :Text) -> (info :Info, error :Common.Error);
  # `create` from such a directory.
  readLog @19 (key :TaskKey, cursor :Text, tail :UInt32, waitMillis :UInt32)
      -> (data :Data, raw :Bool, next :Text, isEnd :Bool, missed :Bool, error :Common.Error);
}
