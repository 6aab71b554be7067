//! Which functions of a program are called: a breakpoint on each, which goes when it is hit.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::Sender;

use nix::sys::ptrace::{self, Options};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::functions::Program;

/// The instruction `int3`.
const BREAKPOINT: u8 = 0xcc;

/// `AT_ENTRY` of the auxiliary vector.
const AT_ENTRY: u64 = 9;

/// The program became another one.
const EXEC: i32 = ptrace::Event::PTRACE_EVENT_EXEC as i32;

/// A function that was called for the first time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Hit {
    pub(crate) phase: usize,
    pub(crate) function: u64,
}

/// Runs `command`, which stops itself and then becomes the program, to its end. Answers what was called, with the
/// `phase` at that time. `tell` is told its process id.
pub(crate) fn trace(
    mut command: Command,
    program: &Program,
    phase: &AtomicUsize,
    tell: &Sender<u32>,
) -> Vec<Hit> {
    let mut child = command.spawn().expect("start the daemon");
    let pid = Pid::from_raw(child.id().try_into().expect("a process id"));
    waitpid(pid, Some(WaitPidFlag::WUNTRACED)).expect("it stops itself");
    let options = Options::PTRACE_O_EXITKILL
        | Options::PTRACE_O_TRACECLONE
        | Options::PTRACE_O_TRACEEXEC
        | Options::PTRACE_O_TRACEFORK
        | Options::PTRACE_O_TRACEVFORK;
    ptrace::seize(pid, options).expect("trace the daemon");
    kill(pid, Signal::SIGCONT).expect("have it go on");
    tell.send(child.id()).expect("somebody waits for it");
    let mut tracer = Tracer { program, pid, armed: None, seen: BTreeSet::new(), hits: Vec::new() };
    // Children of this thread alone: others have theirs.
    let flags = WaitPidFlag::__WALL | WaitPidFlag::__WNOTHREAD;
    while let Ok(status) = waitpid(None, Some(flags)) {
        match status {
            WaitStatus::Exited(ended, _) | WaitStatus::Signaled(ended, ..) if ended == pid => break,
            other => tracer.go_on(other, phase),
        }
    }
    // It is reaped already.
    let _ = child.wait();
    tracer.hits
}

struct Tracer<'a> {
    program: &'a Program,
    pid: Pid,
    /// Once it is the program.
    armed: Option<Armed>,
    seen: BTreeSet<u64>,
    hits: Vec<Hit>,
}

/// Where the program was moved to, and what is under the breakpoints.
struct Armed {
    base: u64,
    bytes: BTreeMap<u64, u8>,
}

impl Tracer<'_> {
    /// Has a process or a thread go on that stopped. It may be gone meanwhile: then there is nothing to do.
    fn go_on(&mut self, status: WaitStatus, phase: &AtomicUsize) {
        let _ = match status {
            WaitStatus::PtraceEvent(pid, _, event) if event == EXEC => {
                if pid == self.pid {
                    self.armed = Some(Armed::arm(self.program, pid));
                    ptrace::cont(pid, None)
                } else {
                    // A shim, a tool: another program.
                    ptrace::detach(pid, None)
                }
            }
            WaitStatus::Stopped(pid, Signal::SIGTRAP) => self.hit(pid, phase),
            WaitStatus::Stopped(pid, signal) => ptrace::cont(pid, signal),
            WaitStatus::PtraceEvent(pid, ..) => ptrace::cont(pid, None),
            _ => Ok(()),
        };
    }

    /// At a breakpoint, of the daemon or of a child that has its memory or a copy.
    fn hit(&mut self, pid: Pid, phase: &AtomicUsize) -> nix::Result<()> {
        let mut registers = ptrace::getregs(pid)?;
        let armed = self.armed.as_ref().expect("there are breakpoints");
        let function = registers.rip.wrapping_sub(1 + armed.base);
        let byte = *armed.bytes.get(&function).expect("a breakpoint of ours");
        if let Ok(memory) = memory(pid) {
            let _ = memory.write_all_at(&[byte], armed.base + function);
        }
        registers.rip -= 1;
        ptrace::setregs(pid, registers)?;
        if self.seen.insert(function) {
            self.hits.push(Hit { phase: phase.load(Ordering::Relaxed), function });
        }
        ptrace::cont(pid, None)
    }
}

impl Armed {
    fn arm(program: &Program, pid: Pid) -> Self {
        let vector = fs::read(format!("/proc/{pid}/auxv")).expect("read where it was moved to");
        let numbers: Vec<u64> = vector
            .chunks_exact(8)
            .map(|bytes| u64::from_ne_bytes(bytes.try_into().expect("eight bytes")))
            .collect();
        let entry = numbers.chunks_exact(2).find(|pair| pair[0] == AT_ENTRY);
        let base = entry.expect("it has an entry")[1] - program.entry;
        let memory = memory(pid).expect("open the daemon's memory");
        let mut bytes = BTreeMap::new();
        for function in program.addresses() {
            let mut byte = [0];
            memory.read_exact_at(&mut byte, base + function).expect("read the function");
            memory.write_all_at(&[BREAKPOINT], base + function).expect("set a breakpoint");
            bytes.insert(function, byte[0]);
        }
        Self { base, bytes }
    }
}

fn memory(pid: Pid) -> std::io::Result<File> {
    File::options().read(true).write(true).open(format!("/proc/{pid}/mem"))
}
