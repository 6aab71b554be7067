//! The default seccomp profile: what a container may ask of the kernel.
//!
//! An allow list, as everybody in the field has one: a call that is not named fails with EPERM. Left
//! out is what reaches beyond a container (mounts, namespaces, modules, clocks, keys, other people's
//! memory, BPF, io_uring); some of that comes back with the capability that the kernel wants for it
//! anyway. Groups are by what calls are for, so that a new call of the kernel has an obvious place.

use serde_json::{Value, json};

const FILES: &str = "
    access chdir chmod chown chown32 close close_range copy_file_range creat dup dup2 dup3 faccessat
    faccessat2 fadvise64 fadvise64_64 fallocate fchdir fchmod fchmodat fchmodat2 fchown fchown32
    fchownat fcntl fcntl64 fdatasync fgetxattr flistxattr flock fremovexattr fsetxattr fstat fstat64
    fstatat64 fstatfs fstatfs64 fsync ftruncate ftruncate64 futimesat getcwd getdents getdents64
    getxattr getxattrat inotify_add_watch inotify_init inotify_init1 inotify_rm_watch fanotify_mark
    ioctl lchown lchown32 lgetxattr link linkat listxattr listxattrat llistxattr _llseek lremovexattr
    lseek lsetxattr lstat lstat64 mkdir mkdirat mknod mknodat name_to_handle_at newfstatat open openat
    openat2 readlink readlinkat removexattr removexattrat rename renameat renameat2 rmdir setxattr
    setxattrat stat stat64 statfs statfs64 statx symlink symlinkat sync sync_file_range syncfs truncate
    truncate64 umask unlink unlinkat utime utimensat utimensat_time64 utimes file_getattr file_setattr";

const INPUT_AND_OUTPUT: &str = "
    epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait
    epoll_wait_old eventfd eventfd2 io_cancel io_destroy io_getevents io_pgetevents
    io_pgetevents_time64 io_setup io_submit memfd_create memfd_secret _newselect pipe pipe2 poll ppoll
    ppoll_time64 pread64 preadv preadv2 pselect6 pselect6_time64 pwrite64 pwritev pwritev2 read
    readahead readv select sendfile sendfile64 signalfd signalfd4 splice tee vmsplice write writev";

const MEMORY: &str = "
    brk cachestat get_mempolicy madvise map_shadow_stack mincore mlock mlock2 mlockall mmap mmap2
    mprotect mremap mseal msync munlock munlockall munmap pkey_alloc pkey_free pkey_mprotect
    process_mrelease remap_file_pages shmat shmctl shmdt shmget";

const PROCESSES: &str = "
    alarm capget capset execve execveat exit exit_group fork getcpu getegid getegid32 geteuid
    geteuid32 getgid getgid32 getgroups getgroups32 getitimer getpgid getpgrp getpid getppid
    getpriority getresgid getresgid32 getresuid getresuid32 getrlimit getrusage getsid gettid getuid
    getuid32 ioprio_get ioprio_set kill landlock_add_rule landlock_create_ruleset
    landlock_restrict_self membarrier nanosleep pause pidfd_open pidfd_send_signal prctl prlimit64
    restart_syscall rseq rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn
    rt_sigsuspend rt_sigtimedwait rt_sigtimedwait_time64 rt_tgsigqueueinfo sched_get_priority_max
    sched_get_priority_min sched_getaffinity sched_getattr sched_getparam sched_getscheduler
    sched_rr_get_interval sched_rr_get_interval_time64 sched_setaffinity sched_setattr sched_setparam
    sched_setscheduler sched_yield seccomp set_robust_list get_robust_list set_thread_area
    get_thread_area set_tid_address setfsgid setfsgid32 setfsuid setfsuid32 setgid setgid32 setgroups
    setgroups32 setitimer setpgid setpriority setregid setregid32 setresgid setresgid32 setresuid
    setresuid32 setreuid setreuid32 setrlimit setsid setuid setuid32 sigaltstack sigprocmask sigreturn
    sysinfo tgkill times tkill ugetrlimit uname vfork wait4 waitid waitpid";

