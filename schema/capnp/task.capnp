@0x86b2f4d9e03a7c51;
using Common = import "common.capnp";
using ContainerSpec = import "container.capnp".ContainerSpec;

enum Status {
  created @0;
  running @1;
  pausing @2;
  paused @3;
  stopped @4;
}

struct Exit {
  status @0 :UInt32;           # exit code, or 128 + signal
  atUnixNs @1 :Int64;          # when the shim noticed
  lost @2 :Text;               # not empty: the status is not known (255 is said), and this is why
}

struct TaskInfo {
  id @0 :Text;                 # = container id
  pid @1 :UInt32;              # of the init process, seen from the daemon
  status @2 :Status;
  exit @3 :Exit;               # null unless stopped
  stdin @4 :Text;              # FIFO paths; empty = /dev/null or a file
  stdout @5 :Text;
  stderr @6 :Text;
  terminal @7 :Bool;
  createdAtUnixNs @8 :Int64;
  startedAtUnixNs @9 :Int64;   # 0 = not yet
  shimPid @10 :UInt32;
  runtime @11 :Text;
}

struct Stdio {
  # Where the streams of a process go. The shim makes the FIFOs, beside the task's other files, and
  # removes them with it; open the read ends before `start` to miss nothing.
  union {
    null @0 :Void;
    fifos @1 :Fifos;
    logFile @2 :Text;          # absolute path; stdout and stderr are appended
  }
  struct Fifos {
    stdin @0 :Bool;            # false = /dev/null
  }
}

struct ProcessSpec {
  args @0 :List(Text);
  env @1 :List(Text);          # added to the container's
  workdir @2 :Text;            # empty = the container's
  user @3 :Text;               # empty = the container's
  terminal @4 :Bool;
}

struct ProcessInfo {
  pid @0 :UInt32;
  execId @1 :Text;             # "init" for the first process; empty for others in the container
}

interface Tasks {
  create @0 (container :Text, stdio :Stdio) -> (task :Task, info :TaskInfo, error :Common.Error);
  # Makes the container's init process, which waits for `start`. NotFound: container.
  # AlreadyExists: it has a task. Internal, InvalidArgument: what the runtime said.

  run @1 (id :Text, spec :ContainerSpec, stdio :Stdio)
      -> (task :Task, info :TaskInfo, error :Common.Error);
  # Containers.create and create in one; if either fails nothing is left.

  get @2 (id :Text) -> (task :Task, info :TaskInfo, error :Common.Error);

  list @3 () -> (tasks :List(TaskInfo), error :Common.Error);
  # The last known state of each; never waits for a shim.
}

interface Task {
  start @0 () -> (pid :UInt32, error :Common.Error);
  # FailedPrecondition: it was started before. NotFound: no such command in the container;
  # PermissionDenied: the command is not executable. If the start of a container made by `run`
  # fails, that container is removed.

  wait @1 () -> (exit :Exit, error :Common.Error);
  # Answers when the init process has ended, also long after the fact. For an ephemeral container the
  # answer comes when it has been removed.

  kill @2 (signal :UInt32, all :Bool, execId :Text) -> (error :Common.Error);
  # To init, to every process in the container, or to one exec. FailedPrecondition: it has exited.

  delete @3 (force :Bool) -> (exit :Exit, error :Common.Error);
  # FailedPrecondition: it runs, and `force` is not set.

  info @4 () -> (info :TaskInfo, error :Common.Error);

  exec @5 (execId :Text, process :ProcessSpec, stdio :Stdio)
      -> (process :Process, stdin :Text, stdout :Text, stderr :Text, execId :Text, error :Common.Error);
  # Readies an additional process; Process.start runs it. An empty execId is chosen by the daemon.
  # FailedPrecondition: the task is not running. AlreadyExists: execId.

  processes @6 () -> (processes :List(ProcessInfo), error :Common.Error);

  resize @7 (columns :UInt16, rows :UInt16) -> (error :Common.Error);
  # FailedPrecondition: it has no terminal.

  closeStdin @8 () -> (error :Common.Error);
  # The process reads end of file once all clients closed their end too.
}

interface Process {
  # An exec. It is forgotten when it has ended and was waited for, or deleted.

  start @0 () -> (pid :UInt32, error :Common.Error);
  # NotFound: no such command. PermissionDenied: not executable.
  wait @1 () -> (exit :Exit, error :Common.Error);
  kill @2 (signal :UInt32) -> (error :Common.Error);
  resize @3 (columns :UInt16, rows :UInt16) -> (error :Common.Error);
  closeStdin @4 () -> (error :Common.Error);
  delete @5 () -> (exit :Exit, error :Common.Error);
}
