//! One virtual machine: its QEMU process, what its guest says, and the power switch.
//!
//! The guest talks over a serial line into a file, so nothing that it said is lost with it. It says the checksum of every record that
//! its disk has acknowledged, and at every start which records are there: each acknowledged one must be, unchanged.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{LazyLock, Mutex, mpsc};
use std::time::{Duration, Instant};

use crate::guest::{Guest, Layout};

/// How long a single wait may take; generous, because everything is emulated and the machine is shared.
const PATIENCE: Duration = Duration::from_mins(3);
const SUM_CHARACTERS: usize = 64;

/// What the guest's disk is connected to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bus {
    Virtio,
    /// QEMU changes its size only while the machine is off.
    Nvme,
}

/// What a machine is started for.
#[derive(Debug, Clone)]
pub(crate) enum Start<'a> {
    /// To make its image.
    Make,
    /// To be a node of the server at this address.
    Run {
        server: &'a str,
        /// The authority's certificate and a join token.
        ca: &'a Path,
        token: &'a Path,
        /// The moment at which it wants its power cut.
        cut: Option<&'a str>,
        /// The size of the disk, in bytes, at which the moment `arrived` has come.
        grown: u64,
    },
    /// To have its file system checked.
    Check,
}

#[derive(Debug)]
pub(crate) struct Machine {
    pub(crate) name: String,
    layout: Layout,
    bus: Bus,
    directory: PathBuf,
    child: Option<Child>,
    /// How much of what the guest said has been read.
    read_bytes: usize,
    /// Whole words that the guest said in this start: `started`, `cut …`, `made`, `sound`.
    words: Vec<String>,
    acknowledged: BTreeMap<u64, String>,
    found: BTreeMap<u64, String>,
}

impl Machine {
    /// Its image and everything else that is its own are in `directory`, as is its control socket.
    pub(crate) fn new(name: &str, layout: Layout, bus: Bus, directory: &Path) -> Self {
        Self {
            name: name.to_owned(),
            layout,
            bus,
            directory: directory.to_path_buf(),
            child: None,
            read_bytes: 0,
            words: Vec::new(),
            acknowledged: BTreeMap::new(),
            found: BTreeMap::new(),
        }
    }

    pub(crate) fn image(&self) -> PathBuf {
        self.file("image")
    }

    fn file(&self, kind: &str) -> PathBuf {
        if self.name == "image" {
            self.directory.join(kind)
        } else {
            self.directory.join(format!("{}.{kind}", self.name))
        }
    }

    /// Switches it on.
    pub(crate) fn start(&mut self, guest: &Guest, start: &Start<'_>) {
        assert!(self.child.is_none(), "{} runs already", self.name);
        self.words.clear();
        self.found.clear();
        self.end_line();
        let root = &guest.tools.root;
        let mut words = vec![
            "console=ttyS0 quiet no_timer_check tsc=reliable random.trust_cpu=on mitigations=off panic=-1"
                .to_owned(),
            format!("layout={}", self.layout),
        ];
        let mut command = Command::new(root.join("usr/bin/qemu-system-x86_64"));
        command
            .env("LD_LIBRARY_PATH", root.join("usr/lib/x86_64-linux-gnu"))
            .args([
                "-accel",
                "tcg,thread=multi",
                "-M",
                "q35",
                // The plainest: what it has more would be emulated, too.
                "-cpu",
                "qemu64",
                "-m",
                "512",
            ])
            .args(["-display", "none", "-nodefaults", "-no-user-config"]);
        for directory in ["usr/share/qemu", "usr/share/seabios"] {
            command.arg("-L").arg(root.join(directory));
        }
        command.arg("-kernel").arg(&guest.tools.kernel);
        let archive = if matches!(start, Start::Run { .. }) {
            &guest.run_archive
        } else {
            &guest.make_archive
        };
        command.arg("-initrd").arg(archive);
        for kind in ["console", "channel"] {
            let file = format!(
                "file,id={kind},append=on,path={}",
                self.file(kind).display()
            );
            command.args(["-chardev", &file, "-serial", &format!("chardev:{kind}")]);
        }
        let image = self.image();
        let disk = format!(
            "driver=raw,node-name=system,file.driver=file,file.filename={}",
            image.display()
        );
        command
            .args(["-blockdev", &disk, "-device"])
            .arg(match self.bus {
                Bus::Virtio => "virtio-blk-pci,drive=system,serial=system",
                Bus::Nvme => "nvme,drive=system,serial=system",
            });
        match start {
            Start::Make => words.push("mode=make".to_owned()),
            Start::Check => words.push("mode=check".to_owned()),
            Start::Run {
                server,
                ca,
                token,
                cut,
                grown,
            } => {
                words.push(format!(
                    "mode=run name={} server={server} grown={grown}",
                    self.name
                ));
                let number: u32 = self
                    .name
                    .rsplit('-')
                    .next()
                    .and_then(|word| word.parse().ok())
                    .expect("a number at its end");
                words.push(format!("address=10.0.2.{}", 15 + number));
                if let Some(cut) = cut {
                    words.push(format!("cut={cut}"));
                }
                let agent = guest.agent_disk.display();
                let disk = format!(
                    "driver=raw,node-name=agent,read-only=on,file.driver=file,file.filename={agent}"
                );
                let device = "virtio-blk-pci,drive=agent,serial=agent";
                command.args(["-blockdev", &disk, "-device", device]);
                for (name, file) in [("ca", ca), ("token", token)] {
                    command
                        .arg("-fw_cfg")
                        .arg(format!("name=opt/{name},file={}", file.display()));
                }
                command.args([
                    "-netdev",
                    "user,id=net",
                    "-device",
                    "virtio-net-pci,netdev=net,romfile=",
                ]);
                let socket = format!("unix:{},server=on,wait=off", self.file("qmp").display());
                command.args(["-qmp", &socket]);
                if self.bus == Bus::Nvme {
                    command.arg("-no-reboot");
                }
            }
        }
        command
            .args(["-append", &words.join(" ")])
            .stdin(Stdio::null());
        self.child = Some(spawn(command));
    }

