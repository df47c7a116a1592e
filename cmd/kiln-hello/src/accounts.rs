//! Names of users and groups, by the image's `/etc/passwd` and `/etc/group`.

/// Returns the name that `table` gives the number `id`: both files have it in their third field.
pub(crate) fn name_of(table: &str, id: u32) -> Option<&str> {
    let id = id.to_string();
    table.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1) == Some(id.as_str())).then_some(name)
    })
}

/// Writes an account as its name and number, or its number alone.
pub(crate) fn account(table: &str, id: u32) -> String {
    match name_of(table, id) {
        Some(name) => format!("{name} ({id})"),
        None => id.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GROUP: &str = "root:x:0:\nbroken\nhello:x:1000:\nguests:x:2000:hello\n";

    #[test]
    fn an_account_has_its_name_where_the_image_knows_one() {
        let cases = [
            (0, "root (0)"),
            (2000, "guests (2000)"),
            (1, "1"),
            (20, "20"),
        ];
        for (id, want) in cases {
            assert_eq!(account(GROUP, id), want);
        }
    }
}
