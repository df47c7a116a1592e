//! What a fault is made of: a place, a number of times, and what happens.

use super::image::OddImage;

/// One way in which a registry misbehaves.
#[derive(Clone, Copy, Debug)]
pub struct Fault {
    /// Its name, such as `layer_cut_once`.
    pub name: &'static str,
    /// Where it shows.
    pub place: Place,
    /// How often.
    pub times: Times,
    /// What happens.
    pub how: How,
    /// How parts of blobs are answered, and, where content is sent, how far an upload is said to be.
    pub ranges: Ranges,
}

/// Where a fault shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// At `/v2/`, which clients may ask first.
    Root,
    /// At the demand for a token.
    Door,
    /// At the token endpoint.
    Token,
    /// At manifests and indexes.
    Manifest,
    /// At the config.
    Config,
    /// At the first layer.
    Layer,
    /// At everything that takes a token.
    Everywhere,
    /// At the question whether a blob is there that is to be sent.
    Look,
    /// At the wish to have a blob taken over from another repository.
    Mount,
    /// At the wish to send a blob.
    Open,
    /// At a part of a blob.
    Part,
    /// At the question how far an upload is.
    Standing,
    /// At the end of an upload.
    Close,
    /// At a manifest that is sent.
    Publish,
}

/// How often a fault shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Times {
    /// The first time.
    Once,
    /// The first two times.
    Twice,
    /// Every time.
    Always,
}

/// Fields of a head. `{home}`, `{stranger}`, `{path}` and `{location}`, where the good answer leads, are
/// filled in.
pub type Fields = &'static [(&'static str, &'static str)];

/// What happens in the place of a good answer.
#[derive(Clone, Copy, Debug)]
pub enum How {
    /// Nothing.
    None,
    /// The image itself is odd.
    Image(fn(&mut OddImage)),
    /// The manifest has this value at this JSON pointer (RFC 6901).
    Edit(&'static str, &'static str),
    /// Another status, with these fields and body.
    Status(u16, Fields, &'static str),
    /// The good answer with these fields.
    Fields(Fields),
    /// The good answer without this field.
    Without(&'static str),
    /// Status 200 with this media type and body.
    Body(&'static str, &'static str),
    /// Status 307.
    Redirect(Target),
    /// Status 401, and the tokens given so far are worth nothing any more.
    ForgetToken,
    /// The connection is closed.
    CloseBeforeHead,
    /// The connection is reset.
    ResetBeforeHead,
    /// The connection is reset in the head.
    ResetInHead,
    /// Half of the body comes, and the connection is closed.
    CutBody,
    /// The same, and the tokens given so far are worth nothing any more.
    CutBodyAndForgetToken,
    /// The same, and one byte of it is another.
    CutWrongBody,
    /// Half of the body comes, and the connection is reset.
    ResetBody,
    /// Half of the body comes, whose length nobody announced.
    EndUnannounced,
    /// Half of the body comes in chunks, and no last one.
    CutChunks,
    /// Half of the body comes in chunks, and then what is no chunk.
    BrokenChunks,
    /// All of the body comes in chunks, as it may.
    GoodChunks,
    /// Nothing comes.
    StallBeforeHead,
    /// Half of the body comes, then nothing.
    StallBody,
    /// The head comes byte by byte.
    DripHead,
    /// The body comes byte by byte.
    DripBody,
    /// The body is longer than it should be.
    Longer,
    /// The same, and nobody announced the length.
    LongerUnannounced,
    /// The body is shorter than it should be.
    Shorter,
    /// One byte in the body's middle is another.
    WrongBytes,
    /// The body is larger than any document.
    HugeAnnounced,
    /// The body has no end, under this status.
    EndlessBody(u16),
    /// One field of the head is a mebibyte long.
    HugeField,
    /// The head has no end.
    EndlessFields,
    /// One informational answer comes first, as it may.
    Hints,
    /// Informational answers come, and no other.
    EndlessHints,
    /// Bytes that are no answer.
    Raw(&'static [u8]),
    /// The body is compressed, which nobody asked for.
    Gzip,
    /// Nobody is let in any more.
    CloseListener,
    /// The answer is good, and the connection is closed without a word of it.
    CloseAfterAnswer,
    /// What was asked for is done, and the connection is reset before the answer.
    DoneAndReset,
    /// What was asked for is done, and nothing comes.
    DoneAndStall,
    /// The good answer under this status.
    As(u16),
    /// What was asked for is done as if nothing stood behind the path.
    WithoutQuery,
    /// The connection is reset when half of what is sent has come.
    ResetInRequest,
    /// Nothing is read of what is sent.
    Deaf,
}

/// Where a redirect leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// Back to where it came from.
    Itself,
    /// To the stranger, who has the blobs.
    Stranger,
    /// To the stranger, who wants a password in this scheme: `basic` or `bearer`.
    Locked(&'static str),
    /// To this URL.
    Named(&'static str),
    /// It does not say.
    Nowhere,
}

/// How parts of blobs are answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ranges {
    /// As asked.
    Good,
    /// With the whole blob.
    Ignored,
    /// With 416.
    Refused,
    /// With the part, and without saying which it is.
    Unsaid,
    /// With another part, which it says.
    Elsewhere,
    /// With other bytes; of an upload, that there is more than was sent.
    Lying,
    /// Of each part that is sent one byte is kept.
    Creeping,
}

impl How {
    /// Tells whether what is asked for is not done.
    pub(super) fn leaves_undone(self) -> bool {
        matches!(
            self,
            Self::Status(..)
                | Self::Body(..)
                | Self::Redirect(_)
                | Self::ForgetToken
                | Self::CloseBeforeHead
                | Self::ResetBeforeHead
                | Self::ResetInHead
                | Self::StallBeforeHead
                | Self::Raw(_)
                | Self::EndlessBody(_)
                | Self::EndlessFields
                | Self::EndlessHints
                | Self::CloseListener
                | Self::ResetInRequest
                | Self::Deaf
        )
    }
}
