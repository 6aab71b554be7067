//! metrics.process, as a library.

use capstan_metrics as _;
