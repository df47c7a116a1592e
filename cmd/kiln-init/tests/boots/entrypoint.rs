//! The image's program runs as what it is: who, where, with what; and its end is reported.

use anyhow::Result;
use kiln_boot::{Boot, Host, Instance, Mode, Network, Outcome, StaticAddress};
use kiln_testkit::images::entry::Entry;

use crate::guest::{Guest, Parts, Writes, assert_lines, outcome};
use crate::image;

/// Says everything a program can see of how it was started.
const LOOK: &str = r#"
grep SigBlk /proc/self/status
grep SigIgn /proc/self/status
echo "args: $0 $*"
echo "id: $(id)"
echo "pwd: $(pwd)"
echo "env: $(tr '\0' ' ' < /proc/$$/environ)"
echo "tty: $(tty) parent $PPID"
echo "hostname: $(hostname) $(cat /etc/hostname)"
echo "hosts: $(grep -c . /etc/hosts) $(grep web /etc/hosts)"
echo "resolv: $(cat /etc/resolv.conf)"
while read -r _ target kind options _; do echo "mount: $target $kind ${options%%,*}"; done < /proc/mounts
echo "stdout again" > /dev/stdout
echo "loopback: $(cat /sys/class/net/lo/operstate) $(cat /sys/class/net/lo/flags)"
echo "stat /data: $(stat -c '%a %u %g' /data) $(cat /data/seed)"
setsid sh -c 'sh -c "sleep 0.2; exit 3" & echo "orphan: $!"'
tries=0
while ps | grep -q '[s]leep 0.2' || grep -q ') Z ' /proc/[0-9]*/stat; do
    tries=$((tries + 1))
    [ "$tries" -gt 200 ] && break
    sleep 0.1
done
echo "unreaped: $(grep -l ') Z ' /proc/[0-9]*/stat 2>/dev/null | wc -l)"
exit 42
"#;

/// Words of a line.
pub(crate) fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

#[test]
fn the_entrypoint_runs_as_the_image_says() -> Result<()> {
    let Some(parts) = Parts::for_test("the_entrypoint_runs_as_the_image_says")? else {
        return Ok(());
    };
    let rootfs = parts.path("rootfs.ext4");
    image::build(&parts.fixtures, &[image::script("bin/look", LOOK)], &rootfs)?;
    let before = image::digest(&rootfs)?;
    let mut boot = Boot::new(Mode::Entrypoint);
    boot.argv = words("look image");
    boot.env = ["A=1", "EMPTY", "PATH=/bin", "A=2"]
        .map(str::to_owned)
        .to_vec();
    boot.user = "app".to_owned();
    boot.workdir = "/srv/app".to_owned();
    boot.hostname = Some("image".to_owned());
    let instance = Instance {
        argv: Some(words("look one two")),
        env: vec!["B=3".to_owned()],
        hostname: Some("web".to_owned()),
        hosts: vec![Host {
            address: "10.0.0.9".parse()?,
            names: vec!["db".to_owned()],
        }],
        resolv: Some(kiln_boot::Resolv {
            nameservers: vec!["9.9.9.9".parse()?],
            search: vec!["example.org".to_owned()],
        }),
        ..Instance::default()
    };

    let console = Guest::new(&parts, boot)
        .instance(instance)
        .disk(&rootfs, Writes::Dropped)
        .run()?;

    let lines = [
        "SigBlk:\t0000000000000000",
        "SigIgn:\t0000000000000000",
        "args: /bin/look one two",
        "id: uid=1000(app) gid=1000(app) groups=29(audio),44(video)",
        "pwd: /srv/app",
        "env: A=2 EMPTY= PATH=/bin B=3 HOME=/home/app TERM=linux ",
        "tty: /dev/ttyS0 parent 1",
        "hostname: web web",
        "hosts: 4 127.0.1.1\tweb",
        "resolv: nameserver 9.9.9.9",
        "mount: / ext4 rw",
        "mount: /proc proc rw",
        "mount: /dev/pts devpts rw",
        "mount: /dev/shm tmpfs rw",
        "mount: /run tmpfs rw",
        "mount: /sys/fs/cgroup cgroup2 rw",
        "mount: /dev/mqueue mqueue rw",
        "stdout again",
        "stat /data: 750 1000 44 sown",
        "unreaped: 0",
    ];
    assert_lines(&console, &lines);
    assert_eq!(outcome(&console)?, Outcome::Exited { exit: 42 });
    assert!(console.contains("reboot: Power down"), "{console}");
    assert_eq!(image::digest(&rootfs)?, before);
    Ok(())
}

