@0xae61d05f937c42b8;
using Common = import "common.capnp";

struct Image {
  name @0 :Text;                       # full reference: "host/path:tag"
  target @1 :Common.Descriptor;
  createdAtUnixNs @2 :Int64;
  updatedAtUnixNs @3 :Int64;
  labels @4 :List(Common.Label);
  size @5 :UInt64;                     # bytes of everything under the target that is present
  platforms @6 :List(Common.Platform); # whose manifest, config and layers are present
}

struct Manifest {
  # One platform's manifest, resolved.
  descriptor @0 :Common.Descriptor;
  config @1 :Common.Descriptor;
  layers @2 :List(Common.Descriptor);  # base first
  diffIds @3 :List(Text);              # base first; digests of the uncompressed layers
  chainId @4 :Text;                    # of the top layer (OCI image-spec, config.md)
  configJson @5 :Data;                 # OCI image configuration, as stored
  manifestJson @6 :Data;
}

interface Images {
  get @0 (name :Text) -> (image :Image, error :Common.Error);
  # NotFound.

  list @1 (page :Common.Page) -> (images :List(Image), next :Text, error :Common.Error);

  delete @2 (name :Text) -> (error :Common.Error);
  # Removes the name. Content and snapshots stay until garbage collection. NotFound.

  resolve @3 (name :Text, platform :Text) -> (image :Image, manifest :Manifest, error :Common.Error);
  # The manifest for a platform ("linux/amd64"; empty = the host's). NotFound: the image, its
  # manifest for that platform, or content that it needs.

  label @4 (name :Text, labels :List(Common.Label)) -> (image :Image, error :Common.Error);
  # Sets the given labels and keeps the others; an empty value removes the key. NotFound.

  update @5 (image :Image, mask :List(Text)) -> (image :Image, error :Common.Error);
  # Changes what `mask` names and nothing else: "labels" (all are replaced), "labels.<key>" (the rest is the key,
  # dots and all; an empty value removes it), "target". Empty = labels and target. Two updates at once both
  # happen. Verifiers are asked about another target, which has to be here then. NotFound. InvalidArgument: another
  # field. PermissionDenied: a verifier refuses.

  tag @6 (source :Text, name :Text) -> (image :Image, error :Common.Error);
  # Points `name` at the target of `source`; makes the name, or moves it. Verifiers are asked, unless the name means
  # that already; no registry is: they see the signatures that `source` came with. NotFound: source.
  # PermissionDenied: a verifier refuses.

  check @7 (name :Text) -> (complete :Bool, size :UInt64, missing :List(Missing), error :Common.Error);
  # Looks whether all that an image needs is there, for each platform that the index was pulled for. `size` is
  # what is present. NotFound: the name.

  struct Missing {
    descriptor @0 :Common.Descriptor;
    reason @1 :Text;                   # "missing", or what is wrong with it
  }
}
