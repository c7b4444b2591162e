//! Starting the program of a rank: a child process with exactly what it was given and nothing of ours.
//!
//! The child gets its own session, `/dev/null` as input, the output file as output and error, default signal handling, umask 022,
//! the wanted user without any way to gain rights (`no_new_privs`), a kill signal for the case that the supervisor dies, and only
//! descriptors 0 to 2. What goes wrong before the program runs comes back as one sentence through a pipe that closes itself when the
//! program starts. Limits and the out-of-memory score stay as the agent's.

use std::ffi::{CString, OsStr};
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::errno::Errno;
use nix::sys::signal::{SigSet, SigmaskHow, Signal};
use nix::sys::stat::Mode;
use nix::unistd::{ForkResult, Gid, Pid, Uid};

use super::cgroup;
use crate::ranks::records::{Launch, MARKER, User};

/// Starts the program. Returns its process id and the pipe that carries the sentence if it could not be run.
pub(crate) fn start(
    launch: &Launch,
    rank_directory: &Path,
    output: impl AsFd,
    group: Option<&Path>,
) -> Result<(Pid, OwnedFd), String> {
    let arguments = launch
        .argv
        .iter()
        .map(|text| c_string(text))
        .collect::<Result<Vec<_>, _>>()?;
    let mut environment = Vec::with_capacity(launch.env.len() + 1);
    for (name, value) in launch.env.iter().filter(|(name, _)| *name != MARKER) {
        environment.push(c_string(&format!("{name}={value}"))?);
    }
    let mut marker = OsStr::new(MARKER).as_bytes().to_vec();
    marker.push(b'=');
    marker.extend_from_slice(rank_directory.as_os_str().as_bytes());
    environment.push(
        CString::new(marker)
            .map_err(|_| "the rank directory has a zero byte in its name".to_owned())?,
    );

    let flags = nix::fcntl::OFlag::O_CLOEXEC | nix::fcntl::OFlag::O_NONBLOCK;
    let (report, report_writer) =
        nix::unistd::pipe2(flags).map_err(|errno| format!("cannot make a pipe: {errno}"))?;
    let supervisor = nix::unistd::getpid();
    // SAFETY: the supervisor has a single thread, so the child may run any code.
    match unsafe { nix::unistd::fork() } {
        Err(errno) => Err(format!("cannot start a process: {errno}")),
        Ok(ForkResult::Parent { child }) => Ok((child, report)),
        Ok(ForkResult::Child) => {
            let why = become_rank(
                launch,
                &arguments,
                &environment,
                output.as_fd().as_raw_fd(),
                group,
                supervisor,
            );
            // If the pipe is gone, so is the supervisor, and nobody is left to be told.
            let _ = std::fs::File::from(report_writer).write_all(why.as_bytes());
            // SAFETY: ends the child without running the exit handlers that belong to the parent.
            unsafe { libc::_exit(127) }
        }
    }
}

/// Turns the calling process into the rank; comes back only with the reason why that failed.
fn become_rank(
    launch: &Launch,
    arguments: &[CString],
    environment: &[CString],
    output: i32,
    group: Option<&Path>,
    supervisor: Pid,
) -> String {
    match prepare(launch, output, group, supervisor) {
        Ok(()) => execute(launch, arguments, environment),
        Err(why) => why,
    }
}

fn prepare(
    launch: &Launch,
    output: i32,
    group: Option<&Path>,
    supervisor: Pid,
) -> Result<(), String> {
    nix::unistd::setsid().map_err(|errno| format!("cannot open a session: {errno}"))?;
    if let Some(group) = group {
        // Without the group the walk over the tree still finds everything.
        let _ = cgroup::enter(group);
    }
    standard_descriptors(output)?;
    nix::sys::stat::umask(Mode::from_bits_truncate(0o022));
    default_signals()?;
    if let Some(user) = &launch.user {
        become_user(user)?;
    }
    nix::sys::prctl::set_no_new_privs()
        .map_err(|errno| format!("cannot give up gaining rights: {errno}"))?;
    // After the change of user, which would clear it.
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)
        .map_err(|errno| format!("cannot be tied to the supervisor: {errno}"))?;
    if nix::unistd::getppid() != supervisor {
        return Err("the supervisor is gone".into());
    }
    nix::unistd::chdir(launch.workdir.as_str()).map_err(|errno| match errno {
        Errno::ENOENT => format!("workdir {} does not exist", launch.workdir),
        Errno::ENOTDIR => format!("workdir {} is not a directory", launch.workdir),
        Errno::EACCES => format!(
            "workdir {}: permission denied{}",
            launch.workdir,
            as_user(launch)
        ),
        other => format!("workdir {}: {}", launch.workdir, other.desc()),
    })?;
    close_rest_on_exec();
    Ok(())
}

fn standard_descriptors(output: i32) -> Result<(), String> {
    let null = std::fs::OpenOptions::new()
        .read(true)
        .open("/dev/null")
        .map_err(|error| format!("cannot open /dev/null for input: {error}"))?;
    for (from, to) in [(null.as_raw_fd(), 0), (output, 1), (output, 2)] {
        // SAFETY: plain descriptor numbers; the child owns its descriptor table.
        if unsafe { libc::dup2(from, to) } < 0 {
            return Err(format!("cannot connect descriptor {to}: {}", Errno::last()));
        }
    }
    Ok(())
}

