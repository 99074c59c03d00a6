//! What a directory lies on, as Linux tells it under `/sys`: the disks below partitions, loop devices and device mapper.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Where Linux tells of its devices.
const SYS: &str = "/sys";
/// Devices one upon the other; what is deeper is not looked for.
const DEPTH_MAX: u32 = 8;
/// `/sys` counts in these whatever the device's own are.
const SECTOR: u64 = 512;

/// The disks that a directory lies on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Media {
    /// None where it lies on no disk of this machine, or cannot be told.
    pub disks: Vec<DiskFound>,
}

/// A disk of this machine.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DiskFound {
    /// Its name, such as `mmcblk0`.
    pub name: String,
    /// What it holds.
    pub bytes: u64,
    /// Its folder under `/sys`.
    folder: PathBuf,
}

impl DiskFound {
    /// A memory card, or the same soldered in (eMMC).
    pub fn is_card(&self) -> bool {
        self.name.starts_with("mmcblk")
    }

    /// Bytes written to it since the machine started, whoever wrote them.
    pub fn written_bytes(&self) -> Option<u64> {
        /// The seventh number of `stat`: sectors written.
        const SECTORS_WRITTEN: usize = 6;
        let stat = fs::read_to_string(self.folder.join("stat")).ok()?;
        let sectors = stat.split_ascii_whitespace().nth(SECTORS_WRITTEN)?;
        Some(sectors.parse::<u64>().ok()?.saturating_mul(SECTOR))
    }
}

impl Media {
    /// Of a directory that is there.
    pub fn of_directory(path: &Path) -> Self {
        Tree {
            sys: Path::new(SYS),
            device_of: &device_of,
        }
        .media(path)
    }

    /// One of its disks is a card.
    pub fn card(&self) -> Option<&DiskFound> {
        self.disks.iter().find(|disk| disk.is_card())
    }

    /// Bytes that its disks hold; `None` where there is none.
    pub fn bytes(&self) -> Option<u64> {
        let bytes = self.disks.iter().map(|disk| disk.bytes).sum();
        (bytes > 0).then_some(bytes)
    }

    /// Bytes written to its disks since the machine started.
    pub fn written_bytes(&self) -> Option<u64> {
        let each: Option<Vec<u64>> = self.disks.iter().map(DiskFound::written_bytes).collect();
        each.filter(|each| !each.is_empty()).map(|each| each.iter().sum())
    }

    /// Their names.
    pub fn names(&self) -> String {
        let names: Vec<&str> = self.disks.iter().map(|disk| disk.name.as_str()).collect();
        names.join(", ")
    }
}

/// Major and minor number of the device that a file lies on.
fn device_of(path: &Path) -> Option<(u32, u32)> {
    let device = fs::metadata(path).ok()?.dev();
    Some((rustix::fs::major(device), rustix::fs::minor(device)))
}

struct Tree<'a> {
    sys: &'a Path,
    device_of: &'a dyn Fn(&Path) -> Option<(u32, u32)>,
}

