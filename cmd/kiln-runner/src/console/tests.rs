use super::*;

const EXIT_3: &str = "kiln-init: exit {\"exit\":3}\r\n";

/// Hears all of a console, in pieces of every size, and returns program, init and exit code.
fn hear(line_ends: LineEnds, console: &str) -> (String, String, Option<u8>) {
    let mut all = Vec::new();
    for size in 1..=console.len().max(1) {
        let mut reader = Console::new(line_ends);
        let mut said = Said::default();
        for piece in console.as_bytes().chunks(size) {
            let more = reader.hear(piece);
            said.program.extend(more.program);
            said.init.extend(more.init);
        }
        said.program.extend(reader.finish().program);
        let text = |bytes| String::from_utf8(bytes).unwrap();
        let code = reader.report().map(Outcome::exit_code);
        all.push((text(said.program), text(said.init), code));
    }
    all.dedup();
    assert_eq!(all.len(), 1, "the sizes of pieces matter: {all:?}");
    all.remove(0)
}

#[test]
fn a_program_is_heard_as_it_wrote() {
    let report = format!("\r\r\n{EXIT_3}");
    let cases = [
        // What the program wrote, as the terminal sent it, and what is left of it.
        ("hello\r\n", "hello\n"),
        ("no end", "no end"),
        ("", ""),
        ("\r\n", "\n"),
        ("\r\n\r\n", "\n\n"),
        ("a\r\r\nb\r\r\n", "a\r\nb\r\n"),
        ("a\r\r\r\nb", "a\r\r\nb"),
        ("10%\r20%\r\r\r", "10%\r20%\r\r\r"),
        ("bare\nb", "bare\nb"),
        ("k", "k"),
        ("kiln-init", "kiln-init"),
        ("kiln-in\r\nkk\r\n", "kiln-in\nkk\n"),
        ("say kiln-init: x\r\n", "say kiln-init: x\n"),
        ("\r\r\nkiln", "\r\nkiln"),
    ];
    for (sent, wrote) in cases {
        let got = hear(LineEnds::AsWritten, &format!("{sent}{report}"));
        assert_eq!(got, (wrote.to_owned(), String::new(), Some(3)), "{sent:?}");
        let got = hear(LineEnds::AsTheyCome, &format!("{sent}{report}"));
        assert_eq!(got, (sent.to_owned(), String::new(), Some(3)), "{sent:?}");
    }
}

#[test]
fn what_init_says_is_kept_apart() {
    let console = format!("kiln-init: no network\r\nhi\r\nkiln-init: \r\n!\r\r\n{EXIT_3}");
    let got = hear(LineEnds::AsWritten, &console);
    let init = "kiln-init: no network\nkiln-init:\n".to_owned();
    assert_eq!(got, ("hi\n!".to_owned(), init, Some(3)));
}

#[test]
fn without_a_report_nobody_knows() {
    let got = hear(LineEnds::AsWritten, "hi\r\n[ 1.0] Kernel panic\r\n");
    assert_eq!(
        got,
        ("hi\n[ 1.0] Kernel panic\n".to_owned(), String::new(), None)
    );
}

#[test]
fn the_last_report_counts() {
    let forged = "\r\r\nkiln-init: exit {\"exit\":0}\r\n";
    let got = hear(LineEnds::AsWritten, &format!("a{forged}b\r\r\n{EXIT_3}"));
    assert_eq!(got, ("ab".to_owned(), String::new(), Some(3)));
    let broken = "kiln-init: exit {\"exit\":999}\r\n";
    let got = hear(LineEnds::AsWritten, broken);
    let init = "kiln-init: exit {\"exit\":999}\n".to_owned();
    assert_eq!(got, (String::new(), init, None));
}

#[test]
fn what_is_held_back_goes_when_nothing_comes() {
    let mut console = Console::new(LineEnds::AsTheyCome);
    assert_eq!(console.hear(b"kil"), Said::default());
    assert!(console.holds_back());

    assert_eq!(console.let_go().program, b"kil");

    assert!(!console.holds_back());
    assert_eq!(console.hear(b"n-init: x\r\n").program, b"n-init: x\r\n");
}

#[test]
fn a_line_that_does_not_end_is_not_kept_for_ever() {
    let mut console = Console::new(LineEnds::AsWritten);
    let mut said = console.hear(b"kiln-init: ").program;
    for _ in 0..LINE_BYTES {
        said.extend(console.hear(b"x").program);
    }
    assert_eq!(said.len(), LINE_BYTES + PREFIX.len());
}
