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
  memoryBytes @8 :UInt64;      # 0 = no limit
  cpuMillis @9 :UInt64;        # thousandths of a CPU; 0 = no limit
  pidsLimit @10 :UInt64;       # 0 = the default (config of containers.local)
  capAdd @11 :List(Text);      # "NET_ADMIN", "CAP_NET_ADMIN" or "ALL"
  capDrop @12 :List(Text);
  privileged @13 :Bool;
  seccomp @14 :Text;           # empty = default profile; "unconfined"; else the profile's JSON
  network @15 :Network;
  terminal @16 :Bool;
  rootfs @17 :Text;            # a directory to use as it is, instead of an image
  ociSpec @18 :Data;           # a complete config.json; replaces all of the above but image and rootfs
  snapshotter @19 :Text;       # name without kind; empty = the preferred one
  runtime @20 :Text;           # "embedded", "runc", "crun", ...; empty = the configured default
  labels @21 :List(Common.Label);
  ephemeral @22 :Bool;         # container and snapshot go when the task ends, or cannot start
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
}

interface Containers {
  # A container is a record and a root filesystem. Creating one runs nothing.

  create @0 (id :Text, spec :ContainerSpec) -> (container :Container, error :Common.Error);
  # InvalidArgument: id, or something in the spec, by field. AlreadyExists: id. NotFound: the image.

  get @1 (id :Text) -> (container :Container, error :Common.Error);

  list @2 (page :Common.Page) -> (containers :List(Container), next :Text, error :Common.Error);

  delete @3 (id :Text) -> (error :Common.Error);
  # Removes the record and its snapshot. FailedPrecondition: it has a task. NotFound.

  ociSpec @4 (id :Text, spec :ContainerSpec) -> (ociSpec :Data, error :Common.Error);
  # What `create` would store, without creating anything.
}
