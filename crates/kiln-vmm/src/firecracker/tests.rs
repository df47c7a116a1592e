use serde::Deserialize;

use super::*;
use crate::machine::testing::{disk, machine};
use crate::monitor::Accelerator;

/// What Firecracker reads, every documented member by its documented name and type; anything
/// else is refused, as Firecracker itself does. Source: `FullVmConfiguration` and what it refers to
/// in `src/firecracker/swagger/firecracker.yaml`, Firecracker 1.15.
mod documented {
    use super::Deserialize;

    #[derive(Debug, Deserialize)]
    #[serde(rename_all = "kebab-case", deny_unknown_fields)]
    #[expect(dead_code, reason = "that a member can be read is the test")]
    pub(super) struct FullVmConfiguration {
        pub(super) boot_source: BootSource,
        #[serde(default)]
        pub(super) drives: Vec<Drive>,
        pub(super) machine_config: MachineConfiguration,
        #[serde(default)]
        pub(super) network_interfaces: Vec<NetworkInterface>,
        logger: Option<Logger>,
        balloon: Option<serde_json::Value>,
        cpu_config: Option<serde_json::Value>,
        metrics: Option<serde_json::Value>,
        memory_hotplug: Option<serde_json::Value>,
        mmds_config: Option<serde_json::Value>,
        pmem: Option<serde_json::Value>,
        vsock: Option<serde_json::Value>,
        entropy: Option<serde_json::Value>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "that a member can be read is the test")]
    pub(super) struct BootSource {
        kernel_image_path: String,
        boot_args: Option<String>,
        initrd_path: Option<String>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "that a member can be read is the test")]
    #[expect(clippy::struct_field_names, reason = "the names are Firecracker's")]
    pub(super) struct Drive {
        drive_id: String,
        pub(super) is_root_device: bool,
        partuuid: Option<String>,
        cache_type: Option<String>,
        /// Required of a drive that is a file.
        is_read_only: bool,
        /// Required of a drive that is a file.
        path_on_host: String,
        rate_limiter: Option<serde_json::Value>,
        io_engine: Option<String>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "that a member can be read is the test")]
    pub(super) struct MachineConfiguration {
        pub(super) vcpu_count: u8,
        mem_size_mib: u64,
        smt: Option<bool>,
        cpu_template: Option<String>,
        track_dirty_pages: Option<bool>,
        huge_pages: Option<String>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "that a member can be read is the test")]
    pub(super) struct NetworkInterface {
        iface_id: String,
        host_dev_name: String,
        guest_mac: Option<String>,
        mtu: Option<u16>,
        rx_rate_limiter: Option<serde_json::Value>,
        tx_rate_limiter: Option<serde_json::Value>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "that a member can be read is the test")]
    pub(super) struct Logger {
        level: Option<Level>,
        log_path: Option<String>,
        show_level: Option<bool>,
        show_log_origin: Option<bool>,
        module: Option<String>,
    }

    #[derive(Debug, Deserialize)]
    enum Level {
        Error,
        Warning,
        Info,
        Debug,
        Trace,
        Off,
    }
}

fn full() -> Machine {
    let mut machine = machine();
    machine.disks.push(disk("/v/data", Access::ReadOnly));
    machine.network = Network::Tap {
        device: "tap0".to_owned(),
    };
    machine
}

#[test]
fn the_file_is_this() {
    let configuration = configuration(&full(), Some(Path::new("/i/log"))).unwrap();

    assert_eq!(
        configuration.to_json().unwrap(),
        r#"{
  "boot-source": {
    "kernel_image_path": "/i/kernel",
    "initrd_path": "/i/initrd.img",
    "boot_args": "console=ttyS0 quiet"
  },
  "drives": [
    {
      "drive_id": "disk0",
      "path_on_host": "/i/rootfs.ext4",
      "is_root_device": true,
      "is_read_only": false
    },
    {
      "drive_id": "disk1",
      "path_on_host": "/v/data",
      "is_root_device": false,
      "is_read_only": true
    }
  ],
  "machine-config": {
    "vcpu_count": 2,
    "mem_size_mib": 512
  },
  "network-interfaces": [
    {
      "iface_id": "eth0",
      "host_dev_name": "tap0",
      "guest_mac": "52:54:00:12:34:56"
    }
  ],
  "logger": {
    "log_path": "/i/log",
    "level": "Warning"
  }
}
"#
    );
}

#[test]
fn every_file_follows_the_documented_schema() {
    let mut bare = machine();
    bare.initrd = None;
    for (machine, log) in [(full(), Some(Path::new("/i/log"))), (bare, None)] {
        let json = configuration(&machine, log).unwrap().to_json().unwrap();

        let read: documented::FullVmConfiguration = serde_json::from_str(&json).unwrap();

        assert_eq!(u32::from(read.machine_config.vcpu_count), machine.cpus);
        assert_eq!(read.drives.len(), machine.disks.len());
        let roots = read.drives.iter().filter(|drive| drive.is_root_device);
        assert_eq!(roots.count(), 1);
    }
}

#[test]
fn the_schema_of_this_test_refuses_what_is_not_documented() {
    let json = configuration(&full(), None).unwrap().to_json().unwrap();
    let misspelt = json.replace("vcpu_count", "vcpus");
    let read: Result<documented::FullVmConfiguration, _> = serde_json::from_str(&misspelt);
    assert!(read.is_err(), "{misspelt}");
}

#[test]
fn the_command_line_names_the_file_and_who_holds_it() {
    let file = Path::new("/i/vm.json");
    let api_socket = Path::new("/i/api.sock");
    let held = Held::ByProgram { api_socket };
    assert_eq!(
        words(file, Held::ByPerson).unwrap().join(" "),
        "--no-api --config-file /i/vm.json"
    );
    assert_eq!(
        words(file, held).unwrap().join(" "),
        "--api-sock /i/api.sock --config-file /i/vm.json"
    );
}

#[test]
fn what_it_lacks_is_refused() {
    type Change = fn(&mut Machine);
    let cases: &[(Change, &str)] = &[
        (
            |machine| machine.network = Network::User { ports: Vec::new() },
            "firecracker has no network without a tap device of the host",
        ),
        (
            |machine| machine.disks[0].access = Access::Discarded,
            "firecracker has no disk whose writes are dropped",
        ),
        (
            |machine| machine.disks[0].source = crate::machine::DiskSource::Descriptor(3),
            "firecracker has no disk that is handed over open",
        ),
        (
            |machine| machine.accelerator = Accelerator::Tcg,
            "firecracker has no emulation; it needs KVM",
        ),
    ];
    for (change, want) in cases {
        let mut machine = machine();
        change(&mut machine);
        let got = configuration(&machine, None).unwrap_err();
        assert_eq!(got.to_string(), *want);
    }
}
