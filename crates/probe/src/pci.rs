//! Accelerators on the PCI bus, from `/sys/bus/pci`: what is fitted, whether or not a driver answers.

use supernode_types::inventory::PciAccelerator;

use crate::files::Files;

pub(crate) const NVIDIA: u16 = 0x10de;
pub(crate) const HUAWEI: u16 = 0x19e5;

/// "Processing accelerator": NPUs, Gaudi, and the like.
const CLASS_ACCELERATOR: u32 = 0x12;
/// "Display controller": GPUs with (0x0300) and without (0x0302) a screen.
const CLASS_VGA: u32 = 0x0300;
const CLASS_3D: u32 = 0x0302;
const CLASS_OTHER_DISPLAY: u32 = 0x0380;

pub(crate) fn discover(files: Files<'_>) -> Vec<PciAccelerator> {
    files
        .names("sys/bus/pci/devices")
        .into_iter()
        .filter_map(|address| accelerator(files, address))
        .collect()
}

fn accelerator(files: Files<'_>, address: String) -> Option<PciAccelerator> {
    let at = |file: &str| format!("sys/bus/pci/devices/{address}/{file}");
    let class = files.hexadecimal(&at("class"))? >> 8;
    let vendor_id = u16::try_from(files.hexadecimal(&at("vendor"))?).ok()?;
    // A screen alone is no accelerator: servers have one behind their management controller.
    let computes = class >> 8 == CLASS_ACCELERATOR
        || matches!(class, CLASS_3D | CLASS_OTHER_DISPLAY)
        || (class == CLASS_VGA && vendor_id == NVIDIA);
    if !computes || files.exists(&at("physfn")) {
        return None;
    }
    let device_id = u16::try_from(files.hexadecimal(&at("device"))?).ok()?;
    Some(PciAccelerator {
        vendor: vendor_name(vendor_id),
        vendor_id,
        device_id,
        address,
    })
}

fn vendor_name(vendor_id: u16) -> String {
    let name = match vendor_id {
        NVIDIA => "NVIDIA",
        HUAWEI => "Huawei",
        0x1002 => "AMD",
        0x8086 => "Intel",
        0x1da3 => "Habana Labs",
        0xcabc => "Cambricon",
        0x1d0f => "Amazon",
        0x1ae0 => "Google",
        0x1ed5 => "Moore Threads",
        other => return format!("{other:#06x}"),
    };
    name.to_owned()
}
