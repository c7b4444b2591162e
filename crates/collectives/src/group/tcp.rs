//! TCP sockets as the driver needs them: bound to a lane's address, never blocking, with a look at what the kernel still holds.

use std::io::{self, IoSlice};

use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::event::epoll::EventFlags;
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendAncillaryBuffer, SendFlags, Shutdown, SocketFlags, SocketType,
    bind, connect, recv, sendmsg, shutdown, socket_with, sockopt,
};

use crate::node::Path;

/// One connection, from dialing or accepting it until its end.
#[derive(Debug)]
pub(super) struct Socket {
    descriptor: OwnedFd,
    pub(super) is_connecting: bool,
    /// The kernel took less than it was given.
    pub(super) is_full: bool,
    pub(super) interest: EventFlags,
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

/// What came of reading or writing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Moved {
    Bytes(usize),
    Later,
    Over,
}

impl Socket {
    /// Begins to connect, from the lane's own address, so that the lane is the path.
    pub(super) fn dial(from: IpAddr, to: SocketAddr) -> io::Result<Self> {
        let family = if to.is_ipv4() {
            AddressFamily::INET
        } else {
            AddressFamily::INET6
        };
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let descriptor = socket_with(family, SocketType::STREAM, flags, None)?;
        sockopt::set_tcp_nodelay(&descriptor, true)?;
        bind(&descriptor, &SocketAddr::new(from, 0))?;
        let is_connecting = match connect(&descriptor, &to) {
            Ok(()) => false,
            Err(Errno::INPROGRESS) => true,
            Err(error) => return Err(error.into()),
        };
        Ok(Self {
            descriptor,
            is_connecting,
            is_full: false,
            interest: EventFlags::empty(),
        })
    }

    pub(super) fn accepted(descriptor: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&descriptor, true)?;
        sockopt::set_tcp_nodelay(&descriptor, true)?;
        Ok(Self {
            descriptor,
            is_connecting: false,
            is_full: false,
            interest: EventFlags::empty(),
        })
    }

    /// How connecting ended.
    pub(super) fn outcome(&self) -> Result<(), Errno> {
        sockopt::socket_error(&self.descriptor).unwrap_or_else(Err)
    }

    pub(super) fn read(&self, buffer: &mut [u8]) -> Moved {
        match recv(&self.descriptor, buffer, RecvFlags::DONTWAIT) {
            Ok((0, _)) => Moved::Over,
            Ok((len, _)) => Moved::Bytes(len),
            Err(Errno::AGAIN | Errno::INTR) => Moved::Later,
            Err(_) => Moved::Over,
        }
    }

    pub(super) fn write(&self, parts: &[IoSlice<'_>]) -> Moved {
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        match sendmsg(
            &self.descriptor,
            parts,
            &mut SendAncillaryBuffer::default(),
            flags,
        ) {
            Ok(len) => Moved::Bytes(len),
            Err(Errno::AGAIN | Errno::INTR) => Moved::Later,
            Err(_) => Moved::Over,
        }
    }

    /// Ends it for both sides, whatever is on the way. Says whether it was connected.
    pub(super) fn cut(&self) -> bool {
        shutdown(&self.descriptor, Shutdown::Both).is_ok()
    }

    /// What the kernel knows about the path. `None` where it does not say.
    pub(super) fn path(&self) -> Option<Path> {
        let info = tcp_info(self.as_fd())?;
        Some(Path {
            pending: outgoing_queue(self.as_fd())?,
            acknowledged: u64::from_ne_bytes(*info[120..].first_chunk()?),
            window_is_open: u32::from_ne_bytes(*info[228..].first_chunk()?) > 0,
        })
    }
}

/// Bytes up to and with `tcpi_snd_wnd` (Linux 5.4) of `struct tcp_info`, of which no field ever moves.
const TCP_INFO: usize = 232;

fn tcp_info(socket: BorrowedFd<'_>) -> Option<[u8; TCP_INFO]> {
    let mut info = [0_u8; TCP_INFO];
    let mut len = libc::socklen_t::try_from(TCP_INFO).ok()?;
    // SAFETY: the kernel writes at most `len` bytes to `info`, which is as long, and any bytes are valid there.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &raw mut len,
        )
    };
    (result == 0 && len as usize == TCP_INFO).then_some(info)
}

/// Bytes that were written and not acknowledged, sent or not. Unlike the counters of `tcp_info` it also sees what a local drop holds back.
fn outgoing_queue(socket: BorrowedFd<'_>) -> Option<u64> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: `TIOCOUTQ` (the number of `SIOCOUTQ`) writes one int to the address it is given.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
    (result == 0).then(|| u64::try_from(bytes).unwrap_or_default())
}
