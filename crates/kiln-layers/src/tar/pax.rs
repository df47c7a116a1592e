//! PAX records (POSIX.1-2017, pax, "pax Extended Header") and what they mean.
//!
//! A record is `<length> <key>=<value>\n`, cut by its own length: values are bytes and may hold
//! anything. Reading the header that records come in is not here.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use kiln_tree::Timestamp;

use crate::error::Malformation;
use crate::tar::{acl, number, sparse};

/// libarchive writes attribute values without padding; others may write it.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// What records say about entries. An empty value means that the record is taken back, and the
/// header's own field counts (as Go reads it).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Records {
    pub(crate) path: Option<Vec<u8>>,
    pub(crate) linkpath: Option<Vec<u8>>,
    pub(crate) size: Option<u64>,
    pub(crate) uid: Option<u64>,
    pub(crate) gid: Option<u64>,
    pub(crate) mtime: Option<Timestamp>,
    /// Raw attributes (`SCHILY.xattr.`).
    pub(crate) xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// The same in libarchive's encoding, which counts where the raw one is absent.
    pub(crate) encoded_xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Access control lists that came as text (`SCHILY.acl.`), as attributes; they count where
    /// the attribute itself is absent.
    pub(crate) text_acls: BTreeMap<Vec<u8>, Vec<u8>>,
    /// What the owning group may do (`rwx`) after the access list that came as text was left out.
    pub(crate) group_permissions: Option<u16>,
    pub(crate) sparse: SparseRecords,
}

/// The records of sparse files; see [`crate::tar::sparse`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct SparseRecords {
    pub(crate) major: Option<u64>,
    pub(crate) minor: Option<u64>,
    pub(crate) name: Option<Vec<u8>>,
    pub(crate) size: Option<u64>,
    pub(crate) realsize: Option<u64>,
    pub(crate) count: Option<u64>,
    pub(crate) map: Option<Vec<(u64, u64)>>,
    /// Offsets and lengths of form 0.0, in turn.
    pub(crate) numbers: Vec<u64>,
}

impl Records {
    /// Reads the records of one extension header on top of those already known.
    pub(crate) fn read(&mut self, mut bytes: &[u8]) -> Result<(), Malformation> {
        while !bytes.is_empty() {
            let (key, value) = next_record(&mut bytes).ok_or(Malformation::PaxRecord)?;
            self.apply(key, value)?;
        }
        Ok(())
    }

    /// Tells whether some record can be about one entry only, so that it may not be global.
    pub(crate) fn name_one_entry(&self) -> bool {
        self.path.is_some()
            || self.linkpath.is_some()
            || self.size.is_some()
            || self.sparse != SparseRecords::default()
    }

    /// Counts the attributes, and the bytes of their names and values.
    pub(crate) fn xattr_size(&self) -> (usize, usize) {
        let encoded = self.encoded_xattrs.iter().chain(&self.text_acls);
        let all = self.xattrs.iter().chain(encoded);
        all.fold((0, 0), |(count, bytes), (name, value)| {
            (count + 1, bytes + name.len() + value.len())
        })
    }

    /// Returns the attributes, where the raw form goes before libarchive's, and that before text.
    pub(crate) fn take_xattrs(&mut self) -> BTreeMap<Vec<u8>, Vec<u8>> {
        let mut xattrs = std::mem::take(&mut self.text_acls);
        xattrs.append(&mut self.encoded_xattrs);
        xattrs.append(&mut self.xattrs);
        xattrs
    }

    fn apply(&mut self, key: &[u8], value: &[u8]) -> Result<(), Malformation> {
        match key {
            b"path" => self.path = text(value)?,
            b"linkpath" => self.linkpath = text(value)?,
            b"size" => self.size = parsed(value, number::decimal)?,
            b"uid" => self.uid = parsed(value, number::decimal)?,
            b"gid" => self.gid = parsed(value, number::decimal)?,
            b"mtime" => self.mtime = parsed(value, number::time)?,
            b"SCHILY.acl.access" => self.apply_acl(acl::Use::Access, value)?,
            b"SCHILY.acl.default" => self.apply_acl(acl::Use::Default, value)?,
            _ => {
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                    insert_xattr(&mut self.xattrs, name.to_vec(), value.to_vec())?;
                } else if let Some(name) = key.strip_prefix(b"LIBARCHIVE.xattr.") {
                    let name = url_decode(name).ok_or(Malformation::Xattr)?;
                    let value = BASE64.decode(value).map_err(|_| Malformation::Xattr)?;
                    insert_xattr(&mut self.encoded_xattrs, name, value)?;
                } else if let Some(key) = key.strip_prefix(b"GNU.sparse.") {
                    self.sparse.apply(key, value)?;
                }
                // Others (comments, access times, names of owners) say nothing that is kept.
            }
        }
        Ok(())
    }

    /// A list that names somebody by name alone is left out, and takes an earlier one back.
    fn apply_acl(&mut self, role: acl::Use, text: &[u8]) -> Result<(), Malformation> {
        let reading = acl::from_text(text, role).ok_or(Malformation::Acl)?;
        let attribute = role.attribute().to_vec();
        self.text_acls.remove(&attribute);
        if role == acl::Use::Access {
            self.group_permissions = None;
        }
        match reading {
            acl::Reading::List(list) => {
                self.text_acls.insert(attribute, list);
            }
            acl::Reading::Named { group } if role == acl::Use::Access => {
                self.group_permissions = Some(group);
            }
            acl::Reading::Named { .. } | acl::Reading::Nothing => {}
        }
        Ok(())
    }
}

