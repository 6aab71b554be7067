//! differ.tar, as a library.

use capstan_diff_tar as _;
