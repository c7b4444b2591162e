//! The CUDA driver, as much of it as the kernels need: contexts, memory, copies, events, and launching what `kernels.ptx` holds.
//!
//! Source: the CUDA Driver API reference (`cuda.h`); symbols with `_v2` are those that its header has meant since CUDA 4.

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::fmt;
use std::ptr::{null, null_mut};
use std::sync::OnceLock;

use super::library::{functions, open};
use crate::ascend::normalise_bus_address;

type Handle = *mut c_void;

functions! {
    /// Functions of `libcuda.so.1`.
    Functions {
        init = "cuInit"(c_uint);
        error_name = "cuGetErrorName"(c_int, *mut *const c_char);
        error_string = "cuGetErrorString"(c_int, *mut *const c_char);
        device_count = "cuDeviceGetCount"(*mut c_int);
        device = "cuDeviceGet"(*mut c_int, c_int);
        device_address = "cuDeviceGetPCIBusId"(*mut c_char, c_int, c_int);
        device_attribute = "cuDeviceGetAttribute"(*mut c_int, c_int, c_int);
        context_retain = "cuDevicePrimaryCtxRetain"(*mut Handle, c_int);
        context_release = "cuDevicePrimaryCtxRelease_v2"(c_int);
        context_set = "cuCtxSetCurrent"(Handle);
        synchronize = "cuCtxSynchronize"();
        can_access_peer = "cuDeviceCanAccessPeer"(*mut c_int, c_int, c_int);
        enable_peer = "cuCtxEnablePeerAccess"(Handle, c_uint);
        memory_info = "cuMemGetInfo_v2"(*mut usize, *mut usize);
        allocate = "cuMemAlloc_v2"(*mut u64, usize);
        free = "cuMemFree_v2"(u64);
        host_allocate = "cuMemHostAlloc"(*mut *mut c_void, usize, c_uint);
        host_free = "cuMemFreeHost"(*mut c_void);
        set_bytes = "cuMemsetD8_v2"(u64, u8, usize);
        to_device = "cuMemcpyHtoDAsync_v2"(u64, *const c_void, usize, Handle);
        to_host = "cuMemcpyDtoHAsync_v2"(*mut c_void, u64, usize, Handle);
        inside = "cuMemcpyDtoDAsync_v2"(u64, u64, usize, Handle);
        to_peer = "cuMemcpyPeerAsync"(u64, Handle, u64, Handle, usize, Handle);
        event_create = "cuEventCreate"(*mut Handle, c_uint);
        event_destroy = "cuEventDestroy_v2"(Handle);
        event_record = "cuEventRecord"(Handle, Handle);
        event_synchronize = "cuEventSynchronize"(Handle);
        event_elapsed = "cuEventElapsedTime"(*mut f32, Handle, Handle);
        module_load = "cuModuleLoadData"(*mut Handle, *const c_void);
        module_unload = "cuModuleUnload"(Handle);
        module_function = "cuModuleGetFunction"(*mut Handle, Handle, *const c_char);
        launch = "cuLaunchKernel"(
            Handle, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, Handle, *mut *mut c_void, *mut *mut c_void
        );
    }
}

/// `CU_EVENT_BLOCKING_SYNC`: a thread that waits leaves its processor to others.
const BLOCKING: c_uint = 1;
/// `CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED`.
const ALREADY: c_int = 704;
/// Errors that say that nothing could be begun (no memory, no device, a driver that does not fit, somebody else's device), not that
/// something broke.
const NOT_BEGUN: [c_int; 9] = [2, 3, 34, 46, 100, 101, 803, 804, 805];

/// What the driver or a library of it answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Failure {
    /// What was to be done.
    pub(super) what: &'static str,
    /// The status, as the vendor names and explains it.
    pub(super) answer: String,
    /// Whether something broke that had begun to work.
    pub(super) broke: bool,
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {}", self.what, self.answer)
    }
}

/// The driver of this machine.
pub(super) struct Driver {
    functions: Functions,
}

