//! Unfolds a written-down machine into a directory, and stands in for its tools.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use supernode_probe::tools::{Space, Tool, ToolError, ToolOutput};
use supernode_probe::{NvmlReport, Tools};

/// A sample file.
pub(crate) fn sample(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/samples")
        .join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A machine in a directory that goes when it is dropped.
pub(crate) struct Machine {
    directory: tempfile::TempDir,
}

impl Machine {
    pub(crate) fn empty() -> Self {
        Self {
            directory: tempfile::tempdir().expect("a temporary directory"),
        }
    }

    pub(crate) fn load(name: &str) -> Self {
        Self::unfold(name, true)
    }

    /// Without its hundreds of processors, where a test is about something else.
    pub(crate) fn load_devices(name: &str) -> Self {
        Self::unfold(name, false)
    }

    fn unfold(name: &str, with_topology: bool) -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/machines")
            .join(name);
        let text =
            fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let machine = Self::empty();
        let mut file: Option<(String, String)> = None;
        for line in text.lines() {
            let Some(directive) = line.strip_prefix("== ") else {
                if let Some((_, content)) = &mut file {
                    content.push_str(line);
                    content.push('\n');
                }
                continue;
            };
            if let Some((path, content)) = file.take() {
                machine.write(&path, &content);
            }
            let (kind, rest) = directive
                .split_once(' ')
                .expect("a directive has arguments");
            let words: Vec<&str> = rest.split(' ').collect();
            match kind {
                "file" => file = Some((rest.to_owned(), String::new())),
                "sample" => machine.write(words[0], &sample(words[1])),
                "topology" if !with_topology => {}
                "topology" => machine.topology(&words),
                "pci" => machine.pci(&words),
                "nic" => machine.nic(&words),
                "rdma" => machine.rdma(&words),
                "disk" => machine.disk(&words),
                other => panic!("unknown directive {other}"),
            }
        }
        if let Some((path, content)) = file {
            machine.write(&path, &content);
        }
        machine
    }

    pub(crate) fn root(&self) -> &Path {
        self.directory.path()
    }

    pub(crate) fn write(&self, path: &str, content: &str) {
        let path = self.root().join(path);
        fs::create_dir_all(path.parent().expect("it has a parent")).expect("a directory");
        fs::write(path, content).expect("a file");
    }

    pub(crate) fn remove(&self, path: &str) {
        fs::remove_dir_all(self.root().join(path)).expect("it was there");
    }

    fn link(&self, path: &str, target: PathBuf) {
        let path = self.root().join(path);
        fs::create_dir_all(path.parent().expect("it has a parent")).expect("a directory");
        symlink(target, path).expect("a link");
    }

    fn topology(&self, words: &[&str]) {
        let value = |name: &str| {
            after(words, name)
                .expect("a number")
                .parse::<u32>()
                .expect("a number")
        };
        let (sockets, cores, threads, nodes) = (
            value("sockets"),
            value("cores"),
            value("threads"),
            value("nodes"),
        );
        let all = sockets * cores * threads;
        self.write("sys/devices/system/cpu/online", &format!("0-{}\n", all - 1));
        for number in 0..all {
            let core = number % (sockets * cores);
            let siblings: Vec<String> = (0..threads)
                .map(|thread| (core + thread * sockets * cores).to_string())
                .collect();
            let at = |file: &str| format!("sys/devices/system/cpu/cpu{number}/topology/{file}");
            self.write(&at("physical_package_id"), &format!("{}\n", core / cores));
            self.write(
                &at("thread_siblings_list"),
                &format!("{}\n", siblings.join(",")),
            );
        }
        for node in 0..nodes {
            self.write(
                &format!("sys/devices/system/node/node{node}/cpulist"),
                "0-1\n",
            );
        }
        self.write("sys/devices/system/node/possible", "0-15\n");
    }

    fn pci(&self, words: &[&str]) {
        for name in ["class", "vendor", "device"] {
            let value = after(words, name).expect("a number");
            self.write(
                &format!("sys/bus/pci/devices/{}/{name}", words[0]),
                &format!("{value}\n"),
            );
        }
    }

    /// As the kernel does it: the interface's directory is a link into the device tree, and has a link back to its device.
    fn nic(&self, words: &[&str]) {
        let (name, address) = (words[0], after(words, "pci").expect("an address"));
        let device = format!("sys/devices/pci0000:00/{address}");
        let interface = format!("{device}/net/{name}");
        self.write(
            &format!("{interface}/address"),
            &format!("{}\n", after(words, "mac").expect("an address")),
        );
        self.write(
            &format!("{interface}/operstate"),
            &format!("{}\n", after(words, "state").expect("a state")),
        );
        if let Some(speed) = after(words, "speed").filter(|speed| *speed != "none") {
            self.write(&format!("{interface}/speed"), &format!("{speed}\n"));
        }
        self.link(
            &format!("{interface}/device"),
            PathBuf::from(format!("../../../{address}")),
        );
        let driver = after(words, "driver").expect("a driver");
        self.link(
            &format!("{device}/driver"),
            PathBuf::from(format!("../../../bus/pci/drivers/{driver}")),
        );
        self.link(
            &format!("sys/class/net/{name}"),
            PathBuf::from(format!("../../devices/pci0000:00/{address}/net/{name}")),
        );
        if let Some(rdma) = after(words, "rdma") {
            self.write(
                &format!("{device}/infiniband/{rdma}/fw_ver"),
                "28.39.1002\n",
            );
            self.link(
                &format!("{device}/infiniband/{rdma}/device"),
                PathBuf::from("../.."),
            );
            self.link(
                &format!("sys/class/infiniband/{rdma}"),
                PathBuf::from(format!(
                    "../../devices/pci0000:00/{address}/infiniband/{rdma}"
                )),
            );
        }
        if words.contains(&"virtual") {
            self.write(&format!("{device}/physfn/vendor"), "0x15b3\n");
        }
    }

    fn rdma(&self, words: &[&str]) {
        let name = words[0];
        if let Some(address) = after(words, "pci") {
            let device = format!("sys/devices/pci0000:00/{address}");
            self.write(
                &format!("{device}/infiniband/{name}/fw_ver"),
                "28.39.1002\n",
            );
            self.link(
                &format!("{device}/infiniband/{name}/device"),
                PathBuf::from("../.."),
            );
            self.link(
                &format!("{device}/driver"),
                PathBuf::from("../../../bus/pci/drivers/mlx5_core"),
            );
            self.link(
                &format!("sys/class/infiniband/{name}"),
                PathBuf::from(format!(
                    "../../devices/pci0000:00/{address}/infiniband/{name}"
                )),
            );
        }
        let at = words
            .iter()
            .position(|word| *word == "rate")
            .expect("a rate")
            + 1;
        let rate: Vec<&str> = words[at..]
            .iter()
            .copied()
            .take_while(|word| *word != "pci")
            .collect();
        self.write(
            &format!("sys/class/infiniband/{name}/ports/1/state"),
            &format!("4: {}\n", after(words, "state").expect("a state")),
        );
        self.write(
            &format!("sys/class/infiniband/{name}/ports/1/rate"),
            &format!("{}\n", rate.join(" ")),
        );
    }

    fn disk(&self, words: &[&str]) {
        let name = words[0];
        self.write(
            &format!("sys/block/{name}/size"),
            &format!("{}\n", after(words, "sectors").expect("a size")),
        );
        self.write(
            &format!("sys/block/{name}/queue/rotational"),
            &format!("{}\n", after(words, "rotational").expect("0 or 1")),
        );
        self.write(
            &format!("sys/block/{name}/removable"),
            if words.contains(&"removable") {
                "1\n"
            } else {
                "0\n"
            },
        );
        for file in ["model", "serial"] {
            if let Some(value) = after(words, file).filter(|value| *value != "-") {
                self.write(
                    &format!("sys/block/{name}/device/{file}"),
                    &format!("{value}   \n"),
                );
            }
        }
    }
}

