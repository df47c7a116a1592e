//! Logins and passwords where something is in the way: links, a full disk, the eyes of others.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::symlink;

use anyhow::Result;
use kiln_testkit::registry::{Access, PASSWORD, USER};
use kiln_testkit::tools;

use super::{NEEDS, Person, stderr, with_small};
use crate::space::{self, Disk};
use crate::stage::Stage;

#[test]
fn a_link_that_leads_back_to_itself_in_place_of_an_auth_file_is_told_as_that() -> Result<()> {
    let stage = Stage::new()?;
    let person = Person::at(&stage)?;
    fs::create_dir_all(person.path("home/.docker"))?;
    let file = person.path("home/.docker/config.json");
    symlink("config.json", &file)?;

    let listed = person.kiln(&["registry", "ls"], "")?;
    let left = person.kiln(&["logout", "reg.io"], "")?;
    let words = [
        "login",
        "reg.io",
        "-u",
        "a",
        "--password-stdin",
        "--no-check",
    ];
    let come = person.kiln(&words, "hunter2")?;

    for refused in [&listed, &left, &come] {
        assert_eq!(refused.status.code(), Some(2), "{refused:?}");
        let text = stderr(refused);
        assert!(
            text.contains("symbolic links that lead in a circle"),
            "{text}"
        );
        assert!(text.contains("kiln login REGISTRY"), "{text}");
    }
    Ok(())
}

#[test]
fn a_login_for_which_there_is_no_room_leaves_the_earlier_ones() -> Result<()> {
    if tools::must_skip("a_login_for_which_there_is_no_room", space::NEEDS)? {
        return Ok(());
    }
    let stage = Stage::new()?;
    let person = Person::at(&stage)?;
    let disk = Disk::new(1)?;
    let file = disk.path().join("auth.json");
    let shown = file.display().to_string();
    let login = |registry: &str| {
        let words = [
            "login",
            registry,
            "-u",
            "a",
            "--password-stdin",
            "--no-check",
        ];
        person.kiln(&[&words[..], &["--authfile", &shown]].concat(), "hunter2")
    };
    let first = login("one.io")?;
    let before = fs::read(&file)?;
    let mut filler = File::create(disk.path().join("filler"))?;
    while filler.write_all(&[1; 4096]).is_ok() {}

    let refused = login("two.io")?;

    assert!(first.status.success(), "{first:?}");
    assert!(!refused.status.success(), "{refused:?}");
    let text = stderr(&refused);
    assert!(
        text.contains("auth.json") && text.contains("free some space"),
        "{text}"
    );
    assert_eq!(fs::read(&file)?, before);
    let names: Vec<_> = fs::read_dir(disk.path())?
        .map(|entry| Ok(entry?.file_name()))
        .collect::<Result<_>>()?;
    assert_eq!(names.len(), 2, "{names:?}");
    drop(filler);
    fs::remove_file(disk.path().join("filler"))?;
    assert!(login("two.io")?.status.success());
    Ok(())
}

#[test]
fn a_password_on_the_command_line_is_warned_of_and_one_on_standard_input_is_not() -> Result<()> {
    if tools::must_skip("a_password_on_the_command_line_is_warned_of", NEEDS)? {
        return Ok(());
    }
    let stage = Stage::new()?;
    let (registry, reference) = with_small(&stage, Access::Basic)?;
    let person = Person::at(&stage)?;
    let both = format!("{USER}:{PASSWORD}");

    let shown = person.kiln(&["tags", &reference, "--creds", &both], "")?;
    let hidden = person.kiln(
        &["tags", &reference, "--creds", USER],
        &format!("{PASSWORD}\n"),
    )?;
    let copied = format!("{}/copied:1", registry.host());
    let words = ["copy", &reference, &copied, "-q"];
    let ends = ["--src-creds", &both, "--dest-creds", &both];
    let twice = person.kiln(&[&words[..], &ends].concat(), "")?;

    for output in [&shown, &hidden, &twice] {
        assert!(output.status.success(), "{output:?}");
        assert!(!stderr(output).contains(PASSWORD), "{output:?}");
    }
    let warning = "warning: a password on the command line is seen by every user";
    assert_eq!(stderr(&shown).matches(warning).count(), 1, "{shown:?}");
    assert_eq!(stderr(&twice).matches(warning).count(), 1, "{twice:?}");
    assert_eq!(stderr(&hidden), "");
    Ok(())
}
