//! The rule for the names of kernels, and the names of their files.

/// The kernel as it was given.
pub(crate) const KERNEL: &str = "kernel";
/// The ELF file inside, when there is one.
pub(crate) const VMLINUX: &str = "vmlinux";
/// The initial RAM disk, when there is one.
pub(crate) const INITRD: &str = "initrd.img";
/// The kernel's modules, when there are some.
pub(crate) const MODULES: &str = "modules";
/// How the kernel was configured, when that is known.
pub(crate) const CONFIG: &str = "config";
/// What is known about the files.
pub(crate) const RECORD: &str = "kernel.json";

/// Longest name, in bytes. It becomes a directory entry, whose limit is 255; the difference
/// leaves room for suffixes such as `.staging`.
const MAX_NAME_BYTES: usize = 128;

/// Says whether `name` may name a kernel: at most 128 bytes, `[a-z0-9]+([._-]+[a-z0-9]+)*`.
///
/// It begins with a letter or digit, so it needs no escaping and is never the name of a
/// directory in the making, which begins with a dot.
pub(crate) fn is_kernel_name(name: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let allowed = |byte: u8| word(byte) || matches!(byte, b'.' | b'_' | b'-');
    let bytes = name.as_bytes();
    bytes.len() <= MAX_NAME_BYTES
        && bytes.first().copied().is_some_and(word)
        && bytes.last().copied().is_some_and(word)
        && bytes.iter().copied().all(allowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_grammar() {
        let longest = "a".repeat(128);
        let too_long = "a".repeat(129);
        let cases: &[(&str, bool)] = &[
            ("debian", true),
            ("6.1.0-56-cloud-amd64", true),
            ("a--b__c..d", true),
            (&longest, true),
            (&too_long, false),
            ("", false),
            (".debian", false),
            ("debian-", false),
            ("Debian", false),
            ("a/b", false),
            ("..", false),
            ("a b", false),
        ];
        for (name, want) in cases {
            assert_eq!(is_kernel_name(name), *want, "{name:?}");
        }
    }
}