fn after<'a>(words: &[&'a str], name: &str) -> Option<&'a str> {
    words
        .iter()
        .position(|word| *word == name)
        .and_then(|at| words.get(at + 1))
        .copied()
}

/// Answers written down beforehand; remembers what was asked.
#[derive(Default)]
pub(crate) struct Answers {
    pub(crate) tools: BTreeMap<String, Result<ToolOutput, ToolError>>,
    pub(crate) nvml: Option<Result<NvmlReport, String>>,
    pub(crate) asked: RefCell<Vec<String>>,
}

impl Answers {
    /// `arguments` is the argument vector with spaces between; the tool succeeds.
    pub(crate) fn npu_smi(&mut self, arguments: &str, text: impl Into<String>) {
        self.tools.insert(
            arguments.to_owned(),
            Ok(ToolOutput {
                text: text.into(),
                success: true,
            }),
        );
    }

    pub(crate) fn asked(&self) -> Vec<String> {
        self.asked.borrow().clone()
    }
}

impl Tools for Answers {
    fn run(&self, tool: Tool, arguments: &[&str]) -> Result<ToolOutput, ToolError> {
        let question = arguments.join(" ");
        self.asked.borrow_mut().push(format!("{tool:?} {question}"));
        let absent = || {
            Err(ToolError::NotFound {
                tool: "npu-smi".into(),
            })
        };
        self.tools.get(&question).cloned().unwrap_or_else(absent)
    }

    fn nvml(&self) -> Result<NvmlReport, String> {
        self.asked.borrow_mut().push("nvml".into());
        self.nvml.clone().unwrap_or_else(|| {
            Err("its library libnvidia-ml.so.1 is not installed; install the NVIDIA driver".into())
        })
    }

    fn installed(&self, _program: &str) -> bool {
        false
    }

    fn space(&self, _path: &Path) -> Option<Space> {
        Some(Space {
            size_bytes: 1 << 40,
            used_bytes: 1 << 39,
        })
    }
}
