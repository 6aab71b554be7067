//! verifier.digest, as a library.

use capstan_verify_digest as _;