    /// A cut may have left half a line.
    fn end_line(&self) {
        let file = fs::File::options()
            .create(true)
            .append(true)
            .open(self.file("channel"));
        file.expect("own directory")
            .write_all(b"\n")
            .expect("own directory");
    }

    /// Cuts the power: what the guest had not written is gone.
    pub(crate) fn cut(&mut self) {
        let mut child = self.child.take().expect("it runs");
        child.kill().expect("it is ours");
        child.wait().expect("it is ours");
        self.listen();
    }

    /// Waits until QEMU has ended by itself.
    pub(crate) fn wait_for_end(&mut self) {
        self.until("its end", Self::ended);
        self.child = None;
    }

    fn ended(&mut self) -> bool {
        let child = self.child.as_mut().expect("it runs");
        child.try_wait().expect("it is ours").is_some()
    }

    /// Waits until the guest has said `word` since its start.
    pub(crate) fn wait_for_word(&mut self, word: &str) {
        self.until(word, |machine| {
            machine.words.iter().any(|said| said == word)
        });
    }

    /// Waits until another record is acknowledged.
    pub(crate) fn wait_for_record(&mut self) {
        let before = self.acknowledged.len();
        self.until("another record", |machine| {
            machine.acknowledged.len() > before
        });
    }

    pub(crate) fn acknowledged(&self) -> usize {
        self.acknowledged.len()
    }

    /// Reads what is on the disk after the machine was switched off, and whether its file system is sound.
    pub(crate) fn check(&mut self, guest: &Guest) {
        self.start(guest, &Start::Check);
        self.wait_for_word("sound");
        self.wait_for_end();
        self.compare();
    }

    #[expect(clippy::disallowed_methods, reason = "a test waits in real time")]
    fn until(&mut self, what: &str, condition: impl Fn(&mut Self) -> bool) {
        let begun = Instant::now();
        loop {
            let ended = self.ended();
            self.listen();
            if condition(self) {
                return;
            }
            let failed = ended || self.words.iter().any(|word| word == "failed");
            assert!(
                begun.elapsed() < PATIENCE && !failed,
                "{} ({}): waited for {what}; it said {:?}\n{}",
                self.name,
                self.layout,
                self.words,
                self.console()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// The end of what its kernel and its agent said.
    pub(crate) fn console(&self) -> String {
        let text = fs::read(self.file("console")).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }

    /// Reads what the guest has said.
    fn listen(&mut self) {
        let text = fs::read(self.file("channel")).unwrap_or_default();
        let Some(end) = text.iter().rposition(|byte| *byte == b'\n') else {
            return;
        };
        let begin = std::mem::replace(&mut self.read_bytes, end + 1);
        let Some(fresh) = text.get(begin..=end) else {
            return;
        };
        for line in String::from_utf8_lossy(fresh).lines() {
            self.hear(line.trim());
        }
    }

    fn hear(&mut self, line: &str) {
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            [kind @ ("wrote" | "found"), number, sum] if sum.len() == SUM_CHARACTERS => {
                let number = number.parse().expect("records have numbers");
                let known = if kind == "wrote" {
                    &mut self.acknowledged
                } else {
                    &mut self.found
                };
                known.insert(number, sum.to_owned());
            }
            ["started"] => {
                self.compare();
                self.words.push(line.to_owned());
            }
            _ => self.words.push(line.to_owned()),
        }
    }

    /// Every acknowledged record is on the disk, unchanged.
    fn compare(&mut self) {
        for (number, sum) in &self.acknowledged {
            assert_eq!(
                self.found.get(number),
                Some(sum),
                "{} ({}): record {number} was acknowledged",
                self.name,
                self.layout
            );
        }
        self.found.clear();
    }
}

/// Starts a process that ends with this one. The kernel ends it with the thread that started it, so that is one that stays.
fn spawn(command: Command) -> Child {
    type Order = (Command, mpsc::Sender<Child>);
    static STARTER: LazyLock<Mutex<mpsc::Sender<Order>>> = LazyLock::new(|| {
        let (orders, inbox) = mpsc::channel::<Order>();
        std::thread::spawn(move || {
            for (mut command, answer) in inbox {
                // SAFETY: between fork and exec only one system call is made, which is async-signal-safe.
                unsafe {
                    command.pre_exec(|| {
                        nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)
                            .map_err(std::io::Error::from)
                    });
                }
                let child = command.spawn().expect("QEMU starts");
                answer.send(child).expect("it is waited for");
            }
        });
        Mutex::new(orders)
    });
    let (answer, started) = mpsc::channel();
    let orders = STARTER.lock().expect("no holder panics");
    orders.send((command, answer)).expect("its thread stays");
    started.recv().expect("QEMU starts")
}

impl Drop for Machine {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
