//! The names of the faults of a registry that is sent something.

use super::catalogue::{always, fault, once};
use super::fault::{Fault, Fields, How, Place, Ranges, Target, Times};

use Place::{Close, Look, Mount, Open, Part, Publish};

/// A demand for a token that is never content.
const DEMAND: Fields = &[("www-authenticate", "Bearer realm=\"http://{home}/token\"")];

const LONG: Fields = &[("retry-after", "3600")];

const SHORT: Fields = &[("retry-after", "1")];

const NO_DIGEST: &str = "sha256:0000000000000000000000000000000000000000000000000000000000000000";

const fn status(code: u16) -> How {
    How::Status(code, &[], "{}")
}

const fn leading(fields: Fields) -> How {
    How::Fields(fields)
}

/// Every fault, in the order of the steps of a push.
pub const FAULTS: &[Fault] = &[
    // Is a blob there?
    once(Look, "look_500_once", status(500)),
    always(Look, "look_500", status(500)),
    once(Look, "look_429_once", How::Status(429, SHORT, "")),
    always(Look, "look_429_long", How::Status(429, LONG, "")),
    always(Look, "look_403", status(403)),
    always(Look, "look_401_loop", How::Status(401, DEMAND, "{}")),
    once(Look, "look_stall_once", How::StallBeforeHead),
    always(Look, "look_stall", How::StallBeforeHead),
    once(Look, "look_reset_once", How::ResetBeforeHead),
    always(
        Look,
        "look_of_another_length",
        How::Body("application/octet-stream", "short"),
    ),
    always(
        Look,
        "look_leads_to_stranger",
        How::Redirect(Target::Stranger),
    ),
    always(Look, "look_leads_to_itself", How::Redirect(Target::Itself)),
    always(Look, "look_drips", How::DripHead),
    // Mounts.
    always(Mount, "mount_202", How::WithoutQuery),
    always(Mount, "mount_that_is_none", status(201)),
    always(Mount, "mount_202_without_location", status(202)),
    once(Mount, "mount_500_once", status(500)),
    always(Mount, "mount_500", status(500)),
    always(Mount, "mount_403", status(403)),
    always(Mount, "mount_404", status(404)),
    always(Mount, "mount_400", status(400)),
    always(Mount, "mount_429_long", How::Status(429, LONG, "")),
    always(Mount, "mount_401_loop", How::Status(401, DEMAND, "{}")),
    once(Mount, "mount_stall_once", How::StallBeforeHead),
    always(Mount, "mount_stall", How::StallBeforeHead),
    once(Mount, "mount_done_and_reset_once", How::DoneAndReset),
    // The opening of an upload.
    once(Open, "open_500_once", status(500)),
    always(Open, "open_500", status(500)),
    once(Open, "open_429_once", How::Status(429, SHORT, "")),
    always(Open, "open_429_long", How::Status(429, LONG, "")),
    once(Open, "open_408_once", status(408)),
    once(Open, "open_503_once", How::Status(503, SHORT, "")),
    always(Open, "open_503_long", How::Status(503, LONG, "")),
    always(Open, "open_401_loop", How::Status(401, DEMAND, "{}")),
    once(Open, "token_dies_at_once", How::ForgetToken),
    always(Open, "open_403", status(403)),
    always(
        Open,
        "open_403_quota",
        How::Status(
            403,
            &[],
            "{\"errors\":[{\"code\":\"DENIED\",\"message\":\"quota\"}]}",
        ),
    ),
    always(Open, "open_404", status(404)),
    always(Open, "open_405", status(405)),
    always(Open, "open_507", status(507)),
    always(Open, "open_200", status(200)),
    always(Open, "open_201", status(201)),
    always(
        Open,
        "open_html",
        How::Body("text/html", "<html>Log in</html>"),
    ),
    always(Open, "open_without_location", How::Without("location")),
    always(Open, "open_location_empty", leading(&[("location", "")])),
    always(
        Open,
        "open_location_absolute",
        leading(&[("location", "http://{home}{location}")]),
    ),
    always(
        Open,
        "open_location_of_stranger",
        leading(&[("location", "http://{stranger}{location}")]),
    ),
    always(
        Open,
        "open_location_of_network",
        leading(&[("location", "http://10.255.255.1{location}")]),
    ),
    always(
        Open,
        "open_location_of_cloud",
        leading(&[("location", "http://169.254.169.254{location}")]),
    ),
    always(
        Open,
        "open_location_of_other_scheme",
        leading(&[("location", "https://{home}{location}")]),
    ),
    always(
        Open,
        "open_location_of_file",
        leading(&[("location", "file:///etc/passwd")]),
    ),
    always(
        Open,
        "open_location_with_user",
        leading(&[("location", "http://ann:pw@{stranger}{location}")]),
    ),
    always(
        Open,
        "open_location_garbage",
        leading(&[("location", "http://")]),
    ),
    always(
        Open,
        "open_location_twice_encoded",
        leading(&[("location", "{location}&a=%252F%26")]),
    ),
    always(Open, "open_redirect", How::Redirect(Target::Stranger)),
    always(
        Open,
        "open_wants_huge_parts",
        leading(&[("oci-chunk-min-length", "18446744073709551615")]),
    ),
    always(
        Open,
        "open_wants_odd_parts",
        leading(&[("oci-chunk-min-length", "-1; DROP")]),
    ),
    once(Open, "open_stall_once", How::StallBeforeHead),
    always(Open, "open_stall", How::StallBeforeHead),
    once(Open, "open_reset_once", How::ResetBeforeHead),
    always(Open, "open_close", How::CloseBeforeHead),
    once(Open, "open_done_and_reset_once", How::DoneAndReset),
    always(Open, "open_drips", How::DripHead),
    always(Open, "open_endless_fields", How::EndlessFields),
    always(Open, "open_endless_hints", How::EndlessHints),
    // Parts.
    once(Part, "part_500_once", status(500)),
    fault(Part, Times::Twice, "part_502_twice", status(502)),
    always(Part, "part_500", status(500)),
    once(Part, "part_429_once", How::Status(429, SHORT, "")),
    always(Part, "part_429_long", How::Status(429, LONG, "")),
    always(Part, "part_503_long", How::Status(503, LONG, "")),
    once(Part, "part_408_once", status(408)),
    once(Part, "part_404_once", status(404)),
    always(Part, "part_404", status(404)),
    always(Part, "part_400", status(400)),
    always(Part, "part_405", status(405)),
    once(Part, "part_413_once", status(413)),
    always(Part, "part_413", status(413)),
    once(Part, "part_416_once", status(416)),
    always(Part, "part_416", status(416)),
    always(Part, "part_403", status(403)),
    always(Part, "part_401_loop", How::Status(401, DEMAND, "{}")),
    once(Part, "token_dies_in_part", How::ForgetToken),
    always(Part, "part_201", How::As(201)),
    always(Part, "part_204", How::As(204)),
    always(Part, "part_without_range", How::Without("range")),
    always(Part, "part_without_location", How::Without("location")),
    always(
        Part,
        "part_range_of_more",
        leading(&[("range", "0-99999999")]),
    ),
    always(Part, "part_range_of_nothing", leading(&[("range", "0-0")])),
    always(
        Part,
        "part_range_garbage",
        leading(&[("range", "bytes */x")]),
    ),
    always(Part, "part_creeps", How::None).with(Ranges::Creeping),
    always(
        Part,
        "part_location_of_stranger",
        leading(&[("location", "http://{stranger}{location}")]),
    ),
    always(
        Part,
        "part_location_of_network",
        leading(&[("location", "http://10.255.255.1{location}")]),
    ),
    always(Part, "part_redirect", How::Redirect(Target::Stranger)),
    once(Part, "part_reset_once", How::ResetBeforeHead),
    once(Part, "part_reset_in_the_middle_once", How::ResetInRequest),
    always(Part, "part_reset_in_the_middle", How::ResetInRequest),
    once(Part, "part_done_and_reset_once", How::DoneAndReset),
    once(Part, "part_done_and_stall_once", How::DoneAndStall),
    once(Part, "part_deaf_once", How::Deaf),
    always(Part, "part_deaf", How::Deaf),
    once(Part, "part_stall_once", How::StallBeforeHead),
    always(Part, "part_stall", How::StallBeforeHead),
    always(Part, "part_drips", How::DripHead),
    // How far is it?
    once(Part, "part_500_and_no_range", status(500)).with(Ranges::Unsaid),
    once(Part, "part_500_and_unknown", status(500)).with(Ranges::Refused),
    once(Part, "part_500_and_more", status(500)).with(Ranges::Lying),
    once(Part, "part_done_and_less", How::DoneAndReset).with(Ranges::Elsewhere),
    // The end of an upload.
    once(Close, "close_500_once", status(500)),
    always(Close, "close_500", status(500)),
    once(Close, "close_429_once", How::Status(429, SHORT, "")),
    always(Close, "close_429_long", How::Status(429, LONG, "")),
    once(Close, "close_404_once", status(404)),
    always(Close, "close_404", status(404)),
    once(
        Close,
        "close_digest_invalid_once",
        How::Status(400, &[], "{\"errors\":[{\"code\":\"DIGEST_INVALID\"}]}"),
    ),
    always(
        Close,
        "close_digest_invalid",
        How::Status(400, &[], "{\"errors\":[{\"code\":\"DIGEST_INVALID\"}]}"),
    ),
    always(Close, "close_413", status(413)),
    once(Close, "close_416_once", status(416)),
    always(Close, "close_416", status(416)),
    always(Close, "close_403", status(403)),
    always(Close, "close_202", status(202)),
    always(Close, "close_200", How::As(200)),
    always(Close, "close_204", How::As(204)),
    always(Close, "close_that_keeps_nothing", status(201)),
    always(
        Close,
        "close_under_another_digest",
        leading(&[("docker-content-digest", NO_DIGEST)]),
    ),
    always(Close, "close_redirect", How::Redirect(Target::Stranger)),
    once(Close, "token_dies_in_close", How::ForgetToken),
    always(Close, "close_401_loop", How::Status(401, DEMAND, "{}")),
    once(Close, "close_done_and_reset_once", How::DoneAndReset),
    once(Close, "close_done_and_stall_once", How::DoneAndStall),
    once(Close, "close_reset_once", How::ResetBeforeHead),
    once(Close, "close_reset_in_the_middle_once", How::ResetInRequest),
    once(Close, "close_stall_once", How::StallBeforeHead),
    always(Close, "close_stall", How::StallBeforeHead),
    always(Close, "close_drips", How::DripHead),
    // Manifests, and with them tags.
    once(Publish, "publish_500_once", status(500)),
    always(Publish, "publish_500", status(500)),
    once(Publish, "publish_408_once", status(408)),
    once(Publish, "publish_429_once", How::Status(429, SHORT, "")),
    always(Publish, "publish_429_long", How::Status(429, LONG, "")),
    always(Publish, "publish_503_long", How::Status(503, LONG, "")),
    always(
        Publish,
        "publish_lacks_a_blob",
        How::Status(
            404,
            &[],
            "{\"errors\":[{\"code\":\"MANIFEST_BLOB_UNKNOWN\"}]}",
        ),
    ),
    always(
        Publish,
        "publish_invalid",
        How::Status(400, &[], "{\"errors\":[{\"code\":\"MANIFEST_INVALID\"}]}"),
    ),
    always(Publish, "publish_413", status(413)),
    always(Publish, "publish_403", status(403)),
    always(Publish, "publish_405", status(405)),
    always(
        Publish,
        "publish_immutable",
        How::Status(
            412,
            &[],
            "{\"errors\":[{\"code\":\"PRECONDITION\",\"message\":\"configured as immutable\"}]}",
        ),
    ),
    always(
        Publish,
        "publish_under_another_digest",
        leading(&[("docker-content-digest", NO_DIGEST)]),
    ),
    always(
        Publish,
        "publish_without_digest",
        How::Without("docker-content-digest"),
    ),
    always(Publish, "publish_200", How::As(200)),
    always(
        Publish,
        "publish_html",
        How::Body("text/html", "<html>Log in</html>"),
    ),
    always(Publish, "publish_redirect", How::Redirect(Target::Stranger)),
    once(Publish, "token_dies_in_publish", How::ForgetToken),
    always(Publish, "publish_401_loop", How::Status(401, DEMAND, "{}")),
    once(Publish, "publish_done_and_reset_once", How::DoneAndReset),
    once(
        Publish,
        "publish_reset_in_the_middle_once",
        How::ResetInRequest,
    ),
    once(Publish, "publish_stall_once", How::StallBeforeHead),
    always(Publish, "publish_stall", How::StallBeforeHead),
    always(Publish, "publish_drips", How::DripHead),
    always(
        Publish,
        "publish_403_escapes",
        How::Status(
            403,
            &[],
            "{\"errors\":[{\"code\":\"DENIED\",\"message\":\"\\u001b[31mred\\u0007\\u202e\"}]}",
        ),
    ),
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn no_name_is_used_twice() {
        let names: BTreeSet<&str> = FAULTS.iter().map(|fault| fault.name).collect();

        assert_eq!(names.len(), FAULTS.len());
        assert!(names.len() > 100, "{}", names.len());
    }
}
