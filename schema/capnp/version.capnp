@0xa3c9d2e7745b1f06;
using Common = import "common.capnp";

interface Version {
  get @0 () -> (version :Text, revision :Text);
  # Build constants of the daemon: semantic version, and the commit it was built from (or empty).
}
