//! A command as a line that a person pastes into a shell.

/// Characters that mean themselves to a POSIX shell, beside letters and digits.
const PLAIN: &str = "_-+=./:,@%";

/// Joins words into a line of POSIX shell that runs them as they are.
pub fn shell_line(words: &[String]) -> String {
    let quoted: Vec<String> = words.iter().map(|word| quote(word)).collect();
    quoted.join(" ")
}

fn quote(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || PLAIN.contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_shell_gives_the_words_back() {
        let words = ["a", "", "a b", "it's", "$HOME", "a,b=c", "*", "\"", "é"].map(str::to_owned);

        let line = shell_line(&words);
        let printed = Command::new("/bin/sh")
            .args(["-c", &format!("printf '%s\\n' {line}")])
            .output()
            .unwrap();

        let lines = String::from_utf8(printed.stdout).unwrap();
        assert_eq!(lines.lines().collect::<Vec<_>>(), words);
        assert_eq!(shell_line(&["a".to_owned(), "b c".to_owned()]), "a 'b c'");
    }
}