impl Driver {
    /// Loads and initialises it, once for the process.
    pub(super) fn get() -> Result<&'static Self, String> {
        static DRIVER: OnceLock<Result<Driver, String>> = OnceLock::new();
        DRIVER
            .get_or_init(|| {
                let library = open(&["libcuda.so.1"]).map_err(|why| {
                    format!(
                        "the NVIDIA driver's library cannot be loaded: {why}; install the driver"
                    )
                })?;
                let driver = Self {
                    functions: Functions::of(library)
                        .map_err(|why| format!("libcuda.so.1 is too old: {why}"))?,
                };
                // SAFETY: takes a number.
                let status = unsafe { (driver.functions.init)(0) };
                driver
                    .check("initialise the driver", status)
                    .map_err(|failure| failure.to_string())?;
                Ok(driver)
            })
            .as_ref()
            .map_err(Clone::clone)
    }

    fn check(&self, what: &'static str, status: c_int) -> Result<(), Failure> {
        if status == 0 {
            return Ok(());
        }
        let text = |function: unsafe extern "C" fn(c_int, *mut *const c_char) -> c_int| {
            let mut text = null();
            // SAFETY: gives a text that lives as long as the library, or nothing.
            unsafe {
                if function(status, &raw mut text) != 0 || text.is_null() {
                    return String::new();
                }
                CStr::from_ptr(text).to_string_lossy().into_owned()
            }
        };
        Err(Failure {
            what,
            answer: format!(
                "{} ({status}): {}",
                text(self.functions.error_name),
                text(self.functions.error_string)
            ),
            broke: !NOT_BEGUN.contains(&status),
        })
    }

    /// The devices that it lists, as bus address and its own number, in the order of their addresses: that of NVML and of the inventory.
    pub(super) fn devices(&self) -> Result<Vec<(String, c_int)>, Failure> {
        let mut count = 0;
        // SAFETY: writes a number.
        let status = unsafe { (self.functions.device_count)(&raw mut count) };
        self.check("count the devices", status)?;
        let mut devices = Vec::new();
        for ordinal in 0..count {
            let (mut device, mut text) = (0, [0_u8; 32]);
            // SAFETY: write a number, and at most so many bytes with a zero at their end.
            unsafe {
                self.check(
                    "find a device",
                    (self.functions.device)(&raw mut device, ordinal),
                )?;
                let status = (self.functions.device_address)(text.as_mut_ptr().cast(), 32, device);
                self.check("ask a device for its address", status)?;
            }
            let text = CStr::from_bytes_until_nul(&text)
                .unwrap_or_default()
                .to_string_lossy();
            devices.push((
                normalise_bus_address(&text).unwrap_or(text.into_owned()),
                device,
            ));
        }
        devices.sort();
        Ok(devices)
    }
}

/// One device in use by this thread.
pub(super) struct Gpu {
    driver: &'static Driver,
    device: c_int,
    context: Handle,
    module: Handle,
}

impl Gpu {
    /// Makes a device this thread's own.
    pub(super) fn open(driver: &'static Driver, device: c_int) -> Result<Self, Failure> {
        let mut context = null_mut();
        // SAFETY: writes a handle, which is released in `drop`.
        let status = unsafe { (driver.functions.context_retain)(&raw mut context, device) };
        driver.check("take the device into use", status)?;
        let mut gpu = Self {
            driver,
            device,
            context,
            module: null_mut(),
        };
        gpu.enter()?;
        let text = concat!(include_str!("kernels.ptx"), "\0");
        let mut module = null_mut();
        // SAFETY: the text ends with a zero, and is copied.
        let status =
            unsafe { (driver.functions.module_load)(&raw mut module, text.as_ptr().cast()) };
        driver.check("translate the kernels for the device", status)?;
        gpu.module = module;
        Ok(gpu)
    }

    /// Whatever follows in this thread is about this device.
    pub(super) fn enter(&self) -> Result<(), Failure> {
        // SAFETY: the context lives as long as this.
        let status = unsafe { (self.driver.functions.context_set)(self.context) };
        self.check("turn to the device", status)
    }

    pub(super) fn check(&self, what: &'static str, status: c_int) -> Result<(), Failure> {
        self.driver.check(what, status)
    }

