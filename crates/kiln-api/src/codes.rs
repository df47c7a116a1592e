//! Every error code, grouped by noun. `docs/errors.md` is printed from this list.

use crate::code::{Class, Code};

macro_rules! codes {
    ($($(#[$group_doc:meta])* $group:ident { $($konst:ident = $name:literal, $class:ident, $retry:ident, $meaning:literal, $next:literal;)* })*) => {
        $(
            $(#[$group_doc])*
            pub mod $group {
                use super::{Class, Code, retryable};
                $(
                    #[doc = $meaning]
                    pub const $konst: Code = Code {
                        name: $name,
                        class: Class::$class,
                        retryable: retryable::$retry,
                        meaning: $meaning,
                        next_step: $next,
                    };
                )*
                pub(super) const ALL: &[Code] = &[$($konst),*];
            }
        )*

        /// Returns every code, group by group, in the order of the documentation.
        pub fn all() -> impl Iterator<Item = &'static Code> {
            [$($group::ALL),*].into_iter().flatten()
        }
    };
}

/// The two answers to "may the same call succeed later?".
mod retryable {
    #![expect(
        non_upper_case_globals,
        reason = "they read as words in the table of codes"
    )]
    pub(super) const later: bool = true;
    pub(super) const never: bool = false;
}

codes! {
    /// The request itself.
    request {
        MALFORMED = "request.malformed", Invalid, never,
            "The request is not a JSON-RPC 2.0 request.", "Send one JSON object with jsonrpc, method, params and id.";
        INVALID_PARAMS = "request.invalid_params", Invalid, never,
            "A parameter is missing, unknown, or of the wrong kind.", "Compare the call with `kiln rpc rpc.discover` or docs/api.md.";
        INVALID_ID = "request.invalid_id", Invalid, never,
            "A text that is to be an id is no UUID.", "Write it with hyphens, as `kiln images` shows it.";
        UNKNOWN_METHOD = "request.unknown_method", NotFound, never,
            "The daemon has no such method.", "List the methods with `kiln rpc rpc.discover`.";
        TOO_LARGE = "request.too_large", Invalid, never,
            "The request is larger than the daemon takes.", "Send less in one call; the limits are in SECURITY.md.";
        TOO_SLOW = "request.too_slow", Timeout, later,
            "The request did not arrive as a whole in the time the daemon waits for one.", "Send the body at once; the limits are in SECURITY.md.";
        RATE_LIMITED = "request.rate_limited", Unavailable, later,
            "The user has made as many costly calls as one may in a while.", "Call again after `retry_after_seconds`; docs/operations.md lists the calls and the setting.";
        NEEDS_WEBSOCKET = "request.needs_websocket", Invalid, never,
            "Subscriptions exist on WebSocket connections only.", "Connect by WebSocket, or call operation.wait.";
        DENIED = "request.denied", Denied, never,
            "The caller may not do this, or says to be somebody else.", "Ask the owner, an administrator of its organisation or a superadmin; `kiln whoami` tells who you are.";
    }
    /// Users.
    user {
        NOT_FOUND = "user.not_found", NotFound, never,
            "The daemon knows no such user.", "List them with `kiln user ls`; name one it has not seen by the uid.";
        NAME_TAKEN = "user.name_taken", Conflict, never,
            "Another user is called so.", "Choose another name, or take it from the other with `kiln user rename`.";
        ROLE_FIXED = "user.role_fixed", Conflict, never,
            "Root and the daemon's own user are superadmins, whatever is said.", "Give the role to another user.";
        IN_USE = "user.in_use", Conflict, never,
            "Something is on record as the user's.", "Leave the user, and take the role away with `kiln user set-role`.";
    }
    /// Organisations.
    org {
        NOT_FOUND = "org.not_found", NotFound, never,
            "There is no organisation of that name or id.", "List them with `kiln org ls`.";
        ALREADY_EXISTS = "org.already_exists", Conflict, never,
            "There is an organisation of that name.", "Choose another name.";
        IN_USE = "org.in_use", Conflict, never,
            "Images belong to the organisation, forgotten ones included.", "Keep the organisation until they are gone.";
        TOO_MANY = "org.too_many", Conflict, never,
            "The user is in as many organisations as one may be in.", "Take the user out of another one first.";
    }
    /// The daemon.
    daemon {
        UNREACHABLE = "daemon.unreachable", Unavailable, later,
            "The client found no daemon behind the socket.", "Start kilnd, or name its socket with --host.";
        INCOMPATIBLE = "daemon.incompatible", Invalid, never,
            "The daemon speaks another major version of the API than the client.", "Install kiln and kilnd of the same release.";
        BUSY = "daemon.busy", Unavailable, later,
            "As many operations, connections or machines are open as the daemon allows.", "Wait for one to end and call again.";
        STOPPING = "daemon.stopping", Unavailable, later,
            "The daemon is stopping and takes no new work.", "Call again when it has started anew.";
        INTERNAL = "daemon.internal", Internal, never,
            "Something failed inside Kiln that should not have.", "Look at the daemon's log for the request id, and report it.";
    }
    /// Files of the host that a call names.
    file {
        NOT_FOUND = "file.not_found", NotFound, never,
            "A file that the call names does not exist.", "Check the path.";
        WRONG_KIND = "file.wrong_kind", Invalid, never,
            "A path names a directory where a regular file is needed, or the other way round.", "Name a path of the right kind.";
        UNREADABLE = "file.unreadable", Denied, never,
            "A file that the call names cannot be read with the caller's rights.", "Make it readable for the caller.";
        PATH_NOT_ALLOWED = "file.path_not_allowed", Denied, never,
            "Plain paths are taken from root and the daemon's own user only.", "Use the kiln client: it opens the file and passes the descriptor.";
        HANDLE_UNKNOWN = "file.handle_unknown", NotFound, never,
            "A descriptor handle is unknown, used, expired, or another user's.", "Pass the descriptor again; a handle serves once, for a minute.";
        TOO_LARGE = "file.too_large", Invalid, never,
            "A file is larger than its kind may be.", "Check that it is the file you mean.";
        ALREADY_EXISTS = "file.already_exists", Conflict, never,
            "There is something where a file is to be made.", "Choose another path, or replace a regular file with --force.";
    }
    /// Images and their names.
    image {
        NOT_FOUND = "image.not_found", NotFound, never,
            "No image answers to the name, id or reference.", "List them with `kiln images`; forgotten ones with --all.";
        AMBIGUOUS = "image.ambiguous", Conflict, never,
            "Several images answer to the reference.", "Name one by its id.";
        ALREADY_EXISTS = "image.already_exists", Conflict, never,
            "An image of that name already exists.", "Choose another name with --name, or forget the old one.";
        NAME_RESERVED = "image.name_reserved", Conflict, later,
            "A running operation has reserved that name.", "Wait for the operation with `kiln op wait`.";
        IN_USE = "image.in_use", Conflict, later,
            "Machines run the image, or leases keep it.", "Stop the machines with `kiln stop`, wait for the leases, or use --force.";
        CONFIRMATION_NEEDED = "image.confirmation_needed", Conflict, never,
            "The image would be removed in spite of what uses it, and the call has no token that counts.", "Make a dry run with force, and send the token of its answer within five minutes.";
        NO_OCI_SOURCE = "image.no_oci_source", Invalid, never,
            "The image was not made from an OCI image, so there is none to push.", "Push an image that was pulled.";
        NAME_INVALID = "image.name_invalid", Invalid, never,
            "The name does not follow the grammar of image names, or reads as an id.", "Use lower-case letters, digits and single separators, and no UUID.";
        IS_FORGOTTEN = "image.is_forgotten", Conflict, never,
            "The image is forgotten, and nothing about it can be changed.", "Restore it first.";
        REVISION_CONFLICT = "image.revision_conflict", Conflict, never,
            "The image has changed since the caller looked at it.", "Look at it again with `kiln image show`, and decide anew.";
        SOURCE_GONE = "image.source_gone", NotFound, never,
            "The registry no longer has what the image came from.", "Keep the image, or pull another one; nothing about it has changed.";
        NO_REGISTRY = "image.no_registry", Invalid, never,
            "The image came from no registry, so there is none to ask.", "Name an image that was pulled from a registry.";
        LABEL_INVALID = "image.label_invalid", Invalid, never,
            "A label, a keyword or a description is too long, or has characters it may not have.", "The rules are in docs/image-service.md.";
        LIMIT_INVALID = "image.limit_invalid", Invalid, never,
            "A limit names no slot, is no quantity, or is one that no machine could have.", "Write it like cpu=4, memory=8G or gpu=2; the rule is in docs/image-service.md.";
    }
    /// Leases, which keep images.
    lease {
        NOT_FOUND = "lease.not_found", NotFound, never,
            "There is no such lease of the caller's, or it has ended.", "Take a new one with `kiln image lease`.";
        TOO_MANY = "lease.too_many", Conflict, later,
            "The user has as many leases as one may have.", "End some with `kiln image release`, or wait until they end.";
    }
    /// Aliases: other names of images.
    alias {
        NOT_FOUND = "alias.not_found", NotFound, never,
            "There is no alias of that name.", "List them with `kiln alias ls`.";
        ALREADY_EXISTS = "alias.already_exists", Conflict, never,
            "There is an alias of that name.", "Choose another name, or take it away with `kiln unalias`.";
        CIRCULAR = "alias.circular", Conflict, never,
            "The alias would lead back to itself, or through too many others.", "Let it lead to the image itself.";
        TARGET_NOT_FOUND = "alias.target_not_found", NotFound, never,
            "What the alias is to lead to is no image that is active.", "List the images with `kiln images`.";
    }
    /// Where an image comes from.
    source {
        INVALID_REFERENCE = "source.invalid_reference", Invalid, never,
            "The text is not an OCI reference nor a source Kiln knows.", "Write it like debian:bookworm, registry/name@sha256:…, oci:DIR or oci-archive:FILE.";
        NOT_FOUND = "source.not_found", NotFound, never,
            "The registry or the layout has no such image.", "Check the repository and the tag.";
        AMBIGUOUS = "source.ambiguous", Invalid, never,
            "A layout or archive holds several images and none was chosen.", "Add :TAG behind the path.";
        UNREADABLE = "source.unreadable", Invalid, never,
            "A layout or archive is not what its name says.", "Check the path; make a new copy with `skopeo copy`.";
        INVALID_PLATFORM = "source.invalid_platform", Invalid, never,
            "The platform is not one Kiln knows.", "Write it like linux/amd64 or linux/arm64/v8.";
        PLATFORM_NOT_FOUND = "source.platform_not_found", NotFound, never,
            "The image exists, but not for the platform.", "Choose one of the platforms the message lists with --platform.";
        MALFORMED_MANIFEST = "source.malformed_manifest", Invalid, never,
            "A manifest, index or config is not a well-formed document of its kind.", "Push the image again with a current tool.";
        UNSUPPORTED = "source.unsupported", Invalid, never,
            "The manifest or a layer is of a kind Kiln does not build from.", "Convert the image, for instance with `skopeo copy --format oci`.";
        DIGEST_MISMATCH = "source.digest_mismatch", Network, later,
            "Bytes do not have the digest under which they were asked for.", "Try again; if it stays, the registry or a proxy is damaged.";
        SIZE_MISMATCH = "source.size_mismatch", Network, later,
            "A blob is shorter or longer than its descriptor says.", "Try again; if it stays, push the image again.";
        DAMAGED = "source.damaged", Invalid, never,
            "A file of a layout, an archive or a directory on this host is not what its manifest says.", "Make a new copy of it: the same file gives the same bytes each time.";
        CHANGED = "source.changed", Network, later,
            "The tag at the source no longer names what the image was pulled from.", "Push without --all, or pull again.";
    }
    /// Registries, seen over the network.
    registry {
        UNREACHABLE = "registry.unreachable", Network, later,
            "No connection to the registry could be made.", "Check the host, the network and the proxy; `kiln registry explain` tells which are used.";
        TIMED_OUT = "registry.timed_out", Network, later,
            "The registry stopped sending.", "Try again.";
        TLS_FAILED = "registry.tls_failed", Network, never,
            "The registry's certificate could not be trusted.", "Put its CA into /etc/containers/certs.d/HOST/ca.crt, or add it to the daemon's configuration (registries.ca_files).";
        AUTH_REQUIRED = "registry.auth_required", Auth, never,
            "The registry wants credentials and none were found.", "Log in with `kiln login`, or use --creds.";
        AUTH_FAILED = "registry.auth_failed", Auth, never,
            "The registry did not accept the credentials.", "Check the user name and password, and log in again with `kiln login`.";
        DENIED = "registry.denied", Denied, never,
            "The registry does not let this user do that with the repository.", "Ask for the right to read, or to write, the repository.";
        RATE_LIMITED = "registry.rate_limited", Network, later,
            "The registry limits how often it may be asked.", "Wait as long as the message says, or log in for a higher limit.";
        SERVER_ERROR = "registry.server_error", Network, later,
            "The registry answered with an error of its own.", "Try again later.";
        TAGS_SHARED = "registry.tags_shared", Conflict, never,
            "Other tags name the manifest and would be deleted with it.", "Take the one tag off with `kiln registry untag`, or use --force.";
        UNSUPPORTED = "registry.unsupported", Invalid, never,
            "The registry is there and does not offer what was asked of it.", "Ask its documentation what it offers; `kiln tags` needs no catalogue.";
        UNEXPECTED_ANSWER = "registry.unexpected_answer", Network, never,
            "The registry's answer does not follow the distribution specification, or would lead credentials astray.", "Check that the host is a registry.";
        NOT_LOGGED_IN = "registry.not_logged_in", NotFound, never,
            "The daemon keeps no login of that name.", "List them with `kiln registry logins`.";
        LOGIN_UNREADABLE = "registry.login_unreadable", Conflict, never,
            "The key of the daemon's own logins is missing, is another one, or may be read by others.", "Put the key back, or log in again with `kiln login --system`.";
        BLOCKED = "registry.blocked", Policy, never,
            "The configuration of this host forbids the registry or the image.", "Ask who keeps the file that the message names; `kiln registry explain` shows the rule.";
        PORT_BUSY = "registry.port_busy", Conflict, never,
            "The port that the development registry is to listen on is taken.", "Take another one with `kiln registry dev up --port`.";
        PORT_DENIED = "registry.port_denied", Denied, never,
            "This user may not listen on the port that the development registry is to have.", "Take one from 1024 on with `kiln registry dev up --port`.";
        NO_SERVER = "registry.no_server", NotFound, never,
            "There is no program to run a development registry with, or it did not start.", "Install docker-registry; see `kiln registry dev logs`.";
        ENGINE_DENIED = "registry.engine_denied", Denied, never,
            "The container engine does not let this user in.", "Join the engine's group and log in again.";
        ENGINE_FAILED = "registry.engine_failed", Unavailable, later,
            "The container engine does not run, or could not run the registry.", "Start the engine, or install docker-registry.";
        READ_ONLY = "registry.read_only", Denied, never,
            "The registry takes nothing there: it is a mirror, read-only, or being cleaned up.", "Push to the registry behind the mirror, or ask who runs it.";
        TOO_LARGE = "registry.too_large", Invalid, never,
            "The registry, or a proxy before it, takes no request of that length.", "Raise the limit of the proxy before the registry (client_max_body_size of nginx).";
        QUOTA_EXCEEDED = "registry.quota_exceeded", Unavailable, never,
            "There is no more room for the caller in the registry.", "Delete something there, or ask for more room.";
        TAG_IMMUTABLE = "registry.tag_immutable", Conflict, never,
            "The tag exists in the registry and may not be moved.", "Choose another tag.";
        PUSH_REFUSED = "registry.push_refused", Invalid, never,
            "The registry does not take what was sent.", "What it says stands in the message.";
    }
    /// Layers of an image.
    layer {
        BROKEN_COMPRESSION = "layer.broken_compression", Invalid, never,
            "A layer's gzip or zstd stream is broken.", "Push the image again.";
        MALFORMED = "layer.malformed", Invalid, never,
            "A layer's tar archive is malformed or tries to leave the root.", "Build the image again with a current tool.";
        LIMIT_EXCEEDED = "layer.limit_exceeded", Invalid, never,
            "A layer is larger, deeper or more compressed than Kiln takes.", "The limits are in SECURITY.md; they cannot be set yet.";
        DIFF_ID_MISMATCH = "layer.diff_id_mismatch", Invalid, never,
            "An uncompressed layer does not have the digest the config states.", "Push the image again.";
        CANNOT_BE_APPLIED = "layer.cannot_be_applied", Invalid, never,
            "A layer refers to something that the layers below it do not have.", "Build the image again with a current tool.";
    }
    /// Root filesystems.
    rootfs {
        TOO_SMALL = "rootfs.too_small", Invalid, never,
            "The size asked for cannot hold the image.", "Ask for at least the size the message names, or leave --size out.";
        CANNOT_HOLD = "rootfs.cannot_hold", Invalid, never,
            "Something in the image is beyond what ext4 can hold.", "Change what the message names.";
        NOT_EXT4 = "rootfs.not_ext4", Invalid, never,
            "The file to register is not a raw ext4 filesystem.", "Convert it to a raw ext4 image first.";
        UUID_FIXED = "rootfs.uuid_fixed", Invalid, never,
            "The root filesystem cannot be given another UUID as it stands.", "Keep the image's UUID, or check the copy with e2fsck and use `tune2fs -U`.";
    }
    /// Kernels.
    kernel {
        REQUIRED = "kernel.required", Invalid, never,
            "An image needs a kernel and none was named.", "Name one with --kernel, or import one with `kiln kernel import`.";
        CHOICE_CONFLICT = "kernel.choice_conflict", Invalid, never,
            "A kernel was named in two ways, or with files that do not go with it.", "Name a kernel of the catalogue, or a kernel file and what goes with it.";
        NOT_FOUND = "kernel.not_found", NotFound, never,
            "The catalogue has no kernel of that name.", "List them with `kiln kernel ls`.";
        ALREADY_EXISTS = "kernel.already_exists", Conflict, never,
            "The catalogue already has a kernel of that name.", "Choose another name, or remove the old one with `kiln kernel rm`.";
        NAME_INVALID = "kernel.name_invalid", Invalid, never,
            "The name does not follow the grammar of kernel names.", "Use lower-case letters, digits and single separators.";
        UNRECOGNISED = "kernel.unrecognised", Invalid, never,
            "The file is not a kernel of a format Kiln knows, is damaged, or is for another architecture than the image.", "Use an ELF vmlinux, a bzImage or an arm64 Image for the image's architecture.";
        CANNOT_BOOT = "kernel.cannot_boot", Invalid, never,
            "The kernel is known not to reach a root filesystem, or takes no initrd.", "Ask `kiln kernel check` what it lacks, name another kernel, or make the image with --boot none.";
        NO_DEFAULT = "kernel.no_default", NotFound, never,
            "No kernel was named, and none is the default.", "Name one with --kernel, or choose a default with `kiln kernel default`.";
        NOT_IN_SOURCE = "kernel.not_in_source", NotFound, never,
            "The image or artifact has no kernel where kernels lie, or several and nothing that chooses one.", "Name an image with /boot/vmlinux or /boot/vmlinuz, or an artifact whose layer is a kernel.";
        DIGEST_REQUIRED = "kernel.digest_required", Invalid, never,
            "A URL was named without the digest of what lies there.", "Add #sha256=… to the URL, or name it with --digest.";
        BROKEN_PACKAGE = "kernel.broken_package", Invalid, never,
            "The file is not a Debian kernel package.", "Use a linux-image-*.deb file.";
        BROKEN_CONFIG = "kernel.broken_config", Invalid, never,
            "The file is not the configuration of a kernel.", "Name the .config of the kernel's build, or leave it out.";
        BROKEN_MODULES = "kernel.broken_modules", Invalid, never,
            "The modules directory holds something that cannot be staged.", "Name the directory below lib/modules of the kernel's version.";
    }
    /// How an image boots.
    boot {
        NOTHING_TO_RUN = "boot.nothing_to_run", Invalid, never,
            "The image has neither an entrypoint nor a command.", "Boot its own init with --boot init, or make the image with --boot none.";
        INVALID_CONFIG = "boot.invalid_config", Invalid, never,
            "The image's config says something about its program that cannot be.", "Build the image again, or make it with --boot none.";
        NO_INITRD = "boot.no_initrd", Invalid, never,
            "The bootable artifact says that Kiln's init boots it, and has no initial ramdisk with one.", "Name a kernel of this host with --kernel, or push the artifact again.";
        NO_INIT = "boot.no_init", Unavailable, later,
            "Kiln's own init for guests of that architecture is not installed.", "Install kiln-init beside kilnd, or name it in the configuration (guest.init).";
    }
    /// Machines that run images.
    instance {
        NOT_FOUND = "instance.not_found", NotFound, never,
            "No machine answers to the id or name, or it is another user's.", "List yours with `kiln ps --all`.";
        AMBIGUOUS = "instance.ambiguous", Conflict, never,
            "Several machines answer to the name or the beginning of an id.", "Name one by its whole id.";
        ALREADY_EXISTS = "instance.already_exists", Conflict, never,
            "A machine of that id is registered already.", "Choose another id at random.";
        NAME_TAKEN = "instance.name_taken", Conflict, never,
            "A machine of that name is running.", "Choose another name with --name, or stop the other one.";
        NAME_INVALID = "instance.name_invalid", Invalid, never,
            "The name does not follow the grammar of machine names, or reads as an id.", "Use lower-case letters, digits and single separators, and no UUID.";
        NO_PROCESS = "instance.no_process", Invalid, never,
            "The process that runs a machine, or is about to, cannot be seen from here.", "Call from a process of the daemon's host, as the user the process belongs to, and in a PID namespace both can see.";
        RUNNING = "instance.running", Conflict, later,
            "The machine is still running.", "Stop it first with `kiln stop`.";
        ENDED = "instance.ended", Conflict, never,
            "The machine has ended.", "Run the image again with `kiln run`.";
        NO_MONITOR = "instance.no_monitor", Unavailable, never,
            "No virtual machine monitor that is installed can run the image.", "See what works on this host with `kiln doctor`.";
        MONITOR_FAILED = "instance.monitor_failed", Unavailable, never,
            "The monitor ended, or did not answer, before the machine ran.", "Its own words say why; see what works on this host with `kiln doctor`.";
    }
    /// Operations.
    operation {
        NOT_FOUND = "operation.not_found", NotFound, never,
            "There is no such operation, or it is another user's.", "List yours with `kiln op ls`.";
        CANCELLED = "operation.cancelled", Cancelled, never,
            "A caller cancelled the operation.", "Start it again when you want it.";
        INTERRUPTED = "operation.interrupted", Unavailable, later,
            "The daemon stopped while the operation was running.", "Start it again.";
        STILL_RUNNING = "operation.still_running", Timeout, later,
            "The operation did not end within the time the caller wanted to wait.", "Wait again with `kiln op wait`.";
        ALREADY_FINISHED = "operation.already_finished", Conflict, never,
            "The operation had ended before it could be cancelled.", "Look at its result with `kiln op show`.";
    }
    /// Other daemons.
    agent {
        NOT_FOUND = "agent.not_found", NotFound, never,
            "There is no agent of that name.", "List them with `kiln agent ls`.";
        ALREADY_EXISTS = "agent.already_exists", Conflict, never,
            "There is an agent of that name.", "Choose another name, or remove the other one with `kiln agent rm`.";
        TOO_MANY = "agent.too_many", Conflict, never,
            "There are as many agents as one daemon may have.", "Remove one with `kiln agent rm`.";
        UNREACHABLE = "agent.unreachable", Network, later,
            "The agent could not be reached, did not answer in its time, or went away before its answer.", "Look at the agent's host and daemon, then call again: what is done stays done.";
        UNTRUSTED = "agent.untrusted", Auth, never,
            "The host key of the agent's SSH server is not known here, or is another one than is known.", "Compare the key with its host's, and put it into the file of known hosts.";
        AUTH_FAILED = "agent.auth_failed", Auth, never,
            "The agent's SSH server does not accept who this daemon is.", "Name a key with --identity that the user there has in authorized_keys.";
        INCOMPATIBLE = "agent.incompatible", Conflict, never,
            "What answers there is a daemon with another major version of the API, or no daemon of Kiln.", "Use releases of the same major version on both hosts.";
    }
    /// The disk and the database.
    storage {
        FULL = "storage.full", Unavailable, later,
            "The disk has no space left, or less than a pull needs.", "Free some space and call again; nothing half-made was kept.";
        FAILED = "storage.failed", Internal, later,
            "Reading or writing Kiln's own files failed.", "Look at the cause and at the machine's disk.";
        NOT_FOUND = "storage.not_found", NotFound, never,
            "Nothing on the disk, or nothing that the caller may see, has that digest, id, name or path.", "List what is there with `kiln df -v`.";
        DATABASE_FAILED = "storage.database_failed", Internal, later,
            "The database refused or failed.", "Look at the cause and at the daemon's log.";
    }
}

