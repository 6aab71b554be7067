@0x93f7e1b80d5c6a24;
using Common = import "common.capnp";

struct ContainerMount {
  type @0 :Text;               # "bind" by default
  source @1 :Text;
  destination @2 :Text;
  options @3 :List(Text);
}

enum Network {
  private @0;   # an own namespace with nothing but loopback
  host @1;
  none @2;      # the same as private, kept as a word of its own because users say it
}

struct Resources {
  # Limits, on cgroups v1 and v2. 0 or empty = none was asked for; in an update: leave it as it is.
  memoryBytes @0 :UInt64;
  memorySwapBytes @1 :UInt64;       # memory and swap together; 0 = the same as memoryBytes, so no swap
  memoryReservationBytes @2 :UInt64;
  cpuShares @3 :UInt64;             # relative weight, 2 to 262144 (v1's scale; 1024 is the usual)
  cpuQuotaMicros @4 :UInt64;        # in each period
  cpuPeriodMicros @5 :UInt64;       # 0 = 100,000
  cpusetCpus @6 :Text;              # "0-3,7"
  cpusetMems @7 :Text;
  pidsLimit @8 :UInt64;
  blkioWeight @9 :UInt16;           # 10 to 1000
  hugetlb @10 :List(Hugetlb);
  throttles @11 :List(Throttle);
  struct Hugetlb {
    pageSize @0 :Text;              # "2MB"
    bytes @1 :UInt64;
  }
  struct Throttle {
    device @0 :Text;                # path of a block device
    readBytesPerSecond @1 :UInt64;  # 0 = no limit
    writeBytesPerSecond @2 :UInt64;
    readsPerSecond @3 :UInt64;
    writesPerSecond @4 :UInt64;
  }
}

struct Device {
  # A device of the host in the container: the node, and leave to use it.
  host @0 :Text;               # path of a character or block device
  container @1 :Text;          # below /dev; empty = the same
  access @2 :Text;             # of "rwm"; empty = all three
}

struct Ulimit {
  type @0 :Text;               # "nofile"; the resources of setrlimit(2) in lower case
  soft @1 :UInt64;             # 18446744073709551615 = unlimited
  hard @2 :UInt64;
}

struct IdMapping {
  # Users and groups alike.
  container @0 :UInt32;
  host @1 :UInt32;
  size @2 :UInt32;
}

enum NamespaceKind {
  pid @0;
  ipc @1;
  uts @2;
  network @3;
}

struct NamespaceWish {
  # Instead of a new one of its own.
  kind @0 :NamespaceKind;
  path @1 :Text;               # of the namespace to join, such as /run/netns/blue; empty = the host's
}

enum Choice {
  default @0;
  no @1;
  yes @2;
}

