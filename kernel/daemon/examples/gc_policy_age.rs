//! gc-policy.age, as a library.

use capstan_gc_policy as _;
