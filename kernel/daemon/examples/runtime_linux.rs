//! runtime.linux, as a library.

use capstan_runtime_linux as _;
