//! A way to a registry that breaks once: every connection is closed when so many bytes have gone
//! through towards the registry.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use anyhow::Result;

/// The way. It listens as long as the process lives.
pub(super) struct Cutting {
    host: String,
    state: Arc<State>,
}

struct State {
    registry: String,
    cut_at: u64,
    passed: AtomicU64,
    cuts: AtomicU64,
}

impl Cutting {
    /// Leads to `registry`, and breaks behind `cut_at` bytes.
    pub(super) fn before(registry: &str, cut_at: u64) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let host = listener.local_addr()?.to_string();
        let state = Arc::new(State {
            registry: registry.to_owned(),
            cut_at,
            passed: AtomicU64::new(0),
            cuts: AtomicU64::new(0),
        });
        let shared = state.clone();
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let state = shared.clone();
                thread::spawn(move || state.lead(&stream));
            }
        });
        Ok(Self { host, state })
    }

    pub(super) fn host(&self) -> &str {
        &self.host
    }

    /// Returns how often it broke.
    pub(super) fn cuts(&self) -> u64 {
        self.state.cuts.load(Ordering::SeqCst)
    }

    /// Returns how many bytes went towards the registry.
    pub(super) fn passed_bytes(&self) -> u64 {
        self.state.passed.load(Ordering::SeqCst)
    }
}

impl State {
    fn lead(&self, client: &TcpStream) {
        let Ok(registry) = TcpStream::connect(&self.registry) else {
            return;
        };
        let (Ok(mut answers), Ok(mut back)) = (registry.try_clone(), client.try_clone()) else {
            return;
        };
        thread::spawn(move || {
            // Whoever hangs up first ends both ways.
            drop(std::io::copy(&mut answers, &mut back));
            drop(back.shutdown(Shutdown::Both));
        });
        let (mut from, mut to) = (client, &registry);
        let mut buffer = vec![0; 64 << 10];
        while let Ok(count @ 1..) = from.read(&mut buffer) {
            if to.write_all(&buffer[..count]).is_err() {
                break;
            }
            let before = self.passed.fetch_add(count as u64, Ordering::SeqCst);
            let after = before + count as u64;
            if before < self.cut_at && after >= self.cut_at {
                self.cuts.fetch_add(1, Ordering::SeqCst);
                break;
            }
        }
        drop(registry.shutdown(Shutdown::Both));
        drop(client.shutdown(Shutdown::Both));
    }
}