impl SparseRecords {
    fn apply(&mut self, key: &[u8], value: &[u8]) -> Result<(), Malformation> {
        match key {
            b"major" => self.major = parsed(value, number::decimal)?,
            b"minor" => self.minor = parsed(value, number::decimal)?,
            b"name" => self.name = text(value)?,
            b"size" => self.size = parsed(value, number::decimal)?,
            b"realsize" => self.realsize = parsed(value, number::decimal)?,
            b"numblocks" => self.count = parsed(value, number::decimal)?,
            b"map" => self.map = parsed(value, sparse::parse_map)?,
            b"offset" | b"numbytes" => {
                let is_offset = key == b"offset";
                let number = number::decimal(value).ok_or(Malformation::SparseMap)?;
                if is_offset != self.numbers.len().is_multiple_of(2) {
                    return Err(Malformation::SparseMap);
                }
                self.numbers.push(number);
            }
            // A record of a form that is not known would change where the bytes belong.
            _ => return Err(Malformation::SparseMap),
        }
        Ok(())
    }
}

/// Takes the first record off `bytes`.
fn next_record<'a>(bytes: &mut &'a [u8]) -> Option<(&'a [u8], &'a [u8])> {
    let space = bytes.iter().position(|byte| *byte == b' ')?;
    let length = usize::try_from(number::decimal(&bytes[..space])?).ok()?;
    let (record, rest) = bytes.split_at_checked(length)?;
    let text = record.get(space + 1..)?.strip_suffix(b"\n")?;
    let equals = text.iter().position(|byte| *byte == b'=')?;
    let (key, value) = (&text[..equals], &text[equals + 1..]);
    if key.is_empty() || key.contains(&0) {
        return None;
    }
    *bytes = rest;
    Some((key, value))
}

fn text(value: &[u8]) -> Result<Option<Vec<u8>>, Malformation> {
    if value.contains(&0) {
        return Err(Malformation::NulInName);
    }
    Ok((!value.is_empty()).then(|| value.to_vec()))
}

fn parsed<T>(
    value: &[u8],
    parse: impl FnOnce(&[u8]) -> Option<T>,
) -> Result<Option<T>, Malformation> {
    if value.is_empty() {
        return Ok(None);
    }
    parse(value).map(Some).ok_or(Malformation::PaxRecord)
}

fn insert_xattr(
    xattrs: &mut BTreeMap<Vec<u8>, Vec<u8>>,
    name: Vec<u8>,
    value: Vec<u8>,
) -> Result<(), Malformation> {
    if name.is_empty() || name.contains(&0) {
        return Err(Malformation::Xattr);
    }
    xattrs.insert(name, value);
    Ok(())
}

