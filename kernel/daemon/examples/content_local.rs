//! content.local, as a library.

use capstan_content as _;