    /// Major and minor number of what the device can do.
    pub(super) fn capability(&self) -> Result<(i32, i32), Failure> {
        Ok((self.attribute(75)?, self.attribute(76)?))
    }

    /// How many groups of threads keep the device busy.
    fn blocks(&self) -> Result<u32, Failure> {
        let processors = self.attribute(16)?;
        Ok(32 * u32::try_from(processors).unwrap_or(1).max(1))
    }

    fn attribute(&self, number: c_int) -> Result<i32, Failure> {
        let mut value = 0;
        // SAFETY: writes a number.
        let status = unsafe {
            (self.driver.functions.device_attribute)(&raw mut value, number, self.device)
        };
        self.check("ask the device what it is", status)?;
        Ok(value)
    }

    /// Bytes of its memory that nobody uses.
    pub(super) fn free_bytes(&self) -> Result<usize, Failure> {
        let (mut free, mut total) = (0, 0);
        // SAFETY: writes two numbers.
        let status = unsafe { (self.driver.functions.memory_info)(&raw mut free, &raw mut total) };
        self.check("ask the device for its memory", status)?;
        Ok(free)
    }

    /// Memory of the device, all zero.
    pub(super) fn allocate(&self, bytes: usize) -> Result<Memory<'_>, Failure> {
        let mut pointer = 0;
        // SAFETY: writes an address, which is freed in `drop`.
        unsafe {
            let status = (self.driver.functions.allocate)(&raw mut pointer, bytes);
            self.check("take memory of the device", status)?;
            let memory = Memory {
                gpu: self,
                pointer,
                bytes,
            };
            self.check(
                "clear memory of the device",
                (self.driver.functions.set_bytes)(pointer, 0, bytes),
            )?;
            Ok(memory)
        }
    }

    /// Memory of the host that the device reaches by itself.
    pub(super) fn pinned(&self, bytes: usize) -> Result<Pinned<'_>, Failure> {
        let mut pointer = null_mut();
        // SAFETY: writes an address, which is freed in `drop`.
        let status = unsafe { (self.driver.functions.host_allocate)(&raw mut pointer, bytes, 0) };
        self.check("take memory of the host for the device", status)?;
        let mut pinned = Pinned {
            gpu: self,
            pointer: pointer.cast(),
            bytes,
        };
        pinned.bytes_mut().fill(0);
        Ok(pinned)
    }

    /// Writes bytes of the host into memory of the device, and waits.
    pub(super) fn write(&self, to: &Memory<'_>, from: &[u8]) -> Result<(), Failure> {
        assert!(from.len() <= to.bytes);
        // SAFETY: both are as long as this, and outlive the copy, which is waited for.
        let status = unsafe {
            (self.driver.functions.to_device)(
                to.pointer,
                from.as_ptr().cast(),
                from.len(),
                null_mut(),
            )
        };
        self.check("copy to the device", status)?;
        self.wait()
    }

    /// Reads memory of the device, and waits.
    pub(super) fn read(&self, to: &mut [u8], from: &Memory<'_>) -> Result<(), Failure> {
        assert!(to.len() <= from.bytes);
        // SAFETY: as in `write`.
        let status = unsafe {
            (self.driver.functions.to_host)(
                to.as_mut_ptr().cast(),
                from.pointer,
                to.len(),
                null_mut(),
            )
        };
        self.check("copy from the device", status)?;
        self.wait()
    }

    /// Copies inside the device; does not wait.
    pub(super) fn copy(&self, to: &Memory<'_>, from: &Memory<'_>) -> Result<(), Failure> {
        let bytes = to.bytes.min(from.bytes);
        // SAFETY: both are as long as this, and whoever frees one waits first.
        let status =
            unsafe { (self.driver.functions.inside)(to.pointer, from.pointer, bytes, null_mut()) };
        self.check("copy inside the device", status)
    }

    /// Begins a copy between the host and the device.
    pub(super) fn exchange(
        &self,
        device: &Memory<'_>,
        host: &Pinned<'_>,
        out: bool,
    ) -> Result<(), Failure> {
        let bytes = device.bytes.min(host.bytes);
        let functions = &self.driver.functions;
        // SAFETY: both are as long as this, and whoever frees or reads one waits first.
        let status = unsafe {
            if out {
                (functions.to_device)(device.pointer, host.pointer.cast(), bytes, null_mut())
            } else {
                (functions.to_host)(host.pointer.cast(), device.pointer, bytes, null_mut())
            }
        };
        self.check("copy between host and device", status)
    }

    /// Begins a copy of the first bytes from this device to another.
    pub(super) fn send(
        &self,
        from: &Memory<'_>,
        peer: &Self,
        to: &Memory<'_>,
        bytes: usize,
    ) -> Result<(), Failure> {
        assert!(bytes <= from.bytes && bytes <= to.bytes);
        // SAFETY: both are as long as this, and whoever frees one waits first.
        let status = unsafe {
            (self.driver.functions.to_peer)(
                to.pointer,
                peer.context,
                from.pointer,
                self.context,
                bytes,
                null_mut(),
            )
        };
        self.check("copy to another device", status)
    }

    /// Lets copies to a peer go without the host, where hardware can. Says whether it can.
    pub(super) fn reach(&self, peer: &Self) -> Result<bool, Failure> {
        let mut can = 0;
        let functions = &self.driver.functions;
        // SAFETY: writes a number; the peer's context lives.
        unsafe {
            let status = (functions.can_access_peer)(&raw mut can, self.device, peer.device);
            self.check("ask whether a device reaches another", status)?;
            if can == 0 {
                return Ok(false);
            }
            match (functions.enable_peer)(peer.context, 0) {
                ALREADY => {}
                status => self.check("let a device reach another", status)?,
            }
        }
        Ok(true)
    }

    /// Waits for everything that was begun.
    pub(super) fn wait(&self) -> Result<(), Failure> {
        // SAFETY: takes nothing.
        let status = unsafe { (self.driver.functions.synchronize)() };
        self.check("wait for the device", status)
    }

    /// Seconds that the device needed for what `begin` begins.
    pub(super) fn timed(
        &self,
        begin: impl FnOnce() -> Result<(), Failure>,
    ) -> Result<f64, Failure> {
        let functions = &self.driver.functions;
        let (start, end) = (Mark::new(self)?, Mark::new(self)?);
        let mut milliseconds = 0.0_f32;
        // SAFETY: both events live until after they were waited for.
        unsafe {
            self.check(
                "mark a moment",
                (functions.event_record)(start.event, null_mut()),
            )?;
            begin()?;
            self.check(
                "mark a moment",
                (functions.event_record)(end.event, null_mut()),
            )?;
            self.check(
                "wait for the device",
                (functions.event_synchronize)(end.event),
            )?;
            let status = (functions.event_elapsed)(&raw mut milliseconds, start.event, end.event);
            self.check("tell the time of the device", status)?;
        }
        Ok(f64::from(milliseconds).max(1e-6) / 1e3)
    }

    /// Begins one of the kernels of `kernels.ptx` on as many threads as keep the device busy.
    fn launch(&self, name: &'static CStr, arguments: &mut [u64]) -> Result<(), Failure> {
        const THREADS: c_uint = 256;
        let functions = &self.driver.functions;
        let mut function = null_mut();
        let mut pointers: Vec<*mut c_void> = arguments
            .iter_mut()
            .map(|value| (&raw mut *value).cast())
            .collect();
        // SAFETY: every kernel takes as many numbers of 64 bits as its caller below gives; they are copied before this returns.
        unsafe {
            let status = (functions.module_function)(&raw mut function, self.module, name.as_ptr());
            self.check("find a kernel", status)?;
            let status = (functions.launch)(
                function,
                self.blocks()?,
                1,
                1,
                THREADS,
                1,
                1,
                0,
                null_mut(),
                pointers.as_mut_ptr(),
                null_mut(),
            );
            self.check("begin a kernel", status)
        }
    }

    /// The digest of the whole words of 32 bits in a piece of memory, see [`super::digest`]. `sum` has at least 8 bytes.
    pub(super) fn digest(&self, memory: &Memory<'_>, sum: &Memory<'_>) -> Result<u64, Failure> {
        self.write(sum, &[0; 8])?;
        self.launch(
            c"digest",
            &mut [memory.pointer, memory.bytes as u64 / 4, sum.pointer],
        )?;
        let mut bytes = [0; 8];
        self.read(&mut bytes, sum)?;
        Ok(u64::from_le_bytes(bytes))
    }

    /// Begins to write the pattern of a round over a piece of memory whose first word has this number.
    pub(super) fn pattern_write(
        &self,
        memory: &Memory<'_>,
        first: u64,
        round: u64,
    ) -> Result<(), Failure> {
        self.launch(
            c"pattern_write",
            &mut [memory.pointer, memory.words(), first, round],
        )
    }

    /// Begins to compare a piece with its pattern, of which the bits `flipped` are inverted, and to write it inverted.
    pub(super) fn pattern_invert(
        &self,
        memory: &Memory<'_>,
        (first, round, flipped): (u64, u64, u64),
        faults: &Memory<'_>,
    ) -> Result<(), Failure> {
        let mut arguments = [
            memory.pointer,
            memory.words(),
            first,
            round,
            flipped,
            faults.pointer,
        ];
        self.launch(c"pattern_invert", &mut arguments)
    }
}

