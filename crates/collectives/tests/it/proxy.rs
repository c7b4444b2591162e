//! A TCP proxy that can cut everything that goes through it, at whatever byte it is, damage it, and lie about what has arrived.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// What a proxy does to what goes through it.
#[derive(Debug, Clone)]
pub(crate) enum Mischief {
    Nothing,
    /// A bit flips, once in so many bytes.
    Damage {
        every: usize,
    },
    /// Once: keeps bytes of a stream from the receiver, tells the sender that they arrived, and cuts.
    FalseAcknowledgement {
        done: Arc<AtomicBool>,
    },
}

/// In front of one listener. Its threads end with their connections.
pub(crate) struct Proxy {
    address: SocketAddr,
    streams: Arc<Mutex<Vec<TcpStream>>>,
}

impl Proxy {
    pub(crate) fn new(target: SocketAddr, mischief: Mischief) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has free ports");
        let address = listener.local_addr().expect("it is bound");
        let streams = Arc::new(Mutex::new(Vec::new()));
        let known = Arc::clone(&streams);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let Ok(server) = TcpStream::connect(target) else {
                    continue;
                };
                for (from, to) in [(&client, &server), (&server, &client)] {
                    let (Ok(from), Ok(to)) = (from.try_clone(), to.try_clone()) else {
                        continue;
                    };
                    let mischief = mischief.clone();
                    thread::spawn(move || forward(from, to, &mischief));
                }
                let mut known = known.lock().expect("no holder of this lock panics");
                known.push(client);
                known.push(server);
            }
        });
        Self { address, streams }
    }

    pub(crate) const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Cuts all connections.
    pub(crate) fn cut(&self) {
        let mut streams = self.streams.lock().expect("no holder of this lock panics");
        for stream in streams.drain(..) {
            // One that is over already is as good as cut.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

fn forward(mut from: TcpStream, mut to: TcpStream, mischief: &Mischief) {
    let mut buffer = vec![0; 32 * 1024];
    let mut passed = 0;
    // Whether this is the way of a stream; a hello says it.
    let mut is_data = false;
    while let Ok(len) = from.read(&mut buffer) {
        if len == 0 {
            break;
        }
        let bytes = &mut buffer[..len];
        if passed == 0 {
            is_data = bytes.starts_with(b"snodecol") && bytes.get(10) == Some(&0);
        }
        match mischief {
            Mischief::Nothing => {}
            Mischief::Damage { every } => {
                if (passed + len) / every > passed / every {
                    bytes[len / 2] ^= 0x10;
                }
            }
            Mischief::FalseAcknowledgement { done } => {
                if is_data && passed > 300_000 && !done.swap(true, Ordering::Relaxed) {
                    lie(&mut from, passed + len);
                    break;
                }
            }
        }
        if to.write_all(bytes).is_err() {
            break;
        }
        passed += len;
    }
    let _ = to.shutdown(Shutdown::Both);
    let _ = from.shutdown(Shutdown::Both);
}

/// Swallows what the sender still sends, and acknowledges a part of it.
fn lie(sender: &mut TcpStream, mut read: usize) {
    let timeout = sender.set_read_timeout(Some(Duration::from_millis(200)));
    timeout.expect("it is not zero");
    let mut buffer = vec![0; 32 * 1024];
    let held = read;
    while let Ok(len @ 1..) = sender.read(&mut buffer) {
        read += len;
    }
    // Behind what the receiver has, also when all headers on the way are counted out; not behind what was sent.
    let offset = held.midpoint(read) - 1000;
    let mut record = [0; 16];
    record[0] = 1;
    record[8..].copy_from_slice(&(offset as u64).to_le_bytes());
    let code = crc32fast::hash(&record);
    record[4..8].copy_from_slice(&code.to_le_bytes());
    sender.write_all(&record).expect("the sender reads");
    // It has to read this before it sees the end.
    thread::sleep(Duration::from_millis(100));
}
