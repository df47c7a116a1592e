//! Passes descriptors to the daemon over the second socket, and takes descriptors from it.
//!
//! ```text
//! client ─▶ length (4 bytes, big endian)  {"files":N}       N descriptors attached, 1 to 4
//! daemon ─▶ length (4 bytes, big endian)  {"handles":[..]}  or {"error":{..}}
//!
//! client ─▶ length (4 bytes, big endian)  {"take":[..]}     1 to 4 handles
//! daemon ─▶ length (4 bytes, big endian)  {"taken":N}       N descriptors attached, or {"error":{..}}
//! ```
//! Any number of such pairs may follow each other on one connection. What the descriptors are is
//! not here.

use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut, Read as _, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use kiln_api::{Failure, HandleId};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use serde::Deserialize;

/// Most descriptors in one message.
pub(crate) const BATCH: usize = 4;

/// Longest answer, in bytes: an error object with a long cause stays far below.
const ANSWER_LIMIT_BYTES: u32 = 64 << 10;

/// How long the daemon may take for one answer; it only has to note the descriptors down.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// Why descriptors did not get through.
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
    Taken(usize),
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
        let (answer, _) = self
            .receive()
            .map_err(|source| self.failed("read the answer of", source))?;
        let texts = match answer {
            Answer::Handles(texts) => texts,
            Answer::Taken(_) => Vec::new(),
            Answer::Error(failure) => return Err(PassingError::Refused(failure)),
        };
        handles(&texts, files.len())
            .ok_or_else(|| self.failed("read the handles of", io::ErrorKind::InvalidData.into()))
    }

    /// Takes the descriptors behind one to four handles, in their order.
    pub(crate) fn take(&mut self, handles: &[HandleId]) -> Result<Vec<File>, PassingError> {
        let texts: Vec<String> = handles.iter().map(ToString::to_string).collect();
        let body = serde_json::json!({ "take": texts }).to_string();
        framed(&body)
            .and_then(|message| self.stream.write_all(&message))
            .map_err(|source| self.failed("ask for descriptors of", source))?;
        let (answer, files) = self
            .receive()
            .map_err(|source| self.failed("read the answer of", source))?;
        match answer {
            Answer::Taken(count) if count == handles.len() && files.len() == count => Ok(files),
            Answer::Error(failure) => Err(PassingError::Refused(failure)),
            // Too few arrive where this process may open no more files.
            Answer::Taken(_) | Answer::Handles(_) => {
                Err(self.failed("take descriptors from", io::ErrorKind::InvalidData.into()))
            }
        }
    }

    fn failed(&self, step: &'static str, source: io::Error) -> PassingError {
        PassingError::Socket {
            step,
            socket: self.socket.clone(),
            source,
        }
    }

    fn send(&mut self, files: &[BorrowedFd<'_>]) -> io::Result<()> {
        let message = framed(&format!(r#"{{"files":{}}}"#, files.len()))?;

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

    /// Receives one answer with the descriptors that come with its first bytes.
    fn receive(&mut self) -> io::Result<(Answer, Vec<File>)> {
        let mut length = [0; 4];
        let (received, files) = self.receive_first(&mut length)?;
        self.stream
            .read_exact(length.get_mut(received..).unwrap_or_default())?;
        let length = u32::from_be_bytes(length);
        if length > ANSWER_LIMIT_BYTES {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mut body = Vec::new();
        let mut limited = (&mut self.stream).take(u64::from(length));
        limited.read_to_end(&mut body)?;
        Ok((serde_json::from_slice(&body)?, files))
    }

    fn receive_first(&self, bytes: &mut [u8]) -> io::Result<(usize, Vec<File>)> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(BATCH))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let mut slices = [IoSliceMut::new(bytes)];
        let flags = RecvFlags::CMSG_CLOEXEC;
        let received = rustix::io::retry_on_intr(|| {
            recvmsg(&self.stream, &mut slices, &mut ancillary, flags)
        })?;
        if received.bytes == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut files = Vec::new();
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                files.extend(descriptors.map(File::from));
            }
        }
        Ok((received.bytes, files))
    }
}

fn framed(body: &str) -> io::Result<Vec<u8>> {
    let length = u32::try_from(body.len()).map_err(io::Error::other)?;
    Ok([&length.to_be_bytes()[..], body.as_bytes()].concat())
}

fn handles(texts: &[String], expected: usize) -> Option<Vec<HandleId>> {
    let parsed: Result<Vec<HandleId>, _> = texts.iter().map(|text| text.parse()).collect();
    parsed.ok().filter(|handles| handles.len() == expected)
}

#[cfg(test)]
mod tests {
    use std::fs;
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

    /// Takes what is behind two handles from a daemon that answers `answer` with `descriptors`
    /// descriptors; returns what the files hold, and what was asked.
    fn take(answer: &str, descriptors: usize) -> (Result<Vec<String>, PassingError>, String) {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("kiln-files.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let files: Vec<File> = (0..descriptors)
            .map(|number| {
                let path = directory.path().join(number.to_string());
                fs::write(&path, format!("file {number}")).unwrap();
                File::open(path).unwrap()
            })
            .collect();
        let message = framed(answer).unwrap();
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut length = [0; 4];
            stream.read_exact(&mut length).unwrap();
            let mut asked = vec![0; u32::from_be_bytes(length) as usize];
            stream.read_exact(&mut asked).unwrap();
            let descriptors: Vec<_> = files.iter().map(|file| file.as_fd()).collect();
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(BATCH))];
            let mut ancillary = SendAncillaryBuffer::new(&mut space);
            ancillary.push(SendAncillaryMessage::ScmRights(&descriptors));
            // In two parts: an answer need not arrive at once.
            let slices = [IoSlice::new(&message[..2])];
            sendmsg(&stream, &slices, &mut ancillary, SendFlags::empty()).unwrap();
            stream.write_all(&message[2..]).unwrap();
            String::from_utf8(asked).unwrap()
        });

        let mut connection = Connection::open(&socket).unwrap().unwrap();
        let handles = [[1; 16], [2; 16]].map(HandleId::from_bytes);
        let taken = connection.take(&handles).map(|files| {
            let read = |file| io::read_to_string(file).unwrap();
            files.into_iter().map(read).collect()
        });
        (taken, server.join().unwrap())
    }

    #[test]
    fn descriptors_are_taken_in_the_order_of_their_handles() {
        let (taken, asked) = take(r#"{"taken":2}"#, 2);

        assert_eq!(taken.unwrap(), ["file 0", "file 1"]);
        let (one, two) = ("01".repeat(16), "02".repeat(16));
        assert_eq!(asked, format!(r#"{{"take":["{one}","{two}"]}}"#));
    }

    #[test]
    fn an_answer_without_its_descriptors_is_none() {
        for (answer, descriptors) in [
            (r#"{"taken":2}"#, 1),
            (r#"{"taken":1}"#, 1),
            (r#"{"handles":[]}"#, 2),
        ] {
            let (taken, _) = take(answer, descriptors);

            assert!(
                matches!(taken, Err(PassingError::Socket { .. })),
                "{answer}: {taken:?}"
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