const SYNCHRONIZATION: &str = "
    futex futex_requeue futex_time64 futex_wait futex_waitv futex_wake ipc mq_getsetattr mq_notify
    mq_open mq_timedreceive mq_timedreceive_time64 mq_timedsend mq_timedsend_time64 mq_unlink msgctl
    msgget msgrcv msgsnd semctl semget semop semtimedop semtimedop_time64";

const NETWORK: &str = "
    accept accept4 bind connect getpeername getsockname getsockopt listen recv recvfrom recvmmsg
    recvmmsg_time64 recvmsg send sendmmsg sendmsg sendto setsockopt shutdown socketcall socketpair";

const TIME_AND_CHANCE: &str = "
    adjtimex clock_adjtime clock_adjtime64 clock_getres clock_getres_time64 clock_gettime
    clock_gettime64 clock_nanosleep clock_nanosleep_time64 getrandom gettimeofday time timer_create
    timer_delete timer_getoverrun timer_gettime timer_gettime64 timer_settime timer_settime64
    timerfd_create timerfd_gettime timerfd_gettime64 timerfd_settime timerfd_settime64";

/// What a capability brings back.
const BY_CAPABILITY: [(&str, &str); 12] = [
    ("CAP_BPF", "bpf"),
    ("CAP_DAC_READ_SEARCH", "open_by_handle_at"),
    (
        "CAP_SYS_ADMIN",
        "bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie mount
         mount_setattr move_mount open_tree perf_event_open pivot_root quotactl quotactl_fd setdomainname
         sethostname setns statmount listmount syslog umount umount2 unshare",
    ),
    ("CAP_SYS_BOOT", "reboot"),
    ("CAP_SYS_CHROOT", "chroot"),
    ("CAP_SYS_MODULE", "delete_module init_module finit_module"),
    ("CAP_SYS_NICE", "mbind migrate_pages move_pages set_mempolicy set_mempolicy_home_node"),
    ("CAP_SYS_PACCT", "acct"),
    ("CAP_SYS_PTRACE", "kcmp pidfd_getfd process_madvise process_vm_readv process_vm_writev ptrace"),
    ("CAP_SYS_RAWIO", "iopl ioperm"),
    ("CAP_SYS_TIME", "settimeofday stime clock_settime clock_settime64"),
    ("CAP_SYSLOG", "syslog"),
];

/// Flags of clone(2) that make namespaces: NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET.
const CLONE_NAMESPACES: u64 = 0x7E02_0000;

/// Of socket(2): virtual machine sockets reach the hypervisor from any container.
const AF_VSOCK: u64 = 40;

/// ENOSYS: the C library then falls back to clone(2), whose flags a filter can see.
const ENOSYS: u32 = 38;

fn names(text: &str) -> Vec<&str> {
    text.split_whitespace().collect()
}

fn allow(text: &str) -> Value {
    json!({ "names": names(text), "action": "SCMP_ACT_ALLOW" })
}

fn allow_if(name: &str, args: &Value) -> Value {
    json!({ "names": [name], "action": "SCMP_ACT_ALLOW", "args": [args] })
}

