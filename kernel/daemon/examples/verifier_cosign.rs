//! verifier.cosign, as a library.

use capstan_verify_cosign as _;