/// What any call may fail with that reaches a registry.
pub const REACHING_A_REGISTRY: &[Code] = &[
    source::INVALID_REFERENCE,
    registry::UNREACHABLE,
    registry::TIMED_OUT,
    registry::TLS_FAILED,
    registry::AUTH_REQUIRED,
    registry::AUTH_FAILED,
    registry::DENIED,
    registry::RATE_LIMITED,
    registry::SERVER_ERROR,
    registry::UNEXPECTED_ANSWER,
    registry::BLOCKED,
];

/// What any call may fail with that reaches an agent.
pub const REACHING_AN_AGENT: &[Code] = &[
    agent::UNREACHABLE,
    agent::UNTRUSTED,
    agent::AUTH_FAILED,
    agent::INCOMPATIBLE,
];

/// What any call may fail with, beside those, that sends content to a registry.
pub const WRITING_TO_A_REGISTRY: &[Code] = &[
    registry::READ_ONLY,
    registry::TOO_LARGE,
    registry::QUOTA_EXCEEDED,
    registry::TAG_IMMUTABLE,
    registry::PUSH_REFUSED,
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_are_unique_and_well_formed() {
        let names: Vec<_> = all().map(|code| code.name).collect();
        let unique: BTreeSet<_> = names.iter().collect();

        assert_eq!(unique.len(), names.len());
        for name in names {
            let (noun, what) = name.split_once('.').unwrap();
            let is_word = |text: &str| {
                !text.is_empty()
                    && text
                        .bytes()
                        .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
            };
            assert!(is_word(noun) && is_word(what), "{name}");
        }
    }

    #[test]
    fn every_code_says_what_it_means_and_what_to_do() {
        for code in all() {
            assert!(code.meaning.ends_with('.'), "{code}: {}", code.meaning);
            assert!(code.next_step.ends_with('.'), "{code}: {}", code.next_step);
        }
    }
}
