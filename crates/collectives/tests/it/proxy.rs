//! A TCP proxy that can cut everything that goes through it, at whatever byte it is.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

/// In front of one listener. Its threads end with their connections.
pub(crate) struct Proxy {
    address: SocketAddr,
    streams: Arc<Mutex<Vec<TcpStream>>>,
}

impl Proxy {
    pub(crate) fn new(target: SocketAddr) -> Self {
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
                    thread::spawn(move || forward(from, to));
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

fn forward(mut from: TcpStream, mut to: TcpStream) {
    let mut buffer = vec![0; 32 * 1024];
    while let Ok(len) = from.read(&mut buffer) {
        if len == 0 || to.write_all(&buffer[..len]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
    let _ = from.shutdown(Shutdown::Both);
}
