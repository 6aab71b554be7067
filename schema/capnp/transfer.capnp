@0xbc0d4e96f7a25138;
using Common = import "common.capnp";
using Image = import "image.capnp".Image;

enum ItemState {
  waiting @0;
  downloading @1;
  extracting @2;
  done @3;
  exists @4;      # it was there before
  uploading @5;   # bytes go to the registry, or into the archive
  mounted @6;     # the registry took it from another repository of its own
  resolving @7;   # the registry is asked what a name means; sizes are not known yet
  converting @8;  # it is packed anew
}

struct Item {
  # The state of one descriptor.
  name @0 :Text;               # "layer-sha256:...", "manifest-sha256:...", ...
  state @1 :ItemState;
  offset @2 :UInt64;           # bytes so far
  total @3 :UInt64;            # bytes in all; 0 = not known
}

interface Progress {
  # Implemented by the client. The next update is sent when the previous one was answered, and each
  # holds the newest state of all items, so a slow client gets fewer of them and delays nothing.
  update @0 (items :List(Item)) -> ();
}

struct Login {
  # What a registry is told. All empty = nothing is known for it.
  user @0 :Text;
  secret @1 :Text;             # a password, or a token that stands for one
  identityToken @2 :Text;      # an OAuth 2 refresh token, given in place of user and secret
}

interface Credentials {
  # Implemented by the client. Secrets stay with it until a registry wants them.

  get @0 (host :Text) -> (login :Login, error :Common.Error);
  # What to tell `host[:port]`: never the host of a redirect, nor one that a challenge names.
}

struct Access {
  # How registries are reached, and as whom.
  plainHttp @0 :Bool;          # http in place of https
  skipVerify @1 :Bool;         # https with whomever
  credentials @2 :Credentials; # null = what the daemon knows by itself
}

struct PullOptions {
  platform @0 :Text;           # "os/arch[/variant]"; empty = the host's
  access @1 :Access;
  snapshotter @2 :Text;        # name without kind; empty = the preferred one
  noUnpack @3 :Bool;
  concurrency @4 :UInt32;      # layers fetched at once; 0 = the configured default
  allPlatforms @5 :Bool;       # fetch what an index has for all platforms; `platform` is the one that is unpacked
}

enum Compression {
  keep @0;                     # layers are pushed as they are stored
  zstd @1;                     # layers are packed anew; the image that arrives has other digests
}

struct PushOptions {
  access @0 :Access;
  platform @1 :Text;           # only this one of an index, whose manifest is what arrives; empty = all, which must be here
  compression @2 :Compression;
  concurrency @3 :UInt32;      # blobs sent at once; 0 = the configured default
}

struct CopyOptions {
  sourceAccess @0 :Access;
  targetAccess @1 :Access;
  platform @2 :Text;           # only this one of an index, whose manifest is what arrives; empty = all
  concurrency @3 :UInt32;      # blobs on their way at once; 0 = the configured default for pushes
  referrers @4 :Bool;          # also what refers to it in the registry of `source`, such as signatures, and to that
}

interface Transfer {
  pull @0 (reference :Text, options :PullOptions, progress :Progress)
      -> (image :Image, error :Common.Error);
  # Resolve, fetch, verify, unpack, then name. Dropping the call cancels it. After a failure nothing
  # half-made is left: no name, no snapshot. What came of blobs stays for the next pull, unless it was wrong or the disk is
  # full. Pulls of the same thing at the same time share one fetch and one unpack; within a namespace a pull that its
  # own registry denies gets what another one may have.
  #
  # InvalidArgument: reference or platform. NotFound: the registry has no such image, or none for
  # the platform. Unavailable: the registry cannot be reached, or broke off. Corrupt: what it sent
  # does not match digest or size, or is no valid layer. PermissionDenied: it wants credentials, or a verifier refuses.
  # ResourceExhausted: disk, or a limit on sizes.

  unpack @1 (image :Text, platform :Text, snapshotter :Text) -> (chainId :Text, error :Common.Error);
  # Makes the snapshots of an image that is present. Idempotent.

  import @2 (options :ImportOptions, progress :Progress) -> (upload :ArchiveUpload, error :Common.Error);
  # Takes images from an archive that the caller then writes: an OCI image layout or what `docker save` writes, in
  # a tar, plain or compressed by gzip or zstd.

  export @3 (names :List(Text), platform :Text, progress :Progress) -> (archive :ArchiveDownload, error :Common.Error);
  # Writes images into an OCI image layout in a tar that `docker load` reads too. The same images give the same bytes.
  # An empty platform means every platform whose content is there. NotFound: an image, or content of it.

  diff @4 (snapshotter :Text, key :Text, parent :Text, mediaType :Text)
      -> (layer :Common.Descriptor, diffId :Text, error :Common.Error);
  # Stores what a snapshot has and `parent` has not (empty: its own parent) as a layer blob. The media type is that of an
  # OCI layer; empty = gzip. Nothing references the blob yet. NotFound, InvalidArgument: media type.

