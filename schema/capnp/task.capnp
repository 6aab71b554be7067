@0x86b2f4d9e03a7c51;
using Common = import "common.capnp";
using ContainerSpec = import "container.capnp".ContainerSpec;
using Resources = import "container.capnp".Resources;
using Sample = import "metrics.capnp".Sample;

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
  outOfMemory @3 :Bool;        # the kernel killed a process of the container for want of memory
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
  attach @12 :Text;            # a socket to attach to; empty = its streams do not pass through the shim
  log @13 :Text;               # the log that the shim writes; empty = none
  restarts @14 :UInt32;        # how often its restart policy has started it anew
}

struct Stdio {
  # Where the streams of a process go. The shim makes FIFOs and sockets beside the task's other files,
  # and removes them with it.
  union {
    null @0 :Void;
    fifos @1 :Fifos;           # the process has them itself: one reader, which takes all
    logFile @2 :Text;          # `kept` with a raw log at this absolute path, and no stdin
    kept @3 :Kept;             # they pass through the shim, which writes a log and lets clients attach
  }
  struct Fifos {
    # Open the read ends before `start` to miss nothing.
    stdin @0 :Bool;            # false = /dev/null
  }
  struct Kept {
    stdin @0 :Bool;            # false = /dev/null
    log @1 :Log;
    # Null: none; then the process waits while its output is read by nobody. With a log it never
    # waits: what cannot be written is dropped and counted.
  }
  struct Log {
    path @0 :Text;             # absolute; empty = in the task's own directory, gone when that is deleted
    raw @1 :Bool;
    # The bytes as they come, both streams mixed. Otherwise lines of the CRI log format:
    # "<RFC 3339 time with nanoseconds> stdout|stderr P|F <text>"; P = the line goes on in the next.
    maxBytes @2 :UInt64;       # of one file; a full one is renamed to "<path>.1"; 0 = 16 MiB
    maxFiles @3 :UInt32;       # with the renamed ones; 0 = 2
  }
}

# Attaching (`TaskInfo.attach`, a stream socket; only the shim's own user may connect): frames of
# Docker's stream format, an 8-byte header and then the bytes. Header: stream, 0, 0, 0, and the length
# as a big-endian 32-bit number. The shim sends stream 1 (stdout, or the terminal) and 2 (stderr) from
# the moment of the connection on, and hangs up when the streams have ended. The client may send
# stream 0 (stdin, at most 64 KiB a frame); length 0 closes stdin; a client that closes its sending
# side has left. Every client gets all output. One that takes nothing for 10 seconds (1 second where
# there is a log) is hung up on; without a log the process waits for its only client instead.

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

  list @3 (filters :List(Text)) -> (tasks :List(TaskInfo), error :Common.Error);
  # The last known state of each; never waits for a shim. `filters` as in Common.Page, on id, pid, status,
  # exitStatus and runtime.

  restore @4 (container :Text, checkpoint :Text, stdio :Stdio)
      -> (task :Task, info :TaskInfo, error :Common.Error);
  # Makes a task from the checkpoint with this image name. The container is made of it too if there is
  # none of that id. The task is created; `start` lets it go on where it was.
  # NotFound: checkpoint. FailedPrecondition: the runtime cannot restore.
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
      -> (process :Process, stdin :Text, stdout :Text, stderr :Text, execId :Text, error :Common.Error,
          attach :Text);
  # Readies an additional process; Process.start runs it. An empty execId is chosen by the daemon.
  # FailedPrecondition: the task is not running. AlreadyExists: execId.

  processes @6 () -> (processes :List(ProcessInfo), error :Common.Error);

  resize @7 (columns :UInt16, rows :UInt16) -> (error :Common.Error);
  # FailedPrecondition: it has no terminal.

  closeStdin @8 () -> (error :Common.Error);
  # The process reads end of file once all clients closed their end too.

  pause @9 () -> (error :Common.Error);
  # Freezes every process of the container; answers when all are frozen. FailedPrecondition: it does
  # not run, or is paused.

  resume @10 () -> (error :Common.Error);
  # FailedPrecondition: it is not paused.

  update @11 (resources :Resources) -> (error :Common.Error);
  # Changes limits while it runs; fields that are 0 or empty stay as they are. All or nothing: if one
  # limit is refused those before it are set back. InvalidArgument: the kernel refuses a value.
  # FailedPrecondition: it has ended, or this machine has no such controller.

  metrics @12 () -> (samples :List(Sample), error :Common.Error);
  # What its cgroups say, now.

  checkpoint @13 (image :Text, exit :Bool) -> (digest :Text, error :Common.Error);
  # Writes the processes, the spec and what changed in the root filesystem to the content store, as an
  # image that can be pushed; `image` is its name (empty = none). It goes on running unless `exit`.
  # FailedPrecondition: it does not run, or the runtime cannot; the error ends with the dump's log.

  readLog @14 (cursor :Text, tail :UInt32, waitMillis :UInt32)
      -> (data :Data, raw :Bool, next :Text, isEnd :Bool, missed :Bool, error :Common.Error);
  # A piece of the log, whole lines unless it is raw. An empty cursor starts at the beginning, or so
  # that `tail` - 1 lines follow (0 = all). Waits at most `waitMillis` for something new. `isEnd`: the
  # task has ended, and that was all. `missed`: what the cursor pointed at was rotated away.
  # FailedPrecondition: the task keeps no log.
}

interface Process {
  # An exec. It is forgotten when it is deleted, and when its maker has let go of it and it has ended or was never
  # started; at last when 128 others have ended after it.

  start @0 () -> (pid :UInt32, error :Common.Error);
  # NotFound: no such command. PermissionDenied: not executable.
  wait @1 () -> (exit :Exit, error :Common.Error);
  # Also before it is started. NotFound: it was deleted, or could not be started.
  kill @2 (signal :UInt32) -> (error :Common.Error);
  resize @3 (columns :UInt16, rows :UInt16) -> (error :Common.Error);
  closeStdin @4 () -> (error :Common.Error);
  delete @5 () -> (exit :Exit, error :Common.Error);
}
