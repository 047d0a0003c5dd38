//! Endpoints that are no etcd.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
};

use tunless_lab::{Etcd, calico::block};

use crate::{
    listener::{Listener, plain},
    objects::cluster,
};

/// Says the same to everybody, and hangs up.
struct Server {
    address: SocketAddr,
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    fn saying(answer: &'static [u8]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let is_over = Arc::new(AtomicBool::new(false));
        let over = Arc::clone(&is_over);
        let thread = thread::spawn(move || {
            for stream in listener.incoming() {
                if over.load(Ordering::SeqCst) {
                    break;
                }
                let Ok(mut stream) = stream else { continue };
                let _ = stream.read(&mut [0; 1024]);
                let _ = stream.write_all(answer);
            }
        });
        Self { address, is_over, thread: Some(thread) }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::SeqCst);
        drop(TcpStream::connect(self.address));
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[test]
fn an_endpoint_that_answers_garbage_is_named() {
    for answer in [
        &b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n"[..],
        b"\x00\x00\x00\x04\x00\x00\x00\x00\x00\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"",
    ] {
        let server = Server::saying(answer);
        let endpoint = format!("http://{}", server.address);
        let mut listener = Listener::new(plain(vec![endpoint.clone()]));
        listener.until_down(&[&format!("etcd {endpoint}: ")]);
        assert_eq!(listener.snapshots, 0);
        println!("{}", listener.down.clone().unwrap());
    }
}

#[test]
fn a_name_that_does_not_resolve_is_named() {
    let mut listener = Listener::new(plain(vec!["http://no-such-host.invalid:2379".to_owned()]));
    listener.until_down(&["etcd http://no-such-host.invalid:2379: ", "dns error"]);
}

#[test]
fn one_good_endpoint_is_enough() {
    let etcd = Etcd::new().start().unwrap();
    cluster(&etcd, "Always");
    etcd.store(&block("10.20.42.0/26", "far", &[])).unwrap();
    let server = Server::saying(b"HTTP/1.1 400 Bad Request\r\n\r\n");
    let good = etcd.endpoints().remove(0);
    let endpoints = vec![
        format!("http://{}", server.address),
        // Nothing listens there.
        "http://127.0.0.1:1".to_owned(),
        good,
    ];
    // Wherever it begins.
    for _ in 0..5 {
        let mut listener = Listener::new(plain(endpoints.clone()));
        listener.until_claims(&["10.20.42.0/26 172.16.35.4 ipip"]);
        listener.until_up();
    }
}