impl Tree<'_> {
    fn media(&self, path: &Path) -> Media {
        let mut disks = BTreeSet::new();
        self.disks_under(path, 0, &mut disks);
        let disks = disks.into_iter().collect();
        Media { disks }
    }

    fn disks_under(&self, path: &Path, depth: u32, disks: &mut BTreeSet<DiskFound>) {
        if let Some((major, minor)) = (self.device_of)(path) {
            let link = self.sys.join(format!("dev/block/{major}:{minor}"));
            self.disks_of(&link, depth, disks);
        }
    }

    /// `device` is a folder of a block device, or a link to one.
    fn disks_of(&self, device: &Path, depth: u32, disks: &mut BTreeSet<DiskFound>) {
        // Not one of this machine's disks (a network, memory), or a tree that is no tree.
        let (Ok(mut folder), true) = (fs::canonicalize(device), depth < DEPTH_MAX) else {
            return;
        };
        if folder.join("partition").exists() {
            folder.pop();
        }
        let below = fs::read_dir(folder.join("slaves")).into_iter().flatten().flatten();
        let below: Vec<PathBuf> = below.map(|entry| entry.path()).collect();
        for device in &below {
            self.disks_of(device, depth + 1, disks);
        }
        if !below.is_empty() {
            return;
        }
        if let Ok(file) = fs::read_to_string(folder.join("loop/backing_file")) {
            return self.disks_under(Path::new(file.trim_end()), depth + 1, disks);
        }
        let sectors = fs::read_to_string(folder.join("size")).ok();
        let sectors = sectors.and_then(|text| text.trim().parse::<u64>().ok());
        let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let bytes = sectors.unwrap_or(0).saturating_mul(SECTOR);
        disks.insert(DiskFound { name, bytes, folder });
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::log::tests::Folder;

    /// A tree such as `/sys`.
    struct Fake(Folder);

    impl Fake {
        fn new() -> Self {
            let fake = Self(Folder::new());
            fs::create_dir_all(fake.0.path().join("dev/block")).unwrap();
            fake
        }

        /// A device with its number and files.
        fn device(&self, path: &str, number: &str, files: &[(&str, &str)]) -> PathBuf {
            let folder = self.0.path().join("devices").join(path);
            fs::create_dir_all(&folder).unwrap();
            symlink(&folder, self.0.path().join("dev/block").join(number)).unwrap();
            for (name, text) in files {
                let file = folder.join(name);
                fs::create_dir_all(file.parent().unwrap()).unwrap();
                fs::write(file, text).unwrap();
            }
            folder
        }

        fn names(&self, device: (u32, u32)) -> String {
            self.media(&move |_| Some(device)).names()
        }

        fn media(&self, device_of: &dyn Fn(&Path) -> Option<(u32, u32)>) -> Media {
            let sys = self.0.path();
            Tree { sys, device_of }.media(Path::new("/data"))
        }
    }

    fn with_card() -> Fake {
        let fake = Fake::new();
        let stat = "       7       0      56       0      90       2    1000       5       0       0       0\n";
        fake.device("mmc0/block/mmcblk0", "179:0", &[("size", "62333952\n"), ("stat", stat)]);
        fake.device(
            "mmc0/block/mmcblk0/mmcblk0p2",
            "179:2",
            &[("partition", "2\n"), ("size", "1\n")],
        );
        fake.device("pci/block/nvme0n1", "259:0", &[("size", "100\n")]);
        fake
    }

    #[test]
    fn a_partition_of_a_card_is_the_card() {
        let fake = with_card();
        let media = fake.media(&|_| Some((179, 2)));
        let card = media.card().unwrap();
        assert_eq!((card.name.as_str(), card.bytes), ("mmcblk0", 62_333_952 * 512));
        assert_eq!(card.written_bytes(), Some(512_000));
        assert_eq!(media.written_bytes(), Some(512_000));
        assert_eq!(media.bytes(), Some(card.bytes));
    }

    #[test]
    fn another_disk_is_no_card_and_where_there_is_none_nothing_is_found() {
        let fake = with_card();
        assert_eq!(fake.names((259, 0)), "nvme0n1");
        assert_eq!(fake.media(&|_| Some((259, 0))).card(), None);
        // As of tmpfs, or of what cannot be read.
        assert_eq!(fake.media(&|_| Some((0, 41))), Media::default());
        assert_eq!(fake.media(&|_| None), Media::default());
    }

    #[test]
    fn under_device_mapper_and_loop_devices_lie_disks() {
        let fake = with_card();
        let dm = fake.device("virtual/block/dm-0", "253:0", &[("size", "9\n")]);
        fs::create_dir(dm.join("slaves")).unwrap();
        for below in ["mmc0/block/mmcblk0/mmcblk0p2", "pci/block/nvme0n1"] {
            let below = fake.0.path().join("devices").join(below);
            symlink(&below, dm.join("slaves").join(below.file_name().unwrap())).unwrap();
        }
        assert_eq!(fake.names((253, 0)), "mmcblk0, nvme0n1");
        let image = [("loop/backing_file", "/images/data.img\n")];
        fake.device("virtual/block/loop0", "7:0", &image);
        let device_of = |path: &Path| match path.starts_with("/images") {
            true => Some((253, 0)),
            false => Some((7, 0)),
        };
        assert_eq!(fake.media(&device_of).card().unwrap().name, "mmcblk0");
        // A loop device upon itself ends.
        assert_eq!(fake.names((7, 0)), "");
    }

    #[test]
    fn the_disk_of_this_machine_is_found_or_there_is_none() {
        let media = Media::of_directory(Path::new("."));
        assert!(media.disks.iter().all(|disk| !disk.name.is_empty()), "{media:?}");
    }
}
