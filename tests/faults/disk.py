"""A disk that loses its power: an ext4 image on a loop device, copied while the processes on it stand still.

What the file system had not written back is not in the copy; what was synced is.
"""

from __future__ import annotations

import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

SIZE: Final = "512M"
COPY_ATTEMPTS: Final = 20
COMMAND_SECONDS: Final = 60
MEMORY: Final = Path("/dev/shm")
_WRITES_FIELD: Final = 4
_IN_FLIGHT_FIELD: Final = 8


def image_folder(otherwise: Path) -> Path:
    """In memory where there is room: a sync of the image then costs what it costs the file system, no more."""
    has_room = MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > 4 * 1024**3
    return MEMORY if has_room else otherwise


@dataclass
class Disk:
    """One image, mounted at ``folder``."""

    image: Path
    folder: Path
    copies: int = 0

    @classmethod
    def under(cls, folder: Path, images: Path) -> Disk:
        """Move a folder's content onto a new image, mounted in its place."""
        disk = cls(images / "disk.0.img", folder)
        _run("truncate", "-s", SIZE, str(disk.image))
        _run("mkfs.ext4", "-q", "-E", "lazy_itable_init=0,lazy_journal_init=0,root_owner=0:0", str(disk.image))
        beside = folder.with_name(folder.name + ".before")
        folder.rename(beside)
        folder.mkdir(mode=0o700)
        disk.mount()
        folder.chmod(0o700)
        shutil.copytree(beside, folder, dirs_exist_ok=True, symlinks=True)
        shutil.rmtree(beside)
        _run("sync", "--file-system", str(folder))
        return disk

    def mount(self) -> None:
        _run("mount", "-o", "loop", str(self.image), str(self.folder))

    def copy(self) -> Path:
        """The image as it is at one moment: a copy during which the device took no write. Name and mount it later."""
        self.copies += 1
        target = self.image.with_name(f"disk.{self.copies}.img")
        for _ in range(COPY_ATTEMPTS):
            before = self._writes()
            _run("cp", "--sparse=always", str(self.image), str(target))
            if before == self._writes():
                return target
        raise AssertionError(f"{self.image} never stood still for a copy")

    def replace(self, image: Path) -> None:
        """Mount another image in the place of this one, which is gone. Nothing runs on it any more."""
        deadline = time.monotonic() + COMMAND_SECONDS
        while subprocess.run(["umount", str(self.folder)], capture_output=True, timeout=COMMAND_SECONDS).returncode:
            assert time.monotonic() < deadline, f"{self.folder} is still in use"
            time.sleep(0.05)
        self.image.unlink()
        self.image = image
        self.mount()

    def remove(self) -> None:
        subprocess.run(["umount", "--lazy", str(self.folder)], capture_output=True, timeout=COMMAND_SECONDS)
        for image in self.image.parent.glob("disk.*.img"):
            image.unlink()

    def _writes(self) -> tuple[str, str]:
        """Writes that the device has done and that it has begun."""
        device = _run("findmnt", "--noheadings", "--output", "SOURCE", str(self.folder)).strip()
        fields = Path("/sys/block", Path(device).name, "stat").read_text().split()
        return fields[_WRITES_FIELD], fields[_IN_FLIGHT_FIELD]


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, timeout=COMMAND_SECONDS)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr.decode()}"
    return done.stdout.decode()