impl Drop for Gpu {
    fn drop(&mut self) {
        // SAFETY: both were taken in `open`, and everything that used them has a shorter life. A broken device answers with an error,
        // which changes nothing any more.
        unsafe {
            let _ = (self.driver.functions.context_set)(self.context);
            if !self.module.is_null() {
                let _ = (self.driver.functions.module_unload)(self.module);
            }
            let _ = (self.driver.functions.context_release)(self.device);
        }
    }
}

/// Memory of a device.
pub(super) struct Memory<'a> {
    gpu: &'a Gpu,
    pub(super) pointer: u64,
    pub(super) bytes: usize,
}

impl Memory<'_> {
    fn words(&self) -> u64 {
        self.bytes as u64 / 8
    }
}

impl Drop for Memory<'_> {
    fn drop(&mut self) {
        // SAFETY: taken in `allocate`, and freed once; the context is turned to first, since a thread may use several.
        unsafe {
            let _ = (self.gpu.driver.functions.context_set)(self.gpu.context);
            let _ = (self.gpu.driver.functions.synchronize)();
            let _ = (self.gpu.driver.functions.free)(self.pointer);
        }
    }
}

/// Memory of the host that a device reaches by itself.
pub(super) struct Pinned<'a> {
    gpu: &'a Gpu,
    pointer: *mut u8,
    bytes: usize,
}

