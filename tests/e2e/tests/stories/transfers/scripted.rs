//! A registry that refuses one step of a push in the words of real ones.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use anyhow::{Context as _, Result};
use kiln_testkit::wait;

use crate::stage::LIMIT;

/// The registry. It listens as long as the process lives.
pub(super) struct Scripted {
    host: String,
    asked: Arc<Mutex<Vec<String>>>,
}

/// Which step is refused, how, and with which words. The status 0 is no answer at all.
#[derive(Clone)]
struct Script {
    step: String,
    /// The repository that is meant; all of them where it is empty.
    repository: String,
    status: u16,
    words: String,
}

impl Scripted {
    /// Starts one for a script such as `upload 405 UNSUPPORTED`; the steps are `upload`, `bytes` and
    /// `manifest`, with `@` and a repository where it is one alone.
    pub(super) fn start(script: &str) -> Result<Self> {
        let mut words = script.splitn(3, ' ');
        let mut next = || words.next().context("a script has three words");
        let step = next()?;
        let (step, repository) = step.split_once('@').unwrap_or((step, ""));
        let script = Script {
            step: step.to_owned(),
            repository: repository.to_owned(),
            status: next()?.parse()?,
            words: next()?.to_owned(),
        };
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let host = listener.local_addr()?.to_string();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let seen = asked.clone();
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (script, seen) = (script.clone(), seen.clone());
                thread::spawn(move || serve(&stream, &script, &seen));
            }
        });
        Ok(Self { host, asked })
    }

    pub(super) fn host(&self) -> &str {
        &self.host
    }

    /// Lists the first lines of what was asked.
    pub(super) fn asked(&self) -> Vec<String> {
        let asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        asked.clone()
    }

    /// Waits until something with that method was asked.
    pub(super) fn wait_for(&self, method: &str) -> Result<()> {
        wait::until("a request", LIMIT, || {
            let is_there = self.asked().iter().any(|line| line.starts_with(method));
            Ok(is_there.then_some(()))
        })
    }
}

fn serve(stream: &TcpStream, script: &Script, seen: &Mutex<Vec<String>>) -> Option<()> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let mut length = 0;
    loop {
        let mut header = String::new();
        reader.read_line(&mut header).ok()?;
        if header.trim().is_empty() {
            break;
        }
        let (name, value) = header.split_once(':')?;
        if name.eq_ignore_ascii_case("content-length") {
            length = value.trim().parse().ok()?;
        }
    }
    std::io::copy(&mut reader.take(length), &mut std::io::sink()).ok()?;
    let mut words = line.split(' ');
    let (method, target) = (words.next()?, words.next()?);
    let request = format!("{method} {target}");
    seen.lock()
        .unwrap_or_else(PoisonError::into_inner)
        .push(request);
    let step = match (method, target) {
        ("GET", _) => "",
        ("POST", _) => "upload",
        ("PUT" | "PATCH", target) if target.contains("/manifests/") => "manifest",
        ("PUT" | "PATCH", _) => "bytes",
        _ => "look",
    };
    let (status, body) = match step {
        step if step == script.step && target.contains(&script.repository) => {
            let words = &script.words;
            let body = format!(r#"{{"errors":[{{"code":"X","message":"{words}"}}]}}"#);
            (script.status, body)
        }
        "upload" => (202, String::new()),
        "bytes" | "manifest" => (201, String::new()),
        "look" => (404, String::new()),
        _ => (200, "{}".to_owned()),
    };
    if status == 0 {
        // Until the client hangs up.
        let mut end = [0];
        let mut stream = stream;
        drop(stream.read(&mut end));
        return Some(());
    }
    let body = if method == "HEAD" { "" } else { &body };
    let answer = format!(
        "HTTP/1.1 {status} Scripted\r\nlocation: /upload/1\r\nconnection: close\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut stream = stream;
    stream.write_all(answer.as_bytes()).ok()
}
