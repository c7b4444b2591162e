//! Samples of NVIDIA's files, and their parsers with broken ones.

use proptest::prelude::*;
use supernode_probe::nvidia::{
    parse_driver_version, parse_nvcc_version, parse_version_json, parse_version_txt,
};
use supernode_probe::tools::ToolOutput;

use crate::machine::{Answers, Machine, sample};

#[test]
fn versions_in_files() {
    assert_eq!(
        parse_driver_version(&sample("proc-driver-nvidia-version.txt")).as_deref(),
        Some("550.54.15")
    );
    let closed = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.129.03  Thu Oct 19 18:56:32 UTC 2023\n";
    assert_eq!(parse_driver_version(closed).as_deref(), Some("535.129.03"));
    assert_eq!(
        parse_version_json(&sample("cuda-version.json")).as_deref(),
        Some("12.4.1")
    );
    assert_eq!(
        parse_version_txt("CUDA Version 10.2.89\n").as_deref(),
        Some("10.2.89")
    );
    assert_eq!(
        parse_nvcc_version(&sample("nvcc-version.txt")).as_deref(),
        Some("12.4.131")
    );
}

#[test]
fn text_that_is_no_version_is_none() {
    assert_eq!(parse_version_json(r#"{"cuda":{"version":7}}"#), None);
    assert_eq!(parse_version_json(r#"{"cuda":{"version":"12; rm"}}"#), None);
    assert_eq!(parse_nvcc_version("release 12.4, V"), None);
    assert_eq!(parse_driver_version("NVRM version: none\n"), None);
}

#[test]
fn the_compiler_is_asked_only_where_no_file_tells() {
    let machine = Machine::load_devices("laptop.txt");
    machine.write("usr/local/cuda/bin/nvcc", "");
    let mut answers = Answers::default();
    answers.tools.insert(
        "--version".into(),
        Ok(ToolOutput {
            text: sample("nvcc-version.txt"),
            success: true,
        }),
    );
    let inventory = supernode_probe::discover(machine.root(), &answers);
    assert_eq!(inventory.version("cuda"), Some("12.4.131"));
    machine.write("usr/local/cuda/version.json", &sample("cuda-version.json"));
    let inventory = supernode_probe::discover(machine.root(), &answers);
    assert_eq!(inventory.version("cuda"), Some("12.4.1"));
    assert_eq!(answers.asked(), ["Nvcc --version"]);
}

proptest! {
    #[test]
    fn broken_text_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300), cut in 0usize..400) {
        let mut texts = vec![String::from_utf8_lossy(&bytes).into_owned()];
        for name in ["cuda-version.json", "nvcc-version.txt", "proc-driver-nvidia-version.txt"] {
            let text = sample(name);
            texts.push(text[..cut.min(text.len())].to_owned());
        }
        for text in texts {
            let _ = (parse_driver_version(&text), parse_version_json(&text), parse_version_txt(&text), parse_nvcc_version(&text));
        }
    }
}