struct ContainerSpec {
  # What the user asked for. The daemon makes the OCI runtime spec of it.
  image @0 :Text;              # name of an image that is present; empty with `rootfs` or `ociSpec`
  args @1 :List(Text);         # empty = the image's entrypoint and command; else replaces the command
  env @2 :List(Text);          # "K=V"; added to the image's
  workdir @3 :Text;            # empty = the image's, else "/"
  user @4 :Text;               # "user[:group]", names or numbers; empty = the image's
  hostname @5 :Text;           # empty = the container id
  mounts @6 :List(ContainerMount);
  readOnly @7 :Bool;           # the root filesystem
  resources @8 :Resources;     # pidsLimit 0 = the default (config of containers.local)
  capAdd @9 :List(Text);       # "NET_ADMIN", "CAP_NET_ADMIN" or "ALL"
  capDrop @10 :List(Text);
  privileged @11 :Bool;
  seccomp @12 :Text;           # empty = default profile; "unconfined"; else the profile's JSON
  network @13 :Network;
  terminal @14 :Bool;
  rootfs @15 :Text;            # a directory to use as it is, instead of an image
  ociSpec @16 :Data;
  # A complete config.json; replaces all that goes into one. It may have no hooks: those come from the
  # daemon's configuration alone.
  snapshotter @17 :Text;       # name without kind; empty = the preferred one
  runtime @18 :Text;           # "embedded", "runc", "crun", ...; empty = the configured default
  labels @19 :List(Common.Label);
  ephemeral @20 :Bool;         # container and snapshot go when the task ends, or cannot start
  restart @21 :Text;
  # "no" (the same as empty), "on-failure[:N]", "always": what happens when its task ends by itself. It
  # is started again after 100 ms, then after twice as long each time, up to a minute; from the
  # beginning once it ran for 10 seconds. A user's `kill` that ends it, or that meets it between two
  # runs, stops that until a user starts it again. Not with `ephemeral`, nor with FIFOs.
  devices @22 :List(Device);
  ulimits @23 :List(Ulimit);
  groupAdd @24 :List(Text);    # names or numbers
  sysctls @25 :List(Common.Label);
  # Of the container's own namespaces alone: net.*, kernel.shm*, kernel.msg*, kernel.sem, fs.mqueue.*.
  oomScoreAdj @26 :Int16;      # -1000 to 1000; a higher one is killed earlier
  cgroupParent @27 :Text;      # absolute; empty = the daemon's (config of containers.local)
  noNewPrivileges @28 :Choice; # default = yes, unless privileged
  idMappings @29 :List(IdMapping);
  # Not empty: a user namespace. The root filesystem is mounted so that its ids are the container's;
  # nothing on disk is changed.
  namespaces @30 :List(NamespaceWish);
  mask @31 :List(Text);        # paths that cannot be read, besides the default ones
  unmask @32 :List(Text);      # paths to leave open that are masked or read-only else; "ALL"
  rootfsPropagation @33 :Text; # "private" (the usual), "rprivate", "slave", "rslave", "shared", "rshared"
  annotations @34 :List(Common.Label);
  shmBytes @35 :UInt64;        # of /dev/shm; 0 = 64 MiB
  storageBytes @36 :UInt64;    # what the writable layer may take; 0 = no limit; only with `image`
}

struct Container {
  id @0 :Text;
  image @1 :Text;
  runtime @2 :Text;
  snapshotter @3 :Text;
  snapshotKey @4 :Text;
  spec @5 :Data;               # OCI runtime spec, JSON, byte for byte what the runtime is given
  labels @6 :List(Common.Label);
  createdAtUnixNs @7 :Int64;
  updatedAtUnixNs @8 :Int64;
  ephemeral @9 :Bool;
  rootfs @10 :Text;
  restart @11 :Text;           # its restart policy; empty = no
  storageBytes @12 :UInt64;    # what its writable layer may take; 0 = no limit
}

interface Containers {
  # A container is a record and a root filesystem. Creating one runs nothing.

  create @0 (id :Text, spec :ContainerSpec) -> (container :Container, error :Common.Error);
  # InvalidArgument: id, or something in the spec, by field. AlreadyExists: id. NotFound: the image.
  # Unimplemented: `storageBytes`, which the snapshotter or its file system cannot keep.

  get @1 (id :Text) -> (container :Container, error :Common.Error);

  list @2 (page :Common.Page) -> (containers :List(Container), next :Text, error :Common.Error);

  delete @3 (id :Text) -> (error :Common.Error);
  # Removes the record and its snapshot. FailedPrecondition: it has a task. NotFound.

  ociSpec @4 (id :Text, spec :ContainerSpec) -> (ociSpec :Data, error :Common.Error);
  # What `create` would store, without creating anything.

  label @5 (id :Text, labels :List(Common.Label)) -> (container :Container, error :Common.Error);
  # Sets the given labels and keeps the others; an empty value removes the key. NotFound.

  update @6 (container :Container, mask :List(Text)) -> (container :Container, error :Common.Error);
  # Changes what `mask` names and nothing else: "labels" (all are replaced), "labels.<key>" (the rest is the key;
  # an empty value removes it), "image", "runtime", "spec", "rootfs". Empty = these five. A task that there is
  # keeps what it was made with, but "storageBytes" holds at once: FailedPrecondition if the container was made without
  # a limit; 0 ends it. Two updates at once both happen. NotFound. InvalidArgument: another field, or a spec that
  # is none.
}