fn default_signals() -> Result<(), String> {
    // The C library keeps two signals to itself and refuses to reset them, so the kernel is asked: all zero is the default.
    let default = [0_u64; 4];
    for signal in 1..=64 {
        // SAFETY: the kernel reads one action (32 bytes) and a signal set of 8 bytes; the default action runs no code of ours.
        // Signals that cannot be changed are refused, which is as good.
        unsafe {
            libc::syscall(
                libc::SYS_rt_sigaction,
                signal,
                default.as_ptr(),
                std::ptr::null_mut::<u64>(),
                8,
            )
        };
    }
    nix::sys::signal::sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)
        .map_err(|errno| format!("cannot unblock signals: {errno}"))
}

fn become_user(user: &User) -> Result<(), String> {
    let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
    if !Uid::effective().is_root() {
        if Uid::effective() == uid && Gid::effective() == gid {
            return Ok(());
        }
        let own = Uid::effective();
        return Err(format!(
            "cannot become user {uid}: the agent runs as user {own}, and only root can change its user"
        ));
    }
    let groups: Vec<Gid> = user
        .groups
        .iter()
        .map(|group| Gid::from_raw(*group))
        .collect();
    nix::unistd::setgroups(&groups)
        .and_then(|()| nix::unistd::setresgid(gid, gid, gid))
        .and_then(|()| nix::unistd::setresuid(uid, uid, uid))
        .map_err(|errno| format!("cannot become user {uid}: {}", errno.desc()))
}

/// Descriptors that somebody forgot to mark are closed too; the report pipe closes itself already.
fn close_rest_on_exec() {
    // SAFETY: marks descriptors 3 and above to be closed by the coming exec; nothing is closed now.
    let done = unsafe {
        libc::syscall(
            libc::SYS_close_range,
            3_u32,
            u32::MAX,
            libc::CLOSE_RANGE_CLOEXEC,
        )
    } == 0;
    if !done && let Ok(entries) = std::fs::read_dir("/proc/self/fd") {
        for descriptor in entries
            .flatten()
            .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
        {
            if descriptor > 2 {
                // SAFETY: as above; a number that is no descriptor any more is refused by the kernel.
                unsafe { libc::fcntl(descriptor, libc::F_SETFD, libc::FD_CLOEXEC) };
            }
        }
    }
}

/// Runs the program; comes back only with the reason why that failed.
fn execute(launch: &Launch, arguments: &[CString], environment: &[CString]) -> String {
    let Some(program) = launch.argv.first() else {
        return "no program was given".into();
    };
    if program.contains('/') {
        return match run(program, arguments, environment) {
            Errno::ENOENT if Path::new(program).exists() => interpreter_missing(program),
            Errno::ENOENT => format!("program {program} does not exist"),
            errno => explain(program, errno, launch),
        };
    }
    let path = launch
        .env
        .get("PATH")
        .map(String::as_str)
        .unwrap_or_default();
    let mut denied = false;
    for directory in path.split(':').filter(|directory| !directory.is_empty()) {
        let candidate = format!("{directory}/{program}");
        match run(&candidate, arguments, environment) {
            Errno::EACCES => denied |= Path::new(&candidate).exists(),
            Errno::ENOENT if Path::new(&candidate).exists() => {
                return interpreter_missing(&candidate);
            }
            Errno::ENOENT | Errno::ENOTDIR => {}
            errno => return explain(&candidate, errno, launch),
        }
    }
    if denied {
        explain(program, Errno::EACCES, launch)
    } else {
        format!("program {program} not found in PATH {path}")
    }
}

fn run(program: &str, arguments: &[CString], environment: &[CString]) -> Errno {
    match CString::new(program) {
        Ok(program) => nix::unistd::execve(&program, arguments, environment)
            .err()
            .unwrap_or(Errno::EIO),
        Err(_) => Errno::EINVAL,
    }
}

fn explain(program: &str, errno: Errno, launch: &Launch) -> String {
    match errno {
        Errno::EACCES => format!(
            "permission denied to run {program}{}; is it marked as executable?",
            as_user(launch)
        ),
        Errno::ENOEXEC => {
            format!("{program} is neither a program for this machine nor a script with a `#!` line")
        }
        Errno::ENOTDIR => format!("program {program} does not exist"),
        Errno::E2BIG => format!("arguments and environment are too long to run {program}"),
        other => format!("cannot run {program}: {}", other.desc()),
    }
}

fn interpreter_missing(program: &str) -> String {
    format!("{program} exists, but the interpreter or loader that it names does not")
}

fn as_user(launch: &Launch) -> String {
    launch
        .user
        .as_ref()
        .map(|user| format!(" as user {}", user.uid))
        .unwrap_or_default()
}

fn c_string(text: &str) -> Result<CString, String> {
    CString::new(text).map_err(|_| {
        format!("{text:?} has a zero byte, which no argument and no variable can have")
    })
}
