//! A dam before a registry: what is sent to it passes, until it has been so many bytes. Whatever is
//! on its way then waits, so that a story does not race against a fast machine.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;

use anyhow::{Result, ensure};

use crate::stage::LIMIT;

pub(super) struct Dam {
    address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    /// How many bytes may still pass.
    left: usize,
    is_full: bool,
    is_open: bool,
}

impl Dam {
    /// Listens for what is meant for the registry at `behind`, and lets `bytes` pass.
    pub(super) fn start(behind: SocketAddr, bytes: usize) -> Result<Self> {
        let state = State {
            left: bytes,
            is_full: false,
            is_open: false,
        };
        let shared = Arc::new(Shared {
            state: Mutex::new(state),
            changed: Condvar::new(),
        });
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        let own = shared.clone();
        thread::spawn(move || {
            for near in listener.incoming().flatten() {
                let shared = own.clone();
                // A connection that breaks is what the story is about.
                thread::spawn(move || drop(pass(near, behind, &shared)));
            }
        });
        Ok(Self { address, shared })
    }

    /// Returns where it listens: the first part of a reference.
    pub(super) fn host(&self) -> String {
        self.address.to_string()
    }

    /// Waits until nothing passes any more.
    pub(super) fn wait_until_full(&self) -> Result<()> {
        let state = self.shared.lock();
        let waited = self
            .shared
            .changed
            .wait_timeout_while(state, LIMIT, |state| !state.is_full);
        let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        ensure!(state.is_full, "{} bytes were never sent", state.left);
        Ok(())
    }

    /// Lets everything pass from now on, but for what waited: those connections are cut.
    pub(super) fn open(&self) {
        self.shared.lock().is_open = true;
        self.shared.changed.notify_all();
    }
}

impl Drop for Dam {
    fn drop(&mut self) {
        self.open();
    }
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells whether so many bytes may pass; waits with the answer until the dam is open when they
    /// may not.
    fn may_pass(&self, bytes: usize) -> bool {
        let mut state = self.lock();
        if state.is_open {
            return true;
        }
        if !state.is_full && bytes <= state.left {
            state.left -= bytes;
            return true;
        }
        state.is_full = true;
        self.changed.notify_all();
        while !state.is_open {
            let woken = self.changed.wait(state);
            state = woken.unwrap_or_else(PoisonError::into_inner);
        }
        false
    }
}

fn pass(mut near: TcpStream, behind: SocketAddr, shared: &Shared) -> Result<()> {
    let mut far = TcpStream::connect(behind)?;
    let (mut answers, mut back) = (far.try_clone()?, near.try_clone()?);
    thread::spawn(move || {
        drop(std::io::copy(&mut answers, &mut back));
        drop(back.shutdown(Shutdown::Both));
    });
    let mut buffer = vec![0; 64 << 10];
    loop {
        let length = near.read(&mut buffer)?;
        if length == 0 || !shared.may_pass(length) {
            break;
        }
        far.write_all(&buffer[..length])?;
    }
    far.shutdown(Shutdown::Both)?;
    near.shutdown(Shutdown::Both)?;
    Ok(())
}
