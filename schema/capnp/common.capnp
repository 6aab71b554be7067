@0xd5a6f9c3b1e80411;
# Values that every interface shares.

enum ErrorClass {
  # The one list of error classes: RPC, exit code, log and metric all read it.
  internal @0;            # a defect of ours, or an operating system error we cannot name better
  notFound @1;
  alreadyExists @2;
  invalidArgument @3;     # the request can never succeed as it is
  failedPrecondition @4;  # the request is fine, the state it meets is not
  unavailable @5;         # try again: a plugin restarts, a peer is down, somebody holds the lock
  permissionDenied @6;
  resourceExhausted @7;   # disk, memory, or a configured limit
  corrupt @8;             # stored or received bytes are not what they must be
  aborted @9;             # cancelled, or lost a race that the caller may retry
  unimplemented @10;
}

struct Error {
  # A result struct's `error` field is null when the call worked. It is data, not an exception, so
  # that the class needs no parsing. Exceptions are left for the connection itself.
  class @0 :ErrorClass;
  message @1 :Text;       # what failed, on what, and what to do; one line
}

struct Label {
  key @0 :Text;
  value @1 :Text;
}

struct Platform {
  os @0 :Text;            # "linux"
  architecture @1 :Text;  # GOARCH name: "amd64", "arm64"
  variant @2 :Text;       # "v7", or empty
}

struct Descriptor {
  # OCI image-spec, descriptor.md.
  mediaType @0 :Text;
  digest @1 :Text;        # "sha256:<64 hex>"
  size @2 :UInt64;        # bytes
  platform @3 :Platform;  # null when the descriptor names none
}

struct Mount {
  # What mount(2) needs, apart from the target directory, which the mounter chooses.
  type @0 :Text;          # "overlay", "bind", ...
  source @1 :Text;
  options @2 :List(Text); # fstab words: "ro", "rbind", "lowerdir=..."
}

struct Page {
  # A slice of a list that is ordered by key in byte order.
  after @0 :Text;         # last key of the previous page; empty = from the start
  limit @1 :UInt32;       # at most so many items; 0 = the server's default (100), capped at 1000
  filters @2 :List(Text);
  # Any of them may hold; none = everything. The grammar is in schema/src/filter.rs. InvalidArgument: one is
  # no filter; the message has the place.
}
