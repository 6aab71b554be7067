//! `Resources` of container.capnp.

use capstan_schema::{Result, container_capnp::resources as wire};

use super::{length, text};
use crate::contract::resources::{Hugetlb, Resources, Throttle};

pub(crate) fn read_resources(reader: wire::Reader<'_>) -> Result<Resources> {
    let mut hugetlb = Vec::new();
    for limit in reader.get_hugetlb()? {
        let page_size = text(limit.get_page_size())?;
        hugetlb.push(Hugetlb { page_size, bytes: limit.get_bytes() });
    }
    let mut throttles = Vec::new();
    for throttle in reader.get_throttles()? {
        throttles.push(Throttle {
            device: text(throttle.get_device())?,
            read_bytes_per_second: throttle.get_read_bytes_per_second(),
            write_bytes_per_second: throttle.get_write_bytes_per_second(),
            reads_per_second: throttle.get_reads_per_second(),
            writes_per_second: throttle.get_writes_per_second(),
        });
    }
    Ok(Resources {
        memory_bytes: reader.get_memory_bytes(),
        memory_swap_bytes: reader.get_memory_swap_bytes(),
        memory_reservation_bytes: reader.get_memory_reservation_bytes(),
        cpu_shares: reader.get_cpu_shares(),
        cpu_quota_micros: reader.get_cpu_quota_micros(),
        cpu_period_micros: reader.get_cpu_period_micros(),
        cpuset_cpus: text(reader.get_cpuset_cpus())?,
        cpuset_mems: text(reader.get_cpuset_mems())?,
        pids_limit: reader.get_pids_limit(),
        blkio_weight: reader.get_blkio_weight(),
        hugetlb,
        throttles,
    })
}

pub(crate) fn write_resources(resources: &Resources, mut out: wire::Builder<'_>) {
    out.set_memory_bytes(resources.memory_bytes);
    out.set_memory_swap_bytes(resources.memory_swap_bytes);
    out.set_memory_reservation_bytes(resources.memory_reservation_bytes);
    out.set_cpu_shares(resources.cpu_shares);
    out.set_cpu_quota_micros(resources.cpu_quota_micros);
    out.set_cpu_period_micros(resources.cpu_period_micros);
    out.set_cpuset_cpus(&resources.cpuset_cpus);
    out.set_cpuset_mems(&resources.cpuset_mems);
    out.set_pids_limit(resources.pids_limit);
    out.set_blkio_weight(resources.blkio_weight);
    let mut list = out.reborrow().init_hugetlb(length(&resources.hugetlb));
    for (index, limit) in (0..).zip(&resources.hugetlb) {
        let mut out = list.reborrow().get(index);
        out.set_page_size(&limit.page_size);
        out.set_bytes(limit.bytes);
    }
    let mut list = out.init_throttles(length(&resources.throttles));
    for (index, throttle) in (0..).zip(&resources.throttles) {
        let mut out = list.reborrow().get(index);
        out.set_device(&throttle.device);
        out.set_read_bytes_per_second(throttle.read_bytes_per_second);
        out.set_write_bytes_per_second(throttle.write_bytes_per_second);
        out.set_reads_per_second(throttle.reads_per_second);
        out.set_writes_per_second(throttle.writes_per_second);
    }
}
