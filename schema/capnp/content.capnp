@0xf0a4c27be9d35816;
using Common = import "common.capnp";
using Graph = import "graph.capnp";

struct BlobInfo {
  digest @0 :Text;
  size @1 :UInt64;             # bytes
  createdAtUnixNs @2 :Int64;
  labels @3 :List(Common.Label);
}

struct IngestInfo {
  ref @0 :Text;
  offset @1 :UInt64;           # bytes received so far
  total @2 :UInt64;            # expected size in bytes; 0 = not known
  expected @3 :Text;           # expected digest, or empty
  startedAtUnixNs @4 :Int64;
  updatedAtUnixNs @5 :Int64;
}

interface Content {
  # Bytes named by their digest. A name resolves to the right bytes or does not exist.
  # Digests that do not parse are InvalidArgument everywhere.

  info @0 (digest :Text) -> (info :BlobInfo, error :Common.Error);
  # NotFound.

  list @1 (page :Common.Page) -> (blobs :List(BlobInfo), next :Text, error :Common.Error);

  open @2 (digest :Text) -> (blob :Blob, size :UInt64, error :Common.Error);
  # NotFound. The blob stays readable while the capability is held, even if it is deleted meanwhile.

  ingest @3 (ref :Text, expected :Text, total :UInt64, labels :List(Common.Label), algorithm :Text)
      -> (ingest :Ingest, info :IngestInfo, error :Common.Error);
  # Opens the one writer of `ref`, or resumes it at `info.offset`. `expected` and `total` may be empty.
  # `labels` are set on the blob when it gets its name, or now if it is there. `algorithm` is "sha256", "sha384",
  # "sha512", or empty: that of `expected`, or else the store's own choice.
  # AlreadyExists: the expected blob is there. Unavailable: somebody else writes this ref.
  # FailedPrecondition: a resumed ingest was begun with another digest or size.

  ingests @4 (filters :List(Text)) -> (ingests :List(IngestInfo), error :Common.Error);
  # `filters` as in Common.Page, on ref.

  abort @5 (ref :Text) -> (error :Common.Error);
  # Drops an ingest and its bytes. NotFound. Unavailable: it has a live writer.

  delete @6 (digest :Text) -> (error :Common.Error);
  # Removes the blob from this namespace; its bytes go with the last namespace. NotFound.

  label @7 (digest :Text, labels :List(Common.Label)) -> (info :BlobInfo, error :Common.Error);
  # Sets these and keeps the others; an empty value removes the key. NotFound.

  noteUse @8 (digest :Text) -> (info :BlobInfo, error :Common.Error);
  # As info, and it is not collected by a run that has begun already. NotFound, also where the bytes are not there.

  collect @9 (digests :List(Text), unusedSinceUnixNs :Int64)
      -> (removed :List(Text), freed :UInt64, error :Common.Error);
  # Removes those that nobody used since then.

  nodes @10 () -> (nodes :Graph.Nodes, error :Common.Error);
  # The blobs and ingests of this namespace, for the ownership graph.

  audit @11 (full :Bool, repair :Bool) -> (findings :Graph.Findings, error :Common.Error);
  # Compares records with files, of all namespaces. With `full` every byte is hashed, and what is damaged is put
  # aside. With `repair` what nothing names is removed.

  orphans @12 (remove :Bool) -> (nodes :Graph.Nodes, error :Common.Error);
  # The blobs that have bytes and no record in any namespace, and the ingests that nobody goes on with of namespaces that are
  # not there. With `remove` they go.
}

interface Blob {
  read @0 (offset :UInt64, length :UInt32) -> (bytes :Data, error :Common.Error);
  # Up to `length` bytes (at most 1 MiB) from `offset`; shorter only at the end of the blob; empty
  # at or behind it. Corrupt: the file is shorter than its record says.

  descriptor @1 () -> (descriptor :UInt64, error :Common.Error);
  # The whole blob as a file, read-only. Only where descriptors can be sent: between the daemon and a
  # plugin. Unimplemented elsewhere.
}

interface Ingest {
  # Dropping it releases the ref and keeps the bytes, so that the ingest can be resumed.

  write @0 (offset :UInt64, bytes :Data) -> (offset :UInt64, error :Common.Error);
  # Appends at most 1 MiB; `offset` must be where the ingest stands, and so is the answer afterwards.
  # InvalidArgument: another offset. ResourceExhausted: no space. Corrupt: more bytes than were expected; the ingest is
  # dropped then.

  commit @1 (expected :Text, total :UInt64) -> (digest :Text, size :UInt64, error :Common.Error);
  # Syncs, verifies, names. Idempotent: committing bytes that the store has is fine.
  # Corrupt: size or digest differ; the ingest is dropped then, since its bytes are not what was
  # wanted.

  abort @2 () -> (error :Common.Error);

  descriptor @3 () -> (descriptor :UInt64, error :Common.Error);
  # The bytes so far as a file, read-only. As Blob.descriptor.
}