impl Pinned<'_> {
    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: so many bytes were allocated, and nobody else has them but copies, which the caller has waited for.
        unsafe { std::slice::from_raw_parts_mut(self.pointer, self.bytes) }
    }
}

impl Drop for Pinned<'_> {
    fn drop(&mut self) {
        // SAFETY: taken in `pinned`, freed once, after copies have ended.
        unsafe {
            let _ = (self.gpu.driver.functions.context_set)(self.gpu.context);
            let _ = (self.gpu.driver.functions.synchronize)();
            let _ = (self.gpu.driver.functions.host_free)(self.pointer.cast());
        }
    }
}

/// A moment on the device.
struct Mark<'a> {
    gpu: &'a Gpu,
    event: Handle,
}

impl<'a> Mark<'a> {
    fn new(gpu: &'a Gpu) -> Result<Self, Failure> {
        let mut event = null_mut();
        // SAFETY: writes a handle, which is destroyed in `drop`.
        let status = unsafe { (gpu.driver.functions.event_create)(&raw mut event, BLOCKING) };
        gpu.check("make an event", status)?;
        Ok(Self { gpu, event })
    }
}

impl Drop for Mark<'_> {
    fn drop(&mut self) {
        // SAFETY: made in `new`, destroyed once.
        unsafe {
            let _ = (self.gpu.driver.functions.event_destroy)(self.event);
        }
    }
}
