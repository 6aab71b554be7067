//! Seccomp filters, compiled ahead and kept.
//!
//! libseccomp takes 12 ms for the default profile (2 cores; all else in a create takes 7 ms), for each
//! container and each exec again. So a profile is compiled once, kept under its hash, and installed
//! by [`Program`](crate::workload::Program) as the last thing before the program itself. That works
//! with `noNewPrivileges` only, which the default spec has: else a filter must be installed while
//! there are capabilities left, and libcontainer does that.

use std::fs::{self, File};
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use libcontainer::oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompOperator, Spec,
};
use libseccomp::{
    ScmpAction, ScmpArch, ScmpArgCompare, ScmpCompareOp, ScmpFilterContext, ScmpSyscall,
    ScmpVersion,
};
use seccompiler::{BpfProgram, sock_filter};
use sha2::{Digest as _, Sha256};

/// The size of an instruction (linux/filter.h).
const INSTRUCTION: usize = 8;

/// The profile of a spec, if it is one that can be compiled ahead.
pub(crate) fn profile(spec: &Spec) -> Option<&LinuxSeccomp> {
    let may_come_late = spec.process().as_ref()?.no_new_privileges() == Some(true);
    let profile = spec.linux().as_ref()?.seccomp().as_ref()?;
    let is_plain = profile.flags().as_ref().is_none_or(Vec::is_empty)
        && profile.listener_path().is_none()
        && spec.hooks().is_none()
        && action(profile.default_action(), None).is_some()
        && profile.syscalls().iter().flatten().all(|rule| {
            let args = rule.args().iter().flatten();
            let mut indexes: Vec<usize> = args.map(LinuxSeccompArg::index).collect();
            indexes.sort_unstable();
            // Two conditions on one argument are two rules (seccomp_rule_add(3)).
            indexes.windows(2).all(|pair| pair[0] != pair[1])
                && action(rule.action(), rule.errno_ret()).is_some()
        })
        && profile.architectures().iter().flatten().all(|arch| architecture(*arch).is_some());
    (may_come_late && is_plain).then_some(profile)
}

/// The compiled profile, from `cache` if it is there.
pub(crate) fn compiled(profile: &LinuxSeccomp, cache: &Path) -> Result<Vec<u8>> {
    let path = cache.join(key(profile)?);
    if let Ok(bytes) = fs::read(&path)
        && parse(&bytes).is_ok()
    {
        return Ok(bytes);
    }
    fs::create_dir_all(cache).with_context(|| format!("make {}", cache.display()))?;
    // Under a name of its own first: others may read it, or write the same.
    let draft = cache.join(format!("{}.draft", std::process::id()));
    let written = File::create(&draft)
        .context("make a file")
        .and_then(|file| {
            compile(profile, &file)?;
            // After a power cut the name would stand for a part of it, or for nothing.
            Ok(file.sync_all()?)
        })
        .and_then(|()| Ok(fs::rename(&draft, &path)?));
    written.with_context(|| format!("compile the seccomp profile to {}", draft.display()))?;
    fs::read(&path).with_context(|| format!("read {}", path.display()))
}

/// The filter in a form that can be installed.
pub(crate) fn parse(bytes: &[u8]) -> Result<BpfProgram> {
    ensure!(
        !bytes.is_empty() && bytes.len().is_multiple_of(INSTRUCTION),
        "a compiled seccomp profile of {} bytes is damaged",
        bytes.len()
    );
    let instructions = bytes.chunks_exact(INSTRUCTION).map(|bytes| sock_filter {
        code: u16::from_ne_bytes([bytes[0], bytes[1]]),
        jt: bytes[2],
        jf: bytes[3],
        k: u32::from_ne_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]),
    });
    Ok(instructions.collect())
}

