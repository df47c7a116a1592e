//! Passes descriptors to the daemon over the second socket.
//!
//! ```text
//! client ─▶ length (4 bytes, big endian)  {"files":N}       N descriptors attached, 1 to 4
//! daemon ─▶ length (4 bytes, big endian)  {"handles":[..]}  or {"error":{..}}
//! ```
//! Any number of such pairs may follow each other on one connection. What the descriptors are is
//! not here.

use std::io::{self, IoSlice, Read as _, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use kiln_api::{Failure, HandleId, HostFile};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use serde::Deserialize;

/// Most descriptors in one message.
pub(crate) const BATCH: usize = 4;

/// Longest answer, in bytes: an error object with a long cause stays far below.
const ANSWER_LIMIT_BYTES: u32 = 64 << 10;

/// How long the daemon may take for one answer; it only has to note the descriptors down.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// Why descriptors did not reach the daemon.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PassingError {
    /// The daemon does not want them.
    #[error(transparent)]
    Refused(Box<Failure>),
    /// The socket failed, or what came back is no answer.
    #[error("cannot {step} {}", socket.display())]
    Socket {
        step: &'static str,
        socket: PathBuf,
        source: io::Error,
    },
}

/// A connection to the second socket.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: UnixStream,
    socket: PathBuf,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Answer {
    Handles(Vec<String>),
    Error(Box<Failure>),
}

impl Connection {
    /// Connects, or finds that the daemon has no second socket.
    pub(crate) fn open(socket: &Path) -> Result<Option<Self>, PassingError> {
        let at = |source| PassingError::Socket {
            step: "connect to",
            socket: socket.to_owned(),
            source,
        };
        let stream = match UnixStream::connect(socket) {
            Ok(stream) => stream,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(at(error)),
        };
        stream.set_read_timeout(Some(ANSWER_TIMEOUT)).map_err(at)?;
        stream.set_write_timeout(Some(ANSWER_TIMEOUT)).map_err(at)?;
        Ok(Some(Self {
            stream,
            socket: socket.to_owned(),
        }))
    }

