//! A gate between two daemons: bytes pass both ways, until a call of some method comes for the
//! n-th time. That one is held until the gate is opened.

use std::io::{Read as _, Write as _};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;

use anyhow::{Result, bail};

use crate::stage::LIMIT;

pub(super) struct Gate {
    socket: PathBuf,
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    method: String,
    nth: usize,
}

#[derive(Default)]
struct State {
    seen: usize,
    is_held: bool,
    is_open: bool,
}

impl Gate {
    /// Listens at `socket` for what is meant for the daemon at `behind`.
    pub(super) fn start(
        socket: &Path,
        behind: &Path,
        (method, nth): (&str, usize),
    ) -> Result<Self> {
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            changed: Condvar::new(),
            method: format!("\"{method}\""),
            nth,
        });
        let listener = UnixListener::bind(socket)?;
        let (own, behind) = (shared.clone(), behind.to_owned());
        thread::spawn(move || {
            for near in listener.incoming().flatten() {
                let (shared, behind) = (own.clone(), behind.clone());
                // A connection that breaks is what some stories are about.
                thread::spawn(move || drop(pass(&near, &behind, &shared)));
            }
        });
        Ok(Self {
            socket: socket.to_owned(),
            shared,
        })
    }

    pub(super) fn socket(&self) -> &Path {
        &self.socket
    }

    /// Waits until the call that is meant has come.
    pub(super) fn wait_until_held(&self) -> Result<()> {
        let state = self.shared.lock();
        let waited = self
            .shared
            .changed
            .wait_timeout_while(state, LIMIT, |state| !state.is_held);
        let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        if !state.is_held {
            bail!("no call {} came to the gate", self.shared.method);
        }
        Ok(())
    }

    /// Lets everything pass from now on.
    pub(super) fn open(&self) {
        self.shared.lock().is_open = true;
        self.shared.changed.notify_all();
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.open();
    }
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Holds the thread while the text is the call that is meant.
    fn hold(&self, text: &str) {
        if !text.contains(&self.method) {
            return;
        }
        let mut state = self.lock();
        state.seen += 1;
        if state.seen < self.nth {
            return;
        }
        state.is_held = true;
        self.changed.notify_all();
        while !state.is_open {
            let woken = self.changed.wait(state);
            state = woken.unwrap_or_else(PoisonError::into_inner);
        }
    }
}

fn pass(near: &UnixStream, behind: &Path, shared: &Shared) -> Result<()> {
    let far = UnixStream::connect(behind)?;
    let (mut answers, mut back) = (far.try_clone()?, near.try_clone()?);
    thread::spawn(move || {
        drop(std::io::copy(&mut answers, &mut back));
        // The daemon is gone: whoever waits for its answer is to know.
        drop(back.shutdown(Shutdown::Both));
    });
    let (mut near, mut far) = (near.try_clone()?, far);
    let head = head(&mut near)?;
    far.write_all(&head)?;
    loop {
        let (frame, text) = frame(&mut near)?;
        shared.hold(&text);
        far.write_all(&frame)?;
    }
}

/// Reads the head of the handshake, byte by byte: nothing comes behind it before its answer.
fn head(stream: &mut UnixStream) -> Result<Vec<u8>> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    Ok(head)
}

/// Reads one frame of the client's (RFC 6455, section 5.2) and returns it as it came, with the text
/// behind its mask.
fn frame(stream: &mut UnixStream) -> Result<(Vec<u8>, String)> {
    let mut whole = vec![0; 2];
    stream.read_exact(&mut whole)?;
    let further = match whole[1] & 0x7f {
        126 => 2,
        127 => 8,
        _ => 0,
    };
    let mut length = vec![0; further];
    stream.read_exact(&mut length)?;
    let wide = length
        .iter()
        .fold(0, |sum, byte| sum << 8 | usize::from(*byte));
    let size = if further == 0 {
        usize::from(whole[1] & 0x7f)
    } else {
        wide
    };
    let mut mask = [0; 4];
    stream.read_exact(&mut mask)?;
    let mut body = vec![0; size];
    stream.read_exact(&mut body)?;
    let bytes = body.iter().zip(mask.iter().cycle());
    let text: Vec<u8> = bytes.map(|(byte, mask)| byte ^ mask).collect();
    whole.extend(length);
    whole.extend(mask);
    whole.extend(body);
    Ok((whole, String::from_utf8_lossy(&text).into_owned()))
}
