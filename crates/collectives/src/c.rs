//! The C interface: a handful of functions over opaque pointers. `include/supernode_collectives.h` describes them.
//!
//! Functions answer 0, or -1 and a text for the calling thread. Nothing unwinds into C. Numbers of kinds, types and reductions are those on the
//! wire, so the header is written from the same tables (`examples/header.rs`), and `cargo xtask ci` compares it.
//!
//! Safety is the caller's: pointers are those that these functions gave, buffers are as large as the operator needs and stay untouched until
//! the request was waited for.

use std::cell::RefCell;
use std::ffi::{CStr, CString, c_char, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};

use std::time::Duration;

use crate::element::{DataType, Reduction};
use crate::group::{Environment, Group, Handle};
use crate::memory::{Buffer, Input};
use crate::operator::{Kind, Operator};

thread_local! {
    static LAST_ERROR: RefCell<CString> = RefCell::default();
}

/// An operator as C describes it. `kind` is [`Kind::code`], except that the two ends of a message are [`SEND`] and [`RECEIVE`].
#[repr(C)]
#[derive(Debug)]
pub struct COperator {
    /// What is done.
    pub kind: u32,
    /// The type of the elements.
    pub data_type: u32,
    /// How to combine, where that matters.
    pub reduction: u32,
    /// The root, or the other end of a message, where that matters.
    pub peer: u32,
    /// Elements, as the kind counts them.
    pub count: u64,
    /// For an all-to-all: elements for each rank.
    pub send_counts: *const u64,
    /// For an all-to-all: elements from each rank.
    pub receive_counts: *const u64,
}

/// The kind of the sending end of a message.
pub const SEND: u32 = 16;
/// The kind of the receiving end.
pub const RECEIVE: u32 = 17;

/// Runs `f`; a failure or a panic becomes the last error of this thread.
fn guarded<T>(otherwise: T, f: impl FnOnce() -> Result<T, String>) -> T {
    let result = catch_unwind(AssertUnwindSafe(f));
    let text = match result {
        Ok(Ok(value)) => return value,
        Ok(Err(text)) => text,
        Err(_) => "a defect of the library; what it said stands in the standard error".to_owned(),
    };
    let text = CString::new(text.replace('\0', " ")).unwrap_or_default();
    LAST_ERROR.with(|last| *last.borrow_mut() = text);
    otherwise
}

/// With the reasons behind it.
fn whole(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(reason) = source {
        text.push_str(": ");
        text.push_str(&reason.to_string());
        source = reason.source();
    }
    text
}

/// Why the last call of this thread failed. Valid until the next call of this thread.
#[unsafe(no_mangle)]
pub extern "C" fn supernode_collective_last_error() -> *const c_char {
    LAST_ERROR.with(|last| last.borrow().as_ptr())
}

/// Joins a group. `settings` are lines `NAME=VALUE` that go before the variables of the process; it may be null.
///
/// # Safety
///
/// `settings` is null or ends with a zero byte; `group` can be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn supernode_collective_join(
    settings: *const c_char,
    wait_milliseconds: u64,
    group: *mut *mut Group,
) -> i32 {
    guarded(-1, || {
        let settings = if settings.is_null() {
            String::new()
        } else {
            // SAFETY: it ends with a zero byte by the promise of the caller.
            unsafe { CStr::from_ptr(settings) }
                .to_string_lossy()
                .into_owned()
        };
        let setting = |name: &str| {
            let mut lines = settings.lines().filter_map(|line| line.split_once('='));
            let found = lines.find(|(known, _)| *known == name);
            found.map_or_else(
                || std::env::var(name).ok(),
                |(_, value)| Some(value.to_owned()),
            )
        };
        let environment = Environment::read(setting).map_err(|error| whole(&error))?;
        let joined = environment
            .join(Duration::from_millis(wait_milliseconds))
            .map_err(|error| whole(&error))?;
        // SAFETY: it can be written by the promise of the caller.
        unsafe { *group = Box::into_raw(Box::new(joined)) };
        Ok(0)
    })
}

/// Leaves a group, after everybody has what they need from this rank. All requests were waited for.
///
/// # Safety
///
/// `group` came from [`supernode_collective_join`] and is not used any more. It may be null.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn supernode_collective_leave(group: *mut Group) {
    guarded((), || {
        if !group.is_null() {
            // SAFETY: it came from `Box::into_raw` and is given back once, by the promise of the caller.
            drop(unsafe { Box::from_raw(group) });
        }
        Ok(())
    });
}