    /// Passes one to four descriptors and returns a handle for each.
    pub(crate) fn pass(&mut self, files: &[BorrowedFd<'_>]) -> Result<Vec<HandleId>, PassingError> {
        self.send(files)
            .map_err(|source| self.failed("send descriptors to", source))?;
        let answer = self
            .receive()
            .map_err(|source| self.failed("read the answer of", source))?;
        let texts = match answer {
            Answer::Handles(texts) => texts,
            Answer::Error(failure) => return Err(PassingError::Refused(failure)),
        };
        handles(&texts, files.len())
            .ok_or_else(|| self.failed("read the handles of", io::ErrorKind::InvalidData.into()))
    }

    fn failed(&self, step: &'static str, source: io::Error) -> PassingError {
        PassingError::Socket {
            step,
            socket: self.socket.clone(),
            source,
        }
    }

    fn send(&mut self, files: &[BorrowedFd<'_>]) -> io::Result<()> {
        let body = format!(r#"{{"files":{}}}"#, files.len());
        let length = u32::try_from(body.len()).map_err(io::Error::other)?;
        let message = [&length.to_be_bytes()[..], body.as_bytes()].concat();

        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(BATCH))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if files.is_empty() || !ancillary.push(SendAncillaryMessage::ScmRights(files)) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let slices = [IoSlice::new(&message)];
        let sent = sendmsg(&self.stream, &slices, &mut ancillary, SendFlags::NOSIGNAL)?;
        // The descriptors went with the first byte; only plain bytes can be left over.
        self.stream
            .write_all(message.get(sent..).unwrap_or_default())
    }

    fn receive(&mut self) -> io::Result<Answer> {
        let mut length = [0; 4];
        self.stream.read_exact(&mut length)?;
        let length = u32::from_be_bytes(length);
        if length > ANSWER_LIMIT_BYTES {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mut body = Vec::new();
        let mut limited = (&mut self.stream).take(u64::from(length));
        limited.read_to_end(&mut body)?;
        serde_json::from_slice(&body).map_err(io::Error::from)
    }
}

fn handles(texts: &[String], expected: usize) -> Option<Vec<HandleId>> {
    let parsed: Vec<HandleId> = texts
        .iter()
        .filter_map(|text| match format!("fd:{text}").parse() {
            Ok(HostFile::Handle(handle)) => Some(handle),
            _ => None,
        })
        .collect();
    (parsed.len() == expected && texts.len() == expected).then_some(parsed)
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::os::fd::{AsFd as _, OwnedFd};
    use std::os::unix::net::UnixListener;
    use std::thread;

    use kiln_api::codes;
    use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

    use super::*;

    /// Reads one message and answers `answer`; returns the bytes and what the descriptors hold.
    fn serve_once(stream: &mut UnixStream, answer: &str) -> (Vec<u8>, Vec<String>) {
        let mut bytes = [0; 64];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(BATCH))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let mut slices = [io::IoSliceMut::new(&mut bytes)];
        let received = recvmsg(&*stream, &mut slices, &mut ancillary, RecvFlags::empty()).unwrap();
        let descriptors: Vec<OwnedFd> = ancillary
            .drain()
            .flat_map(|message| match message {
                RecvAncillaryMessage::ScmRights(descriptors) => descriptors.collect(),
                _ => Vec::new(),
            })
            .collect();
        let contents = descriptors
            .into_iter()
            .map(|descriptor| io::read_to_string(File::from(descriptor)).unwrap())
            .collect();
        let length = u32::try_from(answer.len()).unwrap().to_be_bytes();
        stream.write_all(&length).unwrap();
        stream.write_all(answer.as_bytes()).unwrap();
        (bytes[..received.bytes].to_vec(), contents)
    }

    /// Passes two files once per answer and returns what each attempt gave.
    fn check(answers: &'static [&'static str]) -> Vec<Result<Vec<HandleId>, PassingError>> {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("kiln-files.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let serve = |answer: &&str| serve_once(&mut stream, answer);
            answers.iter().map(serve).collect::<Vec<_>>()
        });

        let mut connection = Connection::open(&socket).unwrap().unwrap();
        let results = answers
            .iter()
            .map(|_| {
                let files = ["one", "two"].map(|text| {
                    let path = directory.path().join(text);
                    fs::write(&path, text).unwrap();
                    File::open(path).unwrap()
                });
                connection.pass(&files.each_ref().map(|file| file.as_fd()))
            })
            .collect();

        for (bytes, contents) in server.join().unwrap() {
            assert_eq!(bytes, b"\0\0\0\x0b{\"files\":2}");
            assert_eq!(contents, ["one", "two"]);
        }
        results
    }

    #[test]
    fn descriptors_travel_with_their_message_and_come_back_as_handles() {
        const ANSWER: &str = r#"{"handles":["000102030405060708090a0b0c0d0e0f","ff0102030405060708090a0b0c0d0e0f"]}"#;

        for result in check(&[ANSWER, ANSWER]) {
            let handles = result.unwrap();
            let last = handles[1].to_string();
            assert_eq!(
                (handles.len(), last.as_str()),
                (2, "ff0102030405060708090a0b0c0d0e0f")
            );
        }
    }

    #[test]
    fn a_refusal_is_the_daemons_own_failure() {
        const ANSWER: &str = r#"{"error":{"code":"daemon.busy","class":"unavailable","message":"too many","retryable":true,"http_status":503,"exit_code":8}}"#;

        let results = check(&[ANSWER]);

        let Err(PassingError::Refused(failure)) = &results[0] else {
            panic!("{results:?}");
        };
        assert!(failure.is(codes::daemon::BUSY));
    }

    #[test]
    fn too_few_or_malformed_handles_are_no_answer() {
        for answers in [
            &[r#"{"handles":["000102030405060708090a0b0c0d0e0f"]}"#],
            &[r#"{"handles":["xx","yy"]}"#],
            &[r#"{"hands":[]}"#],
        ] {
            let results = check(answers);

            assert!(
                matches!(results[..], [Err(PassingError::Socket { .. })]),
                "{results:?}"
            );
        }
    }

    #[test]
    fn an_absent_socket_is_no_error() {
        let directory = tempfile::tempdir().unwrap();

        let opened = Connection::open(&directory.path().join("none")).unwrap();

        assert!(opened.is_none());
    }
}
