//! A virtual machine with a kernel of Debian's, for what the kernel here may lack.
//!
//! It has no disk and no network: a file system in memory with the programs that a test gives it, and a console, on which a
//! script of the test says what it found. The processor is emulated, which takes some more seconds and works
//! everywhere.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use crate::disk::succeed;
use crate::find;
use crate::programs::{program, target};

/// Emulates it.
const QEMU: &str = "/usr/bin/qemu-system-x86_64";

/// What it says last, when the script came to its end.
const END: &str = "machine: the end";

/// Brings up what every system has, goes over to a file system that can be left for another (that of the start cannot), and
/// runs the script.
const INIT: &str = r"#!/bin/busybox sh
/bin/busybox mkdir -p /proc /sys /dev /new
/bin/busybox mount -t tmpfs -o size=90% new /new
cd /
/bin/busybox cp -a bin etc lib lib64 sbin usr work start /new 2>/dev/null
exec /bin/busybox switch_root /new /start
";

const START: &str = r"#!/bin/busybox sh
/bin/busybox mkdir -p /proc /sys /dev /tmp /run /mnt /etc /sbin
/bin/busybox --install -s /bin
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t cgroup2 cgroup /sys/fs/cgroup
ln -sf /proc/self/mounts /etc/mtab
# Not to a terminal.
sh /work/script 2>&1 | cat > /dev/ttyS0
echo 'machine: the end' > /dev/ttyS0
poweroff -f
";

/// One that has not been started.
#[derive(Debug)]
pub struct Machine {
    dir: TempDir,
    kernel: PathBuf,
    modules: PathBuf,
}

impl Machine {
    /// One with busybox and nothing else.
    ///
    /// # Errors
    /// There is no kernel for it; the reason, for the test that says that it is skipped.
    pub fn new() -> Result<Self, String> {
        let [kernel, modules] =
            ["linux", "modules.cpio"].map(|name| target().join("machine").join(name));
        if !kernel.is_file() {
            return Err(format!(
                "{} is not there: `cargo xtask machine` makes it",
                kernel.display()
            ));
        }
        if !Path::new(QEMU).is_file() {
            return Err(format!("{QEMU} is not there: install it (Debian: qemu-system-x86)"));
        }
        let dir = tempfile::tempdir().expect("make a directory");
        let machine = Self { dir, kernel, modules };
        for part in ["bin", "etc", "lib", "lib64", "sbin", "usr", "work"] {
            fs::create_dir_all(machine.root().join(part)).expect("make a directory");
        }
        machine.copy(&find("busybox"), "bin/busybox");
        machine.script("init", INIT);
        machine.script("start", START);
        Ok(machine)
    }

    fn root(&self) -> PathBuf {
        self.dir.path().join("root")
    }

    fn script(&self, name: &str, text: &str) {
        self.file(name, text.as_bytes());
        let mode = fs::Permissions::from_mode(0o755);
        fs::set_permissions(self.root().join(name), mode).expect("make a script executable");
    }

    fn copy(&self, from: &Path, name: &str) {
        let to = self.root().join(name);
        fs::create_dir_all(to.parent().expect("a file is in a directory")).expect("mkdir");
        fs::copy(from, &to).unwrap_or_else(|error| panic!("copy {}: {error}", from.display()));
    }

    /// A file in it; `name` is below the root.
    pub fn file(&self, name: &str, bytes: &[u8]) {
        let to = self.root().join(name);
        fs::create_dir_all(to.parent().expect("a file is in a directory")).expect("mkdir");
        fs::write(&to, bytes).unwrap_or_else(|error| panic!("write {}: {error}", to.display()));
    }

    /// A program of the system, with the libraries that it needs, where it is here.
    pub fn program(&self, name: &str) {
        let path = find(name);
        self.copy(&path, path.to_str().expect("a name").trim_start_matches('/'));
        self.libraries(&path);
    }

    /// One of capstan's own programs, below `/work`, without what only a debugger reads.
    pub fn own(&self, name: &str) {
        let (from, to) = (program(name), self.root().join("work").join(name));
        succeed(Command::new(find("strip")).arg("-o").arg(&to).arg(&from));
        self.libraries(&from);
    }

    fn libraries(&self, program: &Path) {
        // It fails for a program that needs none.
        let listed = Command::new(find("ldd")).arg(program).output().expect("run ldd");
        let text = String::from_utf8_lossy(&listed.stdout).into_owned();
        for library in text.split_whitespace().filter(|word| word.starts_with('/')) {
            let name = library.trim_start_matches('/');
            if !self.root().join(name).exists() {
                self.copy(Path::new(library), name);
            }
        }
    }

    /// Starts it, waits until its script has run to the end, and answers what was on the console from there on that the script
    /// began.
    ///
    /// # Panics
    /// It did not come to its end in that time, with the console.
    pub fn run(self, script: &str, time: Duration) -> String {
        const BEGIN: &str = "machine: the script begins";
        self.file("work/script", format!("echo '{BEGIN}'\n{script}").as_bytes());
        let start = self.dir.path().join("start.cpio");
        // The kernel takes archives one behind the other.
        let mut archive = File::create(&start).expect("make an archive");
        let mut modules = File::open(&self.modules).expect("open the modules");
        io::copy(&mut modules, &mut archive).expect("copy the modules");
        let pack = "find . | \"$0\" cpio -o -H newc 2>/dev/null";
        let mut shell = Command::new(find("sh"));
        shell.args(["-c", pack]).arg(find("busybox")).current_dir(self.root()).stdout(archive);
        let status = shell.status().expect("run sh");
        assert!(status.success(), "pack the machine's files: {status}");
        let mut qemu = Command::new(find("timeout"));
        qemu.args(["-s", "KILL", &time.as_secs().to_string(), QEMU])
            .args(["-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "2048"])
            .args(["-nodefaults", "-nographic", "-no-reboot", "-serial", "stdio", "-kernel"])
            .arg(&self.kernel)
            .arg("-initrd")
            .arg(&start)
            .args(["-append", "console=ttyS0 quiet panic=-1"])
            .stdin(Stdio::null());
        let output = qemu.output().expect("run qemu");
        let said = String::from_utf8_lossy(&output.stdout).replace('\r', "");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains(END), "the machine did not come to its end: {errors}\n{said}");
        let (_, said) = said.split_once(BEGIN).expect("it begins before it ends");
        said.to_owned()
    }
}
