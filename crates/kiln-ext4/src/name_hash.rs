//! `half_md4`, the hash that orders the names of an indexed directory.
//!
//! Always the *signed* flavour: name bytes are sign-extended whatever the host's `char` is, and
//! the superblock's flags say so. Checked against `debugfs -R 'dx_hash -h half_md4'`.
//!
//! Not here: the directory blocks themselves, see `htree`.

/// Second round constant of MD4.
const ROUND_2: u32 = 0x5a82_7999;

/// Third round constant of MD4.
const ROUND_3: u32 = 0x6ed9_eba1;

/// Bytes of a name that go into one transformation.
const CHUNK_BYTES: usize = 32;

/// The largest hash. The kernel keeps it for "end of directory" and folds it to the value
/// below, e2fsprogs does not; `htree` places such names where both find them.
pub(crate) const END_OF_DIRECTORY: u32 = 0xffff_fffe;

/// The key a name is sorted by: `major` has bit 0 clear, `minor` breaks ties.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct NameHash {
    pub(crate) major: u32,
    pub(crate) minor: u32,
}

/// The keyed hash of one file system: the four words of `s_hash_seed`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NameHasher {
    state: [u32; 4],
}

impl NameHasher {
    /// Takes `s_hash_seed` as it lies on disk. The seed is never all zero (a zero seed would
    /// stand for MD4's own constants), which `Identity` sees to.
    pub(crate) fn new(seed: &[u8; 16]) -> Self {
        let mut state = [0; 4];
        for (word, bytes) in state.iter_mut().zip(seed.chunks_exact(4)) {
            *word = crate::bytes::get_u32(bytes, 0);
        }
        Self { state }
    }

    pub(crate) fn hash(&self, name: &[u8]) -> NameHash {
        let mut state = self.state;
        let mut rest = name;
        while !rest.is_empty() {
            transform(&mut state, &words(rest));
            rest = &rest[rest.len().min(CHUNK_BYTES)..];
        }
        NameHash {
            major: state[1] & !1,
            minor: state[2],
        }
    }
}

/// The first 32 bytes of `rest` as eight words, padded with a word made of its whole length.
fn words(rest: &[u8]) -> [u32; 8] {
    let length = u32::try_from(rest.len()).unwrap_or(u32::MAX);
    let mut pad = length | (length << 8);
    pad |= pad << 16;

    let mut words = [pad; 8];
    let chunk = &rest[..rest.len().min(CHUNK_BYTES)];
    for (word, bytes) in words.iter_mut().zip(chunk.chunks(4)) {
        for byte in bytes {
            *word = sign_extended(*byte).wrapping_add(*word << 8);
        }
    }
    words
}

fn sign_extended(byte: u8) -> u32 {
    i32::from(byte.cast_signed()).cast_unsigned()
}

/// `half_md4_transform` of `fs/ext4/hash.c`: three rounds of eight steps instead of sixteen.
fn transform(state: &mut [u32; 4], input: &[u32; 8]) {
    fn choose(x: u32, y: u32, z: u32) -> u32 {
        z ^ (x & (y ^ z))
    }
    fn majority(x: u32, y: u32, z: u32) -> u32 {
        (x & y).wrapping_add((x ^ y) & z)
    }
    fn parity(x: u32, y: u32, z: u32) -> u32 {
        x ^ y ^ z
    }
    type Round = (fn(u32, u32, u32) -> u32, u32, [usize; 8], [u32; 4]);
    const ROUNDS: [Round; 3] = [
        (choose, 0, [0, 1, 2, 3, 4, 5, 6, 7], [3, 7, 11, 19]),
        (majority, ROUND_2, [1, 3, 5, 7, 0, 2, 4, 6], [3, 5, 9, 13]),
        (parity, ROUND_3, [3, 7, 2, 6, 1, 5, 0, 4], [3, 9, 11, 15]),
    ];

    let [mut a, mut b, mut c, mut d] = *state;
    for (mix, constant, order, shifts) in ROUNDS {
        for (step, index) in order.into_iter().enumerate() {
            let sum = a
                .wrapping_add(mix(b, c, d))
                .wrapping_add(input[index])
                .wrapping_add(constant)
                .rotate_left(shifts[step % 4]);
            (a, b, c, d) = (d, sum, b, c);
        }
    }
    for (word, add) in state.iter_mut().zip([a, b, c, d]) {
        *word = word.wrapping_add(add);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_hash_as_debugfs_does() {
        let seed = [
            0x11, 0x11, 0x11, 0x11, 0x22, 0x22, 0x33, 0x33, 0x44, 0x44, 0x55, 0x55, 0x55, 0x55,
            0x55, 0x55,
        ];
        let hasher = NameHasher::new(&seed);
        let cases: &[(&[u8], u32, u32)] = &[
            (b"hello", 0xe4a9_77aa, 0xb8f2_ce63),
            (b"lost+found", 0x10e0_9910, 0x2cea_ef16),
            (
                b"a-name-that-is-longer-than-thirty-two-bytes.conf",
                0x0d9f_a250,
                0x3fa4_0f9c,
            ),
            (b"\xc3\xa9", 0x7802_026a, 0xd45c_b9c3),
        ];
        for (name, major, minor) in cases {
            let got = hasher.hash(name);
            let want = NameHash {
                major: *major,
                minor: *minor,
            };
            assert_eq!(got, want, "{}", String::from_utf8_lossy(name));
        }
    }
}
