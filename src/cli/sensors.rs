//! This machine's own readings: temperatures where there are any, load, memory, disk, network. From /proc and /sys; what is
//! not there is left out.

use std::fs;
use std::path::Path;

/// One value of one sensor.
#[derive(Clone, Debug, PartialEq)]
pub struct Reading {
    /// What it is, as a channel: `temperature/cpu-thermal`, `network/eth0/received`.
    pub name: String,
    /// How much.
    pub value: f64,
    /// Of what: `C`, `B`, `1`.
    pub unit: &'static str,
}

impl Reading {
    /// As a record's value.
    pub fn json(&self) -> String {
        format!("{{\"value\":{},\"unit\":\"{}\"}}", self.value, self.unit)
    }
}

/// Reads every sensor once.
pub fn read() -> Vec<Reading> {
    let mut readings = Vec::new();
    thermal_zones(&mut readings);
    hwmon(&mut readings);
    let text = |path: &str| fs::read_to_string(path).unwrap_or_default();
    load(&text("/proc/loadavg"), &mut readings);
    memory(&text("/proc/meminfo"), &mut readings);
    disks(&text("/proc/diskstats"), &mut readings);
    network(&text("/proc/net/dev"), &mut readings);
    root_disk(&mut readings);
    readings
}

fn push(readings: &mut Vec<Reading>, name: impl Into<String>, value: f64, unit: &'static str) {
    let base: String = name.into();
    let mut name = base.clone();
    // Two sensors of one kind have one name in /sys.
    let mut number = 1;
    while readings.iter().any(|r| r.name == name) {
        number += 1;
        name = format!("{base}-{number}");
    }
    readings.push(Reading { name, value, unit });
}

/// A text as one level of a channel.
fn level(text: &str) -> String {
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    text.trim().chars().map(|c| if legal(c) { c } else { '-' }).collect()
}

fn line(path: &Path) -> Option<String> {
    Some(fs::read_to_string(path).ok()?.trim().to_owned())
}

fn entries(folder: &str) -> Vec<std::path::PathBuf> {
    let mut paths: Vec<_> = fs::read_dir(folder)
        .map(|entries| entries.filter_map(|e| Some(e.ok()?.path())).collect())
        .unwrap_or_default();
    paths.sort();
    paths
}

fn thermal_zones(readings: &mut Vec<Reading>) {
    for zone in entries("/sys/class/thermal") {
        let kind = line(&zone.join("type"));
        let millis = line(&zone.join("temp")).and_then(|t| t.parse::<f64>().ok());
        if let (Some(kind), Some(millis)) = (kind, millis) {
            push(readings, format!("temperature/{}", level(&kind)), millis / 1000.0, "C");
        }
    }
}

fn hwmon(readings: &mut Vec<Reading>) {
    for chip in entries("/sys/class/hwmon") {
        let chip_name = line(&chip.join("name")).unwrap_or_default();
        for path in entries(&chip.to_string_lossy()) {
            let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let Some(sensor) = file.strip_suffix("_input").filter(|s| s.starts_with("temp")) else {
                continue;
            };
            let label = line(&chip.join(format!("{sensor}_label"))).unwrap_or_else(|| sensor.to_owned());
            if let Some(millis) = line(&path).and_then(|t| t.parse::<f64>().ok()) {
                let name = format!("temperature/{}-{}", level(&chip_name), level(&label));
                push(readings, name, millis / 1000.0, "C");
            }
        }
    }
}

fn load(text: &str, readings: &mut Vec<Reading>) {
    for (name, value) in ["load/1m", "load/5m", "load/15m"].iter().zip(text.split_whitespace()) {
        if let Ok(value) = value.parse() {
            push(readings, *name, value, "1");
        }
    }
}

fn memory(text: &str, readings: &mut Vec<Reading>) {
    for (field, name) in [
        ("MemTotal:", "memory/total"),
        ("MemAvailable:", "memory/available"),
        ("SwapFree:", "memory/swap-free"),
    ] {
        let value = text
            .lines()
            .find_map(|l| l.strip_prefix(field)?.trim().strip_suffix("kB"));
        if let Some(kilobytes) = value.and_then(|v| v.trim().parse::<f64>().ok()) {
            push(readings, name, kilobytes * 1024.0, "B");
        }
    }
}

fn disks(text: &str, readings: &mut Vec<Reading>) {
    for line in text.lines() {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (Some(name), Some(read), Some(written)) = (fields.get(2), fields.get(5), fields.get(9)) else {
            continue;
        };
        if ["loop", "ram", "zram", "dm-"].iter().any(|p| name.starts_with(p)) {
            continue;
        }
        for (direction, sectors) in [("read", read), ("written", written)] {
            if let Ok(sectors) = sectors.parse::<f64>()
                && sectors > 0.0
            {
                // A sector of /proc/diskstats is 512 bytes whatever the disk's is.
                push(
                    readings,
                    format!("disk/{}/{direction}", level(name)),
                    sectors * 512.0,
                    "B",
                );
            }
        }
    }
}

fn network(text: &str, readings: &mut Vec<Reading>) {
    for line in text.lines().skip(2) {
        let Some((name, counters)) = line.split_once(':') else {
            continue;
        };
        if name.trim() == "lo" {
            continue;
        }
        let counters: Vec<f64> = counters.split_whitespace().filter_map(|c| c.parse().ok()).collect();
        for (direction, at) in [("received", 0), ("sent", 8)] {
            if let Some(bytes) = counters.get(at) {
                push(readings, format!("network/{}/{direction}", level(name)), *bytes, "B");
            }
        }
    }
}

fn root_disk(readings: &mut Vec<Reading>) {
    if let Ok(stat) = rustix::fs::statvfs("/") {
        let bytes = |blocks: u64| blocks as f64 * stat.f_frsize as f64;
        push(readings, "disk/root/size", bytes(stat.f_blocks), "B");
        push(readings, "disk/root/available", bytes(stat.f_bavail), "B");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_texts_of_proc_become_readings() {
        let mut readings = Vec::new();
        load("0.50 0.25 0.10 1/200 4242\n", &mut readings);
        memory("MemTotal:        1000 kB\nMemAvailable:     400 kB\n", &mut readings);
        disks(
            "   8       0 sda 10 0 20 0 30 0 40 0 0 0 0\n   7       0 loop0 1 0 2 0 3 0 4\n",
            &mut readings,
        );
        network("a\nb\n  lo: 1 2 3\neth0: 100 1 0 0 0 0 0 0 200 2 0\n", &mut readings);
        let found: Vec<(&str, f64)> = readings.iter().map(|r| (r.name.as_str(), r.value)).collect();
        assert_eq!(
            found,
            [
                ("load/1m", 0.5),
                ("load/5m", 0.25),
                ("load/15m", 0.1),
                ("memory/total", 1_024_000.0),
                ("memory/available", 409_600.0),
                ("disk/sda/read", 10_240.0),
                ("disk/sda/written", 20_480.0),
                ("network/eth0/received", 100.0),
                ("network/eth0/sent", 200.0),
            ]
        );
    }

    #[test]
    fn this_machine_has_readings_whose_names_are_channels() {
        let readings = read();
        assert!(!readings.is_empty());
        for (at, reading) in readings.iter().enumerate() {
            assert!(
                reading
                    .name
                    .split('/')
                    .all(|part| !part.is_empty() && level(part) == part),
                "{reading:?}"
            );
            assert!(
                readings.iter().skip(at + 1).all(|other| other.name != reading.name),
                "{reading:?} twice"
            );
        }
    }
}