  apply @5 (snapshotter :Text, key :Text, layer :Common.Descriptor) -> (diffId :Text, error :Common.Error);
  # Unpacks a layer blob into an active snapshot. FailedPrecondition: it is not active. NotFound: snapshot, blob. Corrupt: no
  # valid layer; what it had by then is in the snapshot, which should be removed.

  push @7 (reference :Text, source :Text, options :PushOptions, progress :Progress)
      -> (target :Common.Descriptor, error :Common.Error);
  # Sends an image that is here, and names it there. `source` is the image's name or, with `name@digest`, one of the
  # documents below it; empty = `reference` itself. With a digest and no tag in `reference` nothing is named. What the registry has is not sent, what it has in
  # another repository is mounted from there. Dropping the call cancels it: no name is given then.
  #
  # NotFound: the image, or content of it. FailedPrecondition: content of a platform that is asked for, or of one in the
  # index, is not here; or the registry does not take it. PermissionDenied: the registry does not let us. Unavailable: it
  # cannot be reached, or broke off.

  getObject @8 (reference :Text, access :Access) -> (object :Common.Descriptor, bytes :ArchiveDownload, error :Common.Error);
  # One document or blob as a registry has it, by tag or digest. Nothing is stored. Verified: the end of `bytes` comes
  # only if the digest is right. Errors as of `pull`.

  putObject @9 (reference :Text, object :Common.Descriptor, access :Access) -> (error :Common.Error);
  # Sends one blob or document that is here; one with a media type of manifests gets the tag of `reference`. Errors as of `push`.

  referrers @10 (reference :Text, artifactType :Text, access :Access)
      -> (referrers :List(Referrer), error :Common.Error);
  # What a registry has that refers to an image: signatures, lists of its parts. An empty type = all. OCI
  # distribution-spec 1.1, "Listing Referrers", with its fallback tag for registries that are older. Errors as of `pull`.

  checkLogin @11 (host :Text, access :Access) -> (error :Common.Error, identityToken :Text);
  # Whether the registry `host[:port]` lets in whom `access` names. Its token server may give an identity token, which then
  # can be told in place of the password. InvalidArgument: host. FailedPrecondition: it asks nobody who he is.
  # PermissionDenied: it does not let us in. Unavailable: it cannot be reached.

  copy @12 (source :Text, target :Text, options :CopyOptions, progress :Progress)
      -> (target :Common.Descriptor, error :Common.Error);
  # Brings an image from one registry to another one, or to another name in the same. What the target has, or can mount
  # from another repository of its own, is not fetched. Blobs pass through the content store: nothing gets a name here, and
  # none of it is used here afterwards. With a digest and no tag in `target` nothing is named. Dropping the call cancels
  # it: no name is given then. No verifier is asked. Errors as of `pull` and `push`.

  refetch @6 (digest :Text, access :Access) -> (error :Common.Error);
  # Fetches a blob again from where it came; of `access` only who asks counts. Nothing is done where it is whole. NotFound:
  # nobody knows where it came from, or it is not there any more.
}

struct Referrer {
  manifest @0 :Common.Descriptor;
  artifactType @1 :Text;
  annotations @2 :List(Common.Label);
}

enum Names {
  # Which of the names in an archive are taken.
  only @0;        # those in `names`; with none, images are stored by digest only
  fresh @1;       # all that are not the names of other images here
  all @2;         # all, also those that then mean another image than before
}

struct ImportOptions {
  take @0 :Names;
  names @1 :List(Text);
  platform @2 :Text;           # to unpack; empty = the host's
  snapshotter @3 :Text;        # name without kind; empty = the preferred one
  noUnpack @4 :Bool;
}

struct Imported {
  name @0 :Text;               # empty: only its digest is known
  target @1 :Common.Descriptor;
}

interface ArchiveUpload {
  # Dropping it before `finish` has answered cancels the import: nothing gets a name.

  write @0 (bytes :Data) -> (error :Common.Error);
  # At most 1 MiB, in order. Answered when there is room for more. Errors of the import so far come here too.

  finish @1 () -> (images :List(Imported), error :Common.Error);
  # The archive is complete: verifies, unpacks, names. InvalidArgument: it is no such archive. Corrupt: its parts do not match
  # their digests, or are missing. NotFound: it has nothing of a name that is asked for. AlreadyExists: a name in
  # it is that of another image, and `take` is fresh. ResourceExhausted: disk, or a limit. Nothing gets a name then.
}

interface ArchiveDownload {
  # Dropping it cancels the export.

  read @0 () -> (bytes :Data, error :Common.Error);
  # The next bytes, at most 1 MiB; empty at the end.
}
