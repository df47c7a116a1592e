//! The names of the faults.

use super::fault::{Fault, How, Place, Ranges, Target, Times};
use super::image::{INDEX, MANIFEST, OddImage};
use super::oddities;

use Place::{Config, Door, Everywhere, Layer, Manifest, Root, Token};

pub(super) const fn fault(place: Place, times: Times, name: &'static str, how: How) -> Fault {
    Fault {
        name,
        place,
        times,
        how,
        ranges: Ranges::Good,
    }
}

pub(super) const fn once(place: Place, name: &'static str, how: How) -> Fault {
    fault(place, Times::Once, name, how)
}

pub(super) const fn always(place: Place, name: &'static str, how: How) -> Fault {
    fault(place, Times::Always, name, how)
}

const fn image(name: &'static str, make_odd: fn(&mut OddImage)) -> Fault {
    always(Place::Manifest, name, How::Image(make_odd))
}

const fn edit(name: &'static str, pointer: &'static str, value: &'static str) -> Fault {
    always(Manifest, name, How::Edit(pointer, value))
}

impl Fault {
    /// None: a registry as it should be.
    pub const NONE: Self = always(Place::Everywhere, "none", How::None);

    pub(super) const fn with(self, ranges: Ranges) -> Self {
        Self { ranges, ..self }
    }
}

/// Returns the fault with this name.
pub fn find(name: &str) -> Option<Fault> {
    FAULTS.iter().copied().find(|fault| fault.name == name)
}