/// The processors whose calls the filter must know: a 64-bit kernel runs 32-bit programs too.
fn architectures() -> &'static [&'static str] {
    match std::env::consts::ARCH {
        "x86_64" => &["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        "aarch64" => &["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"],
        "riscv64" => &["SCMP_ARCH_RISCV64"],
        "s390x" => &["SCMP_ARCH_S390X", "SCMP_ARCH_S390"],
        "powerpc64" => &["SCMP_ARCH_PPC64LE"],
        _ => &[],
    }
}

/// The profile for a container with these capabilities, as `linux.seccomp` of a runtime spec.
pub(crate) fn default_profile(capabilities: &[&str]) -> Value {
    let has = |capability: &str| capabilities.contains(&capability);
    let mut rules: Vec<Value> =
        [FILES, INPUT_AND_OUTPUT, MEMORY, PROCESSES, SYNCHRONIZATION, NETWORK, TIME_AND_CHANCE]
            .into_iter()
            .map(allow)
            .collect();
    // Linux, Linux on 32 bits, and the question which one it is.
    for personality in [0x0_u64, 0x8, 0x2_0000, 0x2_0008, 0xffff_ffff] {
        let same = json!({ "index": 0, "value": personality, "op": "SCMP_CMP_EQ" });
        rules.push(allow_if("personality", &same));
    }
    rules.push(allow_if("socket", &json!({ "index": 0, "value": AF_VSOCK, "op": "SCMP_CMP_NE" })));
    match std::env::consts::ARCH {
        "x86_64" => rules.push(allow("arch_prctl modify_ldt")),
        "aarch64" => {
            rules.push(allow("arm_fadvise64_64 arm_sync_file_range breakpoint cacheflush set_tls"))
        }
        "s390x" => rules.push(allow("s390_pci_mmio_read s390_pci_mmio_write s390_runtime_instr")),
        "riscv64" => rules.push(allow("riscv_flush_icache riscv_hwprobe")),
        _ => {}
    }
    for (capability, calls) in BY_CAPABILITY {
        if has(capability) {
            rules.push(allow(calls));
        }
    }
    if !has("CAP_SYS_ADMIN") {
        // Threads and processes, but no namespaces. The flags are the first argument, except on s390.
        let index = u64::from(std::env::consts::ARCH == "s390x");
        rules.push(allow_if(
            "clone",
            &json!({
                "index": index, "value": CLONE_NAMESPACES, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ",
            }),
        ));
        rules.push(json!({
            "names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": ENOSYS,
        }));
    }
    json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": 1,
        "architectures": architectures(),
        "syscalls": rules,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed(profile: &Value, name: &str) -> bool {
        profile["syscalls"].as_array().unwrap().iter().any(|rule| {
            rule["action"] == "SCMP_ACT_ALLOW"
                && rule["args"].is_null()
                && rule["names"].as_array().unwrap().iter().any(|n| n == name)
        })
    }

    #[test]
    fn what_reaches_out_of_a_container_is_not_allowed() {
        let profile = default_profile(&["CAP_CHOWN", "CAP_SYS_CHROOT"]);
        for name in [
            "mount",
            "umount2",
            "unshare",
            "setns",
            "bpf",
            "ptrace",
            "init_module",
            "kexec_load",
            "reboot",
            "swapon",
            "clock_settime",
            "settimeofday",
            "open_by_handle_at",
            "add_key",
            "keyctl",
            "request_key",
            "userfaultfd",
            "perf_event_open",
            "io_uring_setup",
            "iopl",
            "pivot_root",
            "process_vm_readv",
            "nfsservctl",
            "clone",
            "clone3",
            "socket",
            "personality",
            "quotactl",
            "move_mount",
            "syslog",
        ] {
            assert!(!allowed(&profile, name), "{name}");
        }
        for name in ["read", "execve", "chroot", "mmap", "futex", "openat2", "rseq", "statx"] {
            assert!(allowed(&profile, name), "{name}");
        }
    }

    #[test]
    fn capabilities_bring_calls_back() {
        let profile = default_profile(&["CAP_SYS_ADMIN", "CAP_SYS_PTRACE"]);
        for name in ["mount", "unshare", "clone", "clone3", "ptrace"] {
            assert!(allowed(&profile, name), "{name}");
        }
        assert!(!allowed(&profile, "init_module"));
    }

    #[test]
    fn no_call_is_named_twice_in_the_base() {
        let mut all: Vec<&str> =
            [FILES, INPUT_AND_OUTPUT, MEMORY, PROCESSES, SYNCHRONIZATION, NETWORK, TIME_AND_CHANCE]
                .into_iter()
                .flat_map(names)
                .collect();
        let count = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), count);
    }

    #[test]
    fn it_is_a_profile_by_the_specification() {
        let profile: oci_spec::runtime::LinuxSeccomp =
            serde_json::from_value(default_profile(&["CAP_CHOWN"])).unwrap();
        assert!(profile.syscalls().is_some());
    }
}
