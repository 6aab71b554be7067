//! The built-in plugins: naming a crate once makes the linker keep what it registers.

use capstan_containers as _;
use capstan_content as _;
use capstan_diff_tar as _;
use capstan_events as _;
use capstan_exporter as _;
use capstan_gc as _;
use capstan_gc_policy as _;
use capstan_images as _;
use capstan_introspection as _;
use capstan_leases as _;
use capstan_metadata as _;
use capstan_metrics as _;
use capstan_metrics_tasks as _;
use capstan_namespaces as _;
use capstan_runtime_linux as _;
use capstan_sink_file as _;
#[cfg(feature = "btrfs")]
use capstan_snapshot_btrfs as _;
use capstan_snapshot_erofs as _;
use capstan_snapshot_native as _;
use capstan_snapshot_overlay as _;
use capstan_tasks as _;
use capstan_transfer as _;
use capstan_verify_cosign as _;
use capstan_verify_digest as _;