#[test]
fn a_document_of_a_newer_kiln_ends_the_boot_with_advice() -> Result<()> {
    let name = "a_document_of_a_newer_kiln_ends_the_boot_with_advice";
    let Some(parts) = Parts::for_test(name)? else {
        return Ok(());
    };

    let console = Guest::new(&parts, Boot::new(Mode::Entrypoint))
        .document(b"{\"format\": 2, \"shape\": \"new\"}")
        .run()?;

    let error = "cannot use /kiln/boot.json: the document has format 2, this init reads up to 1; \
                 make the initrd anew with the Kiln that wrote it";
    assert_lines(&console, &[&format!("kiln-init: {error}")]);
    assert_eq!(outcome(&console)?.exit_code(), 125);
    assert!(console.contains("reboot: Power down"), "{console}");
    Ok(())
}

/// A boot whose program cannot run: how it is told, and the exit code that stands for it.
struct Impossible {
    boot: Boot,
    error: &'static str,
    exit: u8,
}

fn impossible(argv: &str, error: &'static str, exit: u8) -> Impossible {
    let mut boot = Boot::new(Mode::Entrypoint);
    boot.argv = words(argv);
    Impossible { boot, error, exit }
}

#[test]
fn what_is_impossible_is_told_in_one_line() -> Result<()> {
    let Some(parts) = Parts::for_test("what_is_impossible_is_told_in_one_line")? else {
        return Ok(());
    };
    let rootfs = parts.path("rootfs.ext4");
    let extra = [
        Entry::file("bin/data", "no program"),
        Entry::file("bin/headless", "exit 0\n").mode(0o755),
        Entry::file("bin/lost", "#!/bin/nosuch\n").mode(0o755),
    ];
    image::build(&parts.fixtures, &extra, &rootfs)?;
    let before = image::digest(&rootfs)?;
    let mut user = impossible(
        "true",
        "/etc/passwd in the image has no user \"nosuch\"",
        125,
    );
    user.boot.user = "nosuch".to_owned();
    let mut device = impossible("true", "no root device /dev/vdz after 1 s", 125);
    device.boot.root.device = "/dev/vdz".to_owned();
    device.boot.root.wait_seconds = 1;
    let path = "\"nosuch\" is not in the image: PATH is \
                /usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    let loader = "\"lost\" cannot be executed: its interpreter or loader is not in the image";
    let cases = [
        user,
        device,
        impossible("", "the image has no entrypoint and no command", 125),
        impossible("nosuch", path, 127),
        impossible("lost", loader, 127),
        impossible(
            "/bin/data",
            "\"/bin/data\" cannot be executed: permission denied",
            126,
        ),
        impossible(
            "headless",
            "\"headless\" cannot be executed: Exec format error (os error 8)",
            126,
        ),
    ];
    for Impossible { boot, error, exit } in cases {
        let console = Guest::new(&parts, boot)
            .disk(&rootfs, Writes::Dropped)
            .run()?;

        let want = Outcome::Failed {
            error: error.to_owned(),
            exit,
        };
        assert_eq!(outcome(&console)?, want);
        assert_lines(&console, &[&format!("kiln-init: {error}")]);
        assert!(console.contains("reboot: Power down"), "{console}");
    }
    assert_eq!(image::digest(&rootfs)?, before);
    Ok(())
}

#[test]
fn an_address_is_asked_for() -> Result<()> {
    let Some(parts) = Parts::for_test("an_address_is_asked_for")? else {
        return Ok(());
    };
    let rootfs = parts.path("rootfs.ext4");
    let look = "echo \"address: $(ip -4 addr show dev eth0 | grep inet)\"\n\
                echo \"route: $(ip route | grep default)\"\n\
                echo \"resolv: $(cat /etc/resolv.conf)\"\n\
                echo \"hosts: $(grep web /etc/hosts)\"";
    image::build(&parts.fixtures, &[image::script("bin/look", look)], &rootfs)?;
    let mut asking = Boot::new(Mode::Entrypoint);
    asking.argv = words("look");
    asking.hostname = Some("web".to_owned());
    asking.network = Network::Dhcp;
    let mut stating = asking.clone();
    stating.network = Network::Static(vec![StaticAddress {
        interface: "eth0".to_owned(),
        address: "10.9.8.7/30".parse()?,
        gateway: Some("10.1.1.1".parse()?),
    }]);

    let asked = Guest::new(&parts, asking)
        .network()
        .disk(&rootfs, Writes::Dropped)
        .run()?;
    let stated = Guest::new(&parts, stating)
        .network()
        .disk(&rootfs, Writes::Dropped)
        .run()?;

    assert_lines(
        &asked,
        &[
            "address:     inet 10.0.2.15/24 brd 10.0.2.255 scope global eth0",
            "route: default via 10.0.2.2 dev eth0 ",
            "resolv: nameserver 10.0.2.3",
            "hosts: 10.0.2.15\tweb",
        ],
    );
    assert_lines(
        &stated,
        &[
            "address:     inet 10.9.8.7/30 brd 10.9.8.7 scope global eth0",
            "route: default via 10.1.1.1 dev eth0 onlink ",
            "hosts: 10.9.8.7\tweb",
        ],
    );
    Ok(())
}
