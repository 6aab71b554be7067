@0xe2a4c9d1b7f05836;
using Common = import "common.capnp";

struct Evidence {
  # A document that a registry has beside an image, such as a signature. Nobody has verified it yet.
  artifactType @0 :Text;          # of its manifest; for a cosign tag the media type of the layer
  mediaType @1 :Text;             # of `payload`
  payload @2 :Data;               # at most 1 MiB; its digest was verified
  annotations @3 :List(Common.Label);
}

interface Verifier {
  # Says whether an image may get its name. All verifiers of a deployment are asked; each may refuse.

  ask @0 (namespace :Text, name :Text) -> (wantsEvidence :Bool, error :Common.Error);
  # Whether it looks at evidence before it answers for this name. Evidence costs requests to the registry.

  verify @1 (namespace :Text, name :Text, target :Common.Descriptor, document :Data, evidence :List(Evidence))
      -> (refused :Bool, reason :Text, error :Common.Error);
  # `name` is what the image is to be called, `document` the manifest or index that `target` describes. With `refused` the reason is one line for people. An
  # error refuses too. The same question has the same answer; it changes nothing.
}