/// Starts an operator. `input` may be null: then the output is the input too.
///
/// # Safety
///
/// `group` is joined; `operator` and its counts can be read; `input` and `output` have the bytes that the operator needs and are not touched
/// until the request was waited for; `request` can be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn supernode_collective_start(
    group: *const Group,
    operator: *const COperator,
    input: *const c_void,
    output: *mut c_void,
    request: *mut *mut Handle,
) -> i32 {
    guarded(-1, || {
        // SAFETY: both are valid by the promise of the caller.
        let (group, operator) = unsafe { (&*group, &*operator) };
        let (rank, world) = (group.rank(), group.world());
        // SAFETY: the counts can be read by the promise of the caller.
        let operator = unsafe { rust_operator(operator, world) }?;
        operator
            .validate(rank, world)
            .map_err(|error| whole(&error))?;
        let size = operator.data_type.size();
        let bytes = operator.output_count(rank, world) * size;
        // SAFETY: large enough and untouched until the end, by the promise of the caller.
        let output = unsafe { Buffer::lend(output.cast(), bytes) };
        let input = if input.is_null() {
            Input::InPlace
        } else {
            let bytes = operator.input_count(rank, world) * size;
            // SAFETY: as above; an input is only read.
            Input::Apart(unsafe { Buffer::lend(input.cast_mut().cast(), bytes) })
        };
        let handle = group
            .start(operator, input, output)
            .map_err(|error| whole(&error))?;
        // SAFETY: it can be written by the promise of the caller.
        unsafe { *request = Box::into_raw(Box::new(handle)) };
        Ok(0)
    })
}

/// 1 if the operator has ended, 0 if not.
///
/// # Safety
///
/// `request` came from [`supernode_collective_start`] and was not waited for.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn supernode_collective_test(request: *const Handle) -> i32 {
    guarded(-1, || {
        // SAFETY: it is valid by the promise of the caller.
        Ok(i32::from(unsafe { &*request }.is_done()))
    })
}

/// Waits until the operator has ended, and frees the request.
///
/// # Safety
///
/// `request` came from [`supernode_collective_start`] and is not used any more.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn supernode_collective_wait(request: *mut Handle) -> i32 {
    guarded(-1, || {
        // SAFETY: it came from `Box::into_raw` and is given back once, by the promise of the caller.
        let handle = unsafe { Box::from_raw(request) };
        handle.wait().map(|_| 0).map_err(|failure| whole(&failure))
    })
}

/// How often streams of this rank went on over a new connection.
///
/// # Safety
///
/// `group` is joined.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn supernode_collective_resumed(group: *const Group) -> u64 {
    guarded(0, || {
        // SAFETY: it is valid by the promise of the caller.
        Ok(unsafe { &*group }.statistics().resumed)
    })
}

/// # Safety
///
/// The counts of an all-to-all are null or have one number for each rank.
unsafe fn rust_operator(operator: &COperator, world: usize) -> Result<Operator, String> {
    let code = |number: u32| u8::try_from(number).ok();
    let data_type = code(operator.data_type).and_then(DataType::from_code);
    let data_type = data_type.ok_or("there is no such data type")?;
    let reduction = || {
        let reduction = code(operator.reduction).and_then(Reduction::from_code);
        reduction.ok_or("there is no such reduction")
    };
    let counts = |start: *const u64| {
        if start.is_null() {
            return Err("an all-to-all needs counts");
        }
        // SAFETY: not null, so there is one for each rank by the promise of the caller.
        let counts = unsafe { std::slice::from_raw_parts(start, world) };
        let counts = counts.iter().map(|count| usize::try_from(*count));
        counts
            .collect::<Result<Vec<_>, _>>()
            .map_err(|_| "a count is too large")
    };
    let peer = operator.peer as usize;
    let kind = match operator.kind {
        1 => Kind::AllReduce {
            reduction: reduction()?,
        },
        2 => Kind::ReduceScatter {
            reduction: reduction()?,
        },
        3 => Kind::AllGather,
        4 => Kind::Broadcast { root: peer },
        5 => Kind::Reduce {
            root: peer,
            reduction: reduction()?,
        },
        6 => Kind::AllToAll {
            send: counts(operator.send_counts)?,
            receive: counts(operator.receive_counts)?,
        },
        8 => Kind::Barrier,
        SEND => Kind::Send { to: peer },
        RECEIVE => Kind::Receive { from: peer },
        _ => return Err("there is no such operator".into()),
    };
    let count = usize::try_from(operator.count).map_err(|_| "the count is too large")?;
    Ok(Operator::new(kind, data_type, count))
}

/// The header, written from the tables of this crate.
pub fn header() -> String {
    use std::fmt::Write as _;
    let mut codes = String::new();
    let mut line = |name: String, code: u32| {
        writeln!(codes, "#define SUPERNODE_COLLECTIVE_{name} {code}")
            .expect("writing to a string works");
    };
    let exchange = || Kind::AllToAll {
        send: Vec::new(),
        receive: Vec::new(),
    };
    let reduction = Reduction::Sum;
    for kind in [
        Kind::AllReduce { reduction },
        Kind::ReduceScatter { reduction },
        Kind::AllGather,
        Kind::Broadcast { root: 0 },
        Kind::Reduce { root: 0, reduction },
        exchange(),
        Kind::Barrier,
    ] {
        let name = Kind::name_of(kind.code()).to_uppercase().replace('-', "_");
        line(name, kind.code().into());
    }
    line("SEND".into(), SEND);
    line("RECEIVE".into(), RECEIVE);
    for data_type in DataType::ALL {
        line(
            data_type.to_string().to_uppercase(),
            data_type.code().into(),
        );
    }
    for reduction in Reduction::ALL {
        line(
            reduction.to_string().to_uppercase(),
            reduction.code().into(),
        );
    }
    include_str!("c.h").replace("/* CODES */\n", &codes)
}
