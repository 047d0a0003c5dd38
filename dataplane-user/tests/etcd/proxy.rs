//! A way to etcd that can be cut, so that things happen while the source is away.

use std::{
    io,
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
};

/// Forwards connections to one address.
pub struct Proxy {
    address: SocketAddr,
    state: Arc<State>,
    thread: Option<JoinHandle<()>>,
}

struct State {
    to: SocketAddr,
    is_cut: AtomicBool,
    is_over: AtomicBool,
    streams: Mutex<Vec<TcpStream>>,
}

impl Proxy {
    /// A proxy to an endpoint of etcd's.
    pub fn to(endpoint: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let to = endpoint.split("://").nth(1).unwrap().parse().unwrap();
        let state = Arc::new(State {
            to,
            is_cut: AtomicBool::new(false),
            is_over: AtomicBool::new(false),
            streams: Mutex::default(),
        });
        let shared = Arc::clone(&state);
        let thread = thread::spawn(move || {
            for stream in listener.incoming() {
                if shared.is_over.load(Ordering::SeqCst) {
                    break;
                }
                if let Ok(stream) = stream {
                    shared.forward(stream);
                }
            }
        });
        Self { address, state, thread: Some(thread) }
    }

    /// Where clients connect to.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Ends all connections and lets none through.
    pub fn cut(&self) {
        self.state.is_cut.store(true, Ordering::SeqCst);
        self.state.end_all();
    }

    /// Lets new connections through.
    pub fn mend(&self) {
        self.state.is_cut.store(false, Ordering::SeqCst);
    }
}

impl State {
    fn forward(&self, client: TcpStream) {
        let Ok(server) = TcpStream::connect(self.to) else { return };
        let mut streams = self.streams.lock().unwrap();
        // Under the lock: `cut` ends all that are there.
        if self.is_cut.load(Ordering::SeqCst) {
            return;
        }
        for (mut from, mut to) in [
            (client.try_clone().unwrap(), server.try_clone().unwrap()),
            (server.try_clone().unwrap(), client.try_clone().unwrap()),
        ] {
            thread::spawn(move || {
                let _ = io::copy(&mut from, &mut to);
                let _ = to.shutdown(Shutdown::Both);
            });
        }
        streams.extend([client, server]);
    }

    fn end_all(&self) {
        for stream in self.streams.lock().unwrap().drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.state.is_over.store(true, Ordering::SeqCst);
        // Wakes the listener.
        drop(TcpStream::connect(self.address));
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        self.state.end_all();
    }
}