/// Decodes `%` and two hexadecimal digits, as libarchive writes odd bytes of a name.
fn url_decode(text: &[u8]) -> Option<Vec<u8>> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, behind)) = rest.split_first() {
        rest = behind;
        if *first != b'%' {
            decoded.push(*first);
            continue;
        }
        let (digits, behind) = rest.split_first_chunk::<2>()?;
        let digit = |byte: u8| char::from(byte).to_digit(16);
        let value = digit(digits[0])? * 16 + digit(digits[1])?;
        decoded.push(u8::try_from(value).ok()?);
        rest = behind;
    }
    Some(decoded)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::pax_body;

    fn read(bytes: &[u8]) -> Result<Records, Malformation> {
        let mut records = Records::default();
        records.read(bytes).map(|()| records)
    }

    #[test]
    fn records_are_cut_by_their_length() {
        // The comment's value looks like another record.
        let body = pax_body(&[("comment", b"x\n22 linkpath=/etc/evil\n"), ("path", b"a")]);
        let records = read(&body).unwrap();

        assert_eq!(records.linkpath, None);
        assert_eq!(records.path.as_deref(), Some(&b"a"[..]));
    }

    #[test]
    fn records_that_do_not_end_where_they_say_are_refused() {
        for bad in [
            &b"9 path=a"[..],
            b"8 path=a\n",
            b"11 path=a\n",
            b"0 path=a\n",
            b"1 path=a\n",
            b"-1 path=a\n",
            b"+11 path=a\n",
            b" 10 path=a\n",
            b"99999999999999999999 path=a\n",
            b"path=a\n",
            b"7 path\n",
            b"5 =a\n",
            b"12 pa\0th=ab\n",
            b"9 path=a\n\0\0\0",
            b"12 size=+10\n",
            b"11 size=-1\n",
            b"12 uid=0x10\n",
            b"13 mtime=1e5\n",
        ] {
            assert_eq!(
                read(bad),
                Err(Malformation::PaxRecord),
                "{}",
                bad.escape_ascii()
            );
        }
        assert_eq!(read(b"12 path=a\0b\n"), Err(Malformation::NulInName));
    }

    #[test]
    fn attributes_are_bytes_and_the_raw_form_wins() {
        let body = pax_body(&[
            ("LIBARCHIVE.xattr.user.a%20b", b"AAoB"),
            ("LIBARCHIVE.xattr.user.c", b"AA=="),
            ("SCHILY.xattr.user.c", b"\0\n\n\xff"),
        ]);
        let mut records = read(&body).unwrap();

        let want = BTreeMap::from([
            (b"user.a b".to_vec(), b"\0\n\x01".to_vec()),
            (b"user.c".to_vec(), b"\0\n\n\xff".to_vec()),
        ]);
        assert_eq!(records.take_xattrs(), want);
        let bad: &[(&str, &[u8])] = &[
            ("SCHILY.xattr.", b"a"),
            ("LIBARCHIVE.xattr.user.c", b"A"),
            ("LIBARCHIVE.xattr.user.c", b"@@@@"),
            ("LIBARCHIVE.xattr.user.%2", b""),
            ("LIBARCHIVE.xattr.user.%zz", b""),
            ("LIBARCHIVE.xattr.user.%00", b""),
        ];
        for record in bad {
            let got = read(&pax_body(&[*record]));
            assert_eq!(got, Err(Malformation::Xattr), "{record:?}");
        }
    }

    #[test]
    fn a_list_as_text_counts_where_the_attribute_is_absent() {
        let text = b"user::rwx\nuser:1:rwx\ngroup::r-x\nmask::rwx\nother::r-x\n";
        let body = pax_body(&[
            ("SCHILY.acl.access", text),
            ("SCHILY.acl.default", text),
            ("SCHILY.xattr.system.posix_acl_access", b"raw"),
        ]);
        let mut records = read(&body).unwrap();

        let (count, bytes) = records.xattr_size();
        let xattrs = records.take_xattrs();

        assert_eq!(xattrs[&b"system.posix_acl_access"[..]], b"raw");
        let default = &xattrs[&b"system.posix_acl_default"[..]];
        assert_eq!(default[..12], [2, 0, 0, 0, 1, 0, 7, 0, 255, 255, 255, 255]);
        assert_eq!((count, xattrs.len()), (3, 2));
        assert!(bytes > 2 * default.len());
        let named = b"user::rwx\nuser:lisa:rwx\ngroup::r-x\nmask::rwx\nother::r-x\n";
        for later in [&b""[..], named] {
            let body = pax_body(&[("SCHILY.acl.access", text), ("SCHILY.acl.access", later)]);
            let records = read(&body).unwrap();
            assert_eq!(records.text_acls, BTreeMap::new());
            let group = (!later.is_empty()).then_some(5);
            assert_eq!(records.group_permissions, group);
        }
        let body = pax_body(&[("SCHILY.acl.access", named), ("SCHILY.acl.access", text)]);
        assert_eq!(read(&body).unwrap().group_permissions, None);
        let body = pax_body(&[("SCHILY.acl.default", named)]);
        assert_eq!(read(&body).unwrap(), Records::default());
    }

    #[test]
    fn a_text_that_is_no_list_is_refused() {
        for key in ["SCHILY.acl.access", "SCHILY.acl.default"] {
            let got = read(&pax_body(&[(key, b"user::rwx\nowner@::rwx\n")]));
            assert_eq!(got, Err(Malformation::Acl), "{key}");
        }
    }

    #[test]
    fn an_empty_value_takes_a_record_back() {
        let records = read(&pax_body(&[("path", b"a"), ("path", b""), ("size", b"")])).unwrap();

        assert_eq!(records, Records::default());
    }

    #[test]
    fn sparse_records_come_in_pairs() {
        let offset: (&str, &[u8]) = ("GNU.sparse.offset", b"0");
        let numbytes: (&str, &[u8]) = ("GNU.sparse.numbytes", b"4");
        let records = read(&pax_body(&[offset, numbytes])).unwrap();
        assert_eq!(records.sparse.numbers, [0, 4]);
        assert!(records.name_one_entry());

        let bad: &[&[(&str, &[u8])]] = &[
            &[numbytes],
            &[offset, offset],
            &[("GNU.sparse.other", b"0")],
        ];
        for records in bad {
            let got = read(&pax_body(records));
            assert_eq!(got, Err(Malformation::SparseMap), "{records:?}");
        }
    }
}