/// Of all that a filter depends on: the profile, and what compiles it.
fn key(profile: &LinuxSeccomp) -> Result<String> {
    let version = ScmpVersion::current().context("ask libseccomp for its version")?;
    let mut hash = Sha256::new();
    hash.update(format!("{version} {}\n", env!("CARGO_PKG_VERSION")));
    hash.update(serde_json::to_vec(profile)?);
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// As libcontainer does it: a name that this libseccomp does not know has no number here either.
fn compile(profile: &LinuxSeccomp, to: &File) -> Result<()> {
    let default = wanted(profile.default_action(), profile.default_errno_ret())?;
    let mut filter = ScmpFilterContext::new(default)?;
    for &arch in profile.architectures().iter().flatten() {
        filter.add_arch(architecture(arch).context("an architecture that was not checked")?)?;
    }
    for rule in profile.syscalls().iter().flatten() {
        let action = wanted(rule.action(), rule.errno_ret())?;
        if action == default {
            continue;
        }
        let args: Vec<_> = rule.args().iter().flatten().map(comparison).collect::<Result<_>>()?;
        for syscall in rule.names().iter().filter_map(|name| ScmpSyscall::from_name(name).ok()) {
            filter.add_rule_conditional(action, syscall, &args)?;
        }
    }
    Ok(filter.export_bpf(to)?)
}

fn wanted(name: LinuxSeccompAction, errno: Option<u32>) -> Result<ScmpAction> {
    action(name, errno).context("an action that was not checked")
}

/// Those that need nobody outside.
fn action(action: LinuxSeccompAction, errno: Option<u32>) -> Option<ScmpAction> {
    Some(match action {
        LinuxSeccompAction::ScmpActAllow => ScmpAction::Allow,
        LinuxSeccompAction::ScmpActLog => ScmpAction::Log,
        LinuxSeccompAction::ScmpActTrap => ScmpAction::Trap,
        LinuxSeccompAction::ScmpActKill | LinuxSeccompAction::ScmpActKillThread => {
            ScmpAction::KillThread
        }
        LinuxSeccompAction::ScmpActKillProcess => ScmpAction::KillProcess,
        // EPERM is what the runtime-spec has for none (config-linux.md, "Seccomp").
        LinuxSeccompAction::ScmpActErrno => {
            ScmpAction::Errno(errno.map_or(Ok(libc::EPERM), i32::try_from).ok()?)
        }
        LinuxSeccompAction::ScmpActTrace | LinuxSeccompAction::ScmpActNotify => return None,
    })
}

/// Those that a host of ours can run.
fn architecture(arch: Arch) -> Option<ScmpArch> {
    Some(match arch {
        Arch::ScmpArchNative => ScmpArch::Native,
        Arch::ScmpArchX86 => ScmpArch::X86,
        Arch::ScmpArchX86_64 => ScmpArch::X8664,
        Arch::ScmpArchX32 => ScmpArch::X32,
        Arch::ScmpArchArm => ScmpArch::Arm,
        Arch::ScmpArchAarch64 => ScmpArch::Aarch64,
        _ => return None,
    })
}

fn comparison(arg: &LinuxSeccompArg) -> Result<ScmpArgCompare> {
    let op = match arg.op() {
        LinuxSeccompOperator::ScmpCmpNe => ScmpCompareOp::NotEqual,
        LinuxSeccompOperator::ScmpCmpLt => ScmpCompareOp::Less,
        LinuxSeccompOperator::ScmpCmpLe => ScmpCompareOp::LessOrEqual,
        LinuxSeccompOperator::ScmpCmpEq => ScmpCompareOp::Equal,
        LinuxSeccompOperator::ScmpCmpGe => ScmpCompareOp::GreaterEqual,
        LinuxSeccompOperator::ScmpCmpGt => ScmpCompareOp::Greater,
        // The mask comes first, as in seccomp_rule_add(3); runtime-spec: valueTwo is compared with.
        LinuxSeccompOperator::ScmpCmpMaskedEq => ScmpCompareOp::MaskedEqual(arg.value()),
    };
    let value = match arg.op() {
        LinuxSeccompOperator::ScmpCmpMaskedEq => arg.value_two().unwrap_or(0),
        _ => arg.value(),
    };
    Ok(ScmpArgCompare::new(u32::try_from(arg.index())?, op, value))
}
