//! sink.file, as a library.

use capstan_sink_file as _;