/// Every fault.
pub const FAULTS: &[Fault] = &[
    Fault::NONE,
    // Before anything is asked.
    always(Root, "root_500", How::Status(500, &[], "")),
    always(Root, "root_stall", How::StallBeforeHead),
    always(
        Root,
        "root_tls_alert",
        How::Raw(b"\x15\x03\x01\x00\x02\x02\x28"),
    ),
    once(Root, "root_reset_once", How::ResetBeforeHead),
    // The demand for a token.
    always(Door, "challenge_missing", How::Status(401, &[], "{}")),
    always(
        Door,
        "challenge_unknown",
        How::Status(401, &[("www-authenticate", "Negotiate")], "{}"),
    ),
    always(
        Door,
        "challenge_basic",
        How::Status(401, &[("www-authenticate", "Basic realm=\"x\"")], "{}"),
    ),
    always(
        Door,
        "realm_elsewhere",
        How::Status(
            401,
            &[(
                "www-authenticate",
                "Bearer realm=\"https://auth.example.com/token\"",
            )],
            "{}",
        ),
    ),
    always(
        Door,
        "realm_plain_http",
        How::Status(
            401,
            &[(
                "www-authenticate",
                "Bearer realm=\"http://example.com/token\"",
            )],
            "{}",
        ),
    ),
    always(
        Door,
        "realm_file",
        How::Status(
            401,
            &[("www-authenticate", "Bearer realm=\"file:///etc/passwd\"")],
            "{}",
        ),
    ),
    always(
        Door,
        "realm_with_user",
        How::Status(
            401,
            &[(
                "www-authenticate",
                "Bearer realm=\"http://ann:pw@{home}/token\"",
            )],
            "{}",
        ),
    ),
    always(
        Door,
        "realm_garbage",
        How::Status(401, &[("www-authenticate", "Bearer realm=\"::::\"")], "{}"),
    ),
    // The token endpoint.
    once(Token, "token_500_once", How::Status(500, &[], "")),
    always(
        Token,
        "token_500",
        How::Status(500, &[], "{\"details\":\"the token server is broken\"}"),
    ),
    once(
        Token,
        "token_503_retry_after_once",
        How::Status(503, &[("retry-after", "1")], ""),
    ),
    once(
        Token,
        "token_429_once",
        How::Status(429, &[("retry-after", "1")], ""),
    ),
    always(
        Token,
        "token_429_long",
        How::Status(429, &[("retry-after", "3600")], ""),
    ),
    always(
        Token,
        "token_401",
        How::Status(401, &[], "{\"details\":\"this account is disabled\"}"),
    ),
    always(
        Token,
        "token_403",
        How::Status(403, &[], "{\"details\":\"not for you\"}"),
    ),
    always(Token, "token_404", How::Status(404, &[], "")),
    always(Token, "token_huge", How::HugeAnnounced),
    always(Token, "token_endless", How::EndlessBody(200)),
    always(
        Token,
        "token_html",
        How::Body("text/html", "<html>Log in</html>"),
    ),
    always(
        Token,
        "token_empty",
        How::Body("application/json", "{\"token\":\"\"}"),
    ),
    always(
        Token,
        "token_control_characters",
        How::Body("application/json", "{\"token\":\"a\\r\\nx-evil: 1\"}"),
    ),
    always(Token, "token_redirect", How::Redirect(Target::Stranger)),
    once(Token, "token_stall_once", How::StallBeforeHead),
    always(Token, "token_stall", How::StallBeforeHead),
    once(Token, "token_cut_once", How::CutBody),
    once(Token, "token_reset_once", How::ResetBeforeHead),
    // Manifests: statuses.
    once(Manifest, "manifest_429_once", How::Status(429, &[], "")),
    once(
        Manifest,
        "manifest_429_seconds_once",
        How::Status(429, &[("retry-after", "1")], ""),
    ),
    once(
        Manifest,
        "manifest_429_date_once",
        How::Status(
            429,
            &[
                ("date", "Tue, 01 Dec 2026 10:00:00 GMT"),
                ("retry-after", "Tue, 01 Dec 2026 10:00:01 GMT"),
            ],
            "",
        ),
    ),
    once(
        Manifest,
        "manifest_429_garbage_once",
        How::Status(429, &[("retry-after", "soon")], ""),
    ),
    always(
        Manifest,
        "manifest_429_absurd",
        How::Status(
            429,
            &[("retry-after", "99999999999")],
            "{\"errors\":[{\"code\":\"TOOMANYREQUESTS\",\"message\":\"slow down\"}]}",
        ),
    ),
    always(Manifest, "manifest_429", How::Status(429, &[], "")),
    once(Manifest, "manifest_408_once", How::Status(408, &[], "")),
    once(Manifest, "manifest_500_once", How::Status(500, &[], "")),
    fault(
        Manifest,
        Times::Twice,
        "manifest_502_twice",
        How::Status(502, &[], ""),
    ),
    once(
        Manifest,
        "manifest_503_seconds_once",
        How::Status(503, &[("retry-after", "1")], ""),
    ),
    always(Manifest, "manifest_503", How::Status(503, &[], "")),
    always(
        Manifest,
        "manifest_503_long",
        How::Status(503, &[("retry-after", "3600")], ""),
    ),
    once(Manifest, "manifest_504_once", How::Status(504, &[], "")),
    always(Manifest, "manifest_501", How::Status(501, &[], "")),
    always(
        Manifest,
        "manifest_403_escapes",
        How::Status(
            403,
            &[],
            "{\"errors\":[{\"code\":\"DENIED\",\"message\":\"\\u001b[31mred\\u0007\\u202e\"}]}",
        ),
    ),
    always(Manifest, "manifest_404", How::Status(404, &[], "")),
    always(Manifest, "manifest_418", How::Status(418, &[], "")),
    always(
        Manifest,
        "manifest_206",
        How::Status(206, &[("content-range", "bytes 0-1/2")], "{}"),
    ),
    always(
        Manifest,
        "manifest_401_loop",
        How::Status(
            401,
            &[("www-authenticate", "Bearer realm=\"http://{home}/token\"")],
            "{}",
        ),
    ),
    always(Manifest, "manifest_500_endless", How::EndlessBody(500)),
    // Manifests: connections.
    once(Manifest, "manifest_close_once", How::CloseBeforeHead),
    always(Manifest, "manifest_close", How::CloseBeforeHead),
    once(Manifest, "manifest_reset_once", How::ResetBeforeHead),
    once(Manifest, "manifest_reset_in_head_once", How::ResetInHead),
    once(Manifest, "manifest_reset_in_body_once", How::ResetBody),
    once(Manifest, "manifest_cut_once", How::CutBody),
    always(Manifest, "manifest_cut", How::CutBody),
    once(Manifest, "manifest_chunks_cut_once", How::CutChunks),
    once(Manifest, "manifest_chunks_broken_once", How::BrokenChunks),
    always(Manifest, "manifest_chunks", How::GoodChunks),
    once(Manifest, "manifest_stall_once", How::StallBeforeHead),
    always(Manifest, "manifest_stall", How::StallBeforeHead),
    once(Manifest, "manifest_stall_in_body_once", How::StallBody),
    always(Manifest, "manifest_drip_head", How::DripHead),
    always(Manifest, "manifest_drip_body", How::DripBody),
    always(
        Everywhere,
        "closed_after_every_answer",
        How::CloseAfterAnswer,
    ),
    always(Manifest, "listener_gone", How::CloseListener),
    // Manifests: heads and bodies.
    once(Manifest, "manifest_wrong_once", How::WrongBytes),
    always(Manifest, "manifest_wrong", How::WrongBytes),
    once(Manifest, "manifest_longer_once", How::Longer),
    once(Manifest, "manifest_shorter_once", How::Shorter),
    always(Manifest, "manifest_huge", How::HugeAnnounced),
    always(Manifest, "manifest_endless", How::EndlessBody(200)),
    always(Manifest, "manifest_huge_field", How::HugeField),
    always(Manifest, "manifest_endless_fields", How::EndlessFields),
    once(Manifest, "manifest_hints_once", How::Hints),
    always(Manifest, "manifest_endless_hints", How::EndlessHints),
    always(
        Manifest,
        "manifest_http_0_9",
        How::Raw(b"{\"schemaVersion\":2}"),
    ),
    always(
        Manifest,
        "manifest_two_lengths",
        How::Raw(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\n{}}"),
    ),
    always(
        Manifest,
        "manifest_absurd_length",
        How::Raw(b"HTTP/1.1 200 OK\r\ncontent-length: 99999999999999999999\r\n\r\n{}"),
    ),
    always(Manifest, "manifest_gzip", How::Gzip),
    always(
        Manifest,
        "manifest_html",
        How::Body("text/html", "<html>Log in to the network</html>"),
    ),
    always(
        Manifest,
        "manifest_is_not_json",
        How::Body(MANIFEST, "it is not"),
    ),
    always(
        Manifest,
        "manifest_deep_json",
        How::Image(oddities::deep_json),
    ),
    always(
        Manifest,
        "manifest_called_text",
        How::Fields(&[("content-type", "text/plain")]),
    ),
    always(
        Manifest,
        "manifest_called_index",
        How::Fields(&[("content-type", INDEX)]),
    ),
    always(
        Manifest,
        "manifest_called_nothing",
        How::Without("content-type"),
    ),
    always(
        Manifest,
        "manifest_digest_lies",
        How::Fields(&[(
            "docker-content-digest",
            "sha256:0000000000000000000000000000000000000000000000000000000000000000",
        )]),
    ),
    always(
        Manifest,
        "manifest_digest_sha512",
        How::Fields(&[("docker-content-digest", "sha512:00")]),
    ),
    always(
        Manifest,
        "manifest_digest_garbage",
        How::Fields(&[("docker-content-digest", "../../etc/passwd")]),
    ),
    always(
        Manifest,
        "manifest_without_digest",
        How::Without("docker-content-digest"),
    ),
    // Redirects.
    always(Manifest, "redirect_loop", How::Redirect(Target::Itself)),
    always(
        Layer,
        "redirect_to_stranger",
        How::Redirect(Target::Stranger),
    ),
    always(
        Manifest,
        "redirect_manifest_to_stranger",
        How::Redirect(Target::Stranger),
    ),
    always(
        Layer,
        "redirect_to_stranger_who_asks_basic",
        How::Redirect(Target::Locked("basic")),
    ),
    always(
        Layer,
        "redirect_to_stranger_who_asks_bearer",
        How::Redirect(Target::Locked("bearer")),
    ),
    always(
        Layer,
        "redirect_with_user",
        How::Redirect(Target::Named("http://ann:pw@{stranger}{path}")),
    ),
    always(
        Layer,
        "redirect_to_file",
        How::Redirect(Target::Named("file:///etc/passwd")),
    ),
    always(
        Layer,
        "redirect_to_garbage",
        How::Redirect(Target::Named("http://")),
    ),
    always(Layer, "redirect_nowhere", How::Redirect(Target::Nowhere)),
    // The config.
    once(Config, "config_500_once", How::Status(500, &[], "")),
    once(Config, "config_cut_once", How::CutBody),
    once(Config, "config_stall_once", How::StallBeforeHead),
    once(Config, "config_wrong_once", How::WrongBytes),
    always(Config, "config_wrong", How::WrongBytes),
    always(Config, "config_404", How::Status(404, &[], "")),
    always(Config, "config_drip", How::DripBody),
    always(Config, "config_endless", How::EndlessBody(200)),
    image("config_huge", oddities::huge_config),
    image("config_is_not_json", oddities::garbage_config),
    // Layers: what ends well.
    once(
        Layer,
        "layer_429_once",
        How::Status(429, &[("retry-after", "1")], ""),
    ),
    once(Layer, "layer_503_once", How::Status(503, &[], "")),
    once(Layer, "layer_reset_once", How::ResetBeforeHead),
    once(Layer, "layer_reset_in_body_once", How::ResetBody),
    once(Layer, "layer_cut_once", How::CutBody),
    fault(Layer, Times::Twice, "layer_cut_twice", How::CutBody),
    once(Layer, "layer_cut_without_ranges", How::CutBody).with(Ranges::Ignored),
    once(Layer, "layer_cut_and_416", How::CutBody).with(Ranges::Refused),
    once(Layer, "layer_cut_and_another_part", How::CutBody).with(Ranges::Elsewhere),
    once(Layer, "layer_cut_and_unsaid_part", How::CutBody).with(Ranges::Unsaid),
    once(Layer, "layer_cut_and_lying_part", How::CutBody).with(Ranges::Lying),
    once(Layer, "layer_ends_unannounced_once", How::EndUnannounced),
    once(Layer, "layer_chunks_cut_once", How::CutChunks),
    once(Layer, "layer_chunks_broken_once", How::BrokenChunks),
    always(Layer, "layer_chunks", How::GoodChunks),
    once(Layer, "layer_stall_once", How::StallBody),
    once(Layer, "layer_wrong_once", How::WrongBytes),
    once(Layer, "layer_wrong_and_cut_once", How::CutWrongBody),
    once(Layer, "layer_longer_once", How::Longer),
    once(Layer, "layer_shorter_once", How::Shorter),
    once(
        Layer,
        "layer_html_once",
        How::Body("text/html", "<html>Log in</html>"),
    ),
    once(Layer, "token_dies_before_layer", How::ForgetToken),
    once(Layer, "token_dies_in_layer", How::CutBodyAndForgetToken),
    always(
        Layer,
        "layer_called_gzip",
        How::Fields(&[("content-encoding", "gzip")]),
    ),
    // Layers: what does not.
    always(Layer, "layer_500", How::Status(500, &[], "")),
    always(Layer, "layer_404", How::Status(404, &[], "")),
    always(Layer, "layer_403", How::Status(403, &[], "")),
    always(Layer, "layer_close", How::CloseBeforeHead),
    always(Layer, "layer_stall", How::StallBeforeHead),
    always(Layer, "layer_stall_in_body", How::StallBody),
    always(Layer, "layer_drip", How::DripBody),
    always(Layer, "layer_wrong", How::WrongBytes),
    always(Layer, "layer_longer", How::Longer),
    always(Layer, "layer_longer_unannounced", How::LongerUnannounced),
    always(Layer, "layer_shorter", How::Shorter),
    always(Layer, "layer_ends_unannounced", How::EndUnannounced),
    always(Layer, "layer_gzip", How::Gzip),
    always(
        Layer,
        "layer_206",
        How::Status(206, &[("content-range", "bytes 5-6/7")], "{}"),
    ),
    always(
        Layer,
        "layer_401_loop",
        How::Status(
            401,
            &[("www-authenticate", "Bearer realm=\"http://{home}/token\"")],
            "{}",
        ),
    ),
    // The image itself.
    image("schema_1", oddities::schema_1),
    image("index_nested_too_deep", oddities::nested_indexes),
    image("index_of_100000", oddities::index_of_100000),
    image("index_of_unknown_platforms", oddities::index_of_strangers),
    image("index_of_100_indexes", oddities::index_of_indexes),
    image("index_of_what_is_not_there", oddities::index_of_nothing),
    image("duplicate_keys", oddities::duplicate_keys),
    image("manifest_and_index_in_one", oddities::two_in_one),
    image("foreign_layer", oddities::foreign_layer),
    image("one_layer_too_many", oddities::layer_too_many),
    edit("no_layers_at_all", "/layers", "null"),
    edit(
        "layer_of_unknown_type",
        "/layers/0/mediaType",
        "\"application/x-layer\"",
    ),
    edit("layer_size_lies_low", "/layers/0/size", "10"),
    edit("layer_size_lies_high", "/layers/0/size", "10000000"),
    edit("layer_size_negative", "/layers/0/size", "-1"),
    edit(
        "layer_digest_leaves_its_path",
        "/layers/0/digest",
        "\"sha256:../../../../etc/passwd\"",
    ),
    edit(
        "config_digest_leaves_its_path",
        "/config/digest",
        "\"sha256:../../../../etc/passwd\"",
    ),
    edit("layer_digest_sha512", "/layers/0/digest", "\"sha512:00\""),
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn there_are_many_faults_and_no_name_is_used_twice() {
        let names: BTreeSet<&str> = FAULTS.iter().map(|fault| fault.name).collect();

        assert_eq!(names.len(), FAULTS.len());
        assert!(names.len() > 100, "{}", names.len());
        assert!(find("layer_cut_once").is_some());
        assert!(find("nothing of that name").is_none());
    }
}
