"""Every storage equals a plain matrix with a zero row; a full disk or device is an error at the start."""

import errno
import gc
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlkit.core.errors import ReplayError, ResourceError
from rlkit.replay import storage as storage_module
from rlkit.replay.storage import DeviceStorage, MemoryMapStorage, RamStorage

ROWS = 11
WIDTHS = {"short": 5, "long": 1_500}  # both sides of the border between numpy and torch, for either type
CUDA = pytest.param("cuda", marks=pytest.mark.gpu)
KINDS = ["ram", "file", "cpu", CUDA]


def make(kind, directory, rows=ROWS, width=5, dtype=np.uint8):
    match kind:
        case "ram":
            return RamStorage(rows, width, dtype)
        case "file":
            return MemoryMapStorage(rows, width, dtype, directory)
        case device:
            return DeviceStorage(rows, width, dtype, device)


def gather(storage, rows):
    kind = torch.from_numpy(np.empty(0, storage.dtype)).dtype
    out = torch.full((len(rows), storage.width), 77, dtype=kind, device=storage.device)
    found = storage.gather(np.array(rows, np.int64), out)
    assert found.data_ptr() == out.data_ptr()
    return found.cpu().numpy()


@st.composite
def programs(draw):
    row = st.integers(0, ROWS - 1)
    write = st.tuples(st.just("write"), st.lists(row, unique=True, max_size=ROWS), st.integers(0, 99))
    look = st.tuples(st.just("gather"), st.lists(st.integers(0, ROWS), max_size=20), st.just(0))
    return draw(st.lists(st.one_of(write, look), max_size=12))


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("kind", KINDS)
def test_storage_equals_a_matrix_with_a_zero_row(kind, width, dtype, tmp_path):
    @settings(max_examples=25, deadline=None)
    @given(programs())
    def check(program):
        tested = make(kind, tmp_path, width=WIDTHS[width], dtype=dtype)
        oracle = np.zeros((ROWS + 1, WIDTHS[width]), dtype)
        for what, rows, seed in program:
            if what == "write":
                values = np.random.default_rng(seed).integers(0, 256, (len(rows), WIDTHS[width])).astype(dtype)
                tested.write(np.array(rows, np.int64), values)
                oracle[rows] = values
            else:
                np.testing.assert_array_equal(gather(tested, rows), oracle[np.array(rows, np.int64)])
        everything = np.arange(ROWS + 1)
        np.testing.assert_array_equal(tested.read(everything), oracle)
        assert tested.nbytes == oracle.nbytes
        tested.close()

    check()


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_read_is_a_copy_and_what_is_written_is_copied(kind, tmp_path):
    tested = make(kind, tmp_path)
    values, rows = np.full((2, 5), 9, np.uint8), np.array([3, 4])
    tested.write(rows, values)
    values[:], rows[:] = 1, 0
    found = tested.read(np.array([3, 4]))
    assert found.dtype == np.uint8
    assert (found == 9).all()
    found[:] = 1
    assert (tested.read(np.array([3, 4])) == 9).all()
    assert tested.device.type == ("cuda" if kind == "cuda" else "cpu")


@pytest.mark.parametrize("kind", KINDS)
def test_values_of_any_layout_and_type(kind, tmp_path):
    tested = make(kind, tmp_path, dtype=np.float32)
    values = np.arange(20.0).reshape(5, 4).T  # float64, columns first
    values.flags.writeable = False
    tested.write(np.array([0, 5, 2, 7]), values)
    np.testing.assert_array_equal(gather(tested, [7, 0]), values[[3, 0]])


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("kind", KINDS)
def test_numbers_out_of_range_are_refused_and_change_nothing(kind, width, tmp_path):
    tested = make(kind, tmp_path, width=WIDTHS[width])
    ones = np.ones((2, WIDTHS[width]), np.uint8)
    for bad in ([0, ROWS], [-1, 0]):  # the zero row cannot be written
        with pytest.raises(ReplayError, match=f"rows {min(bad)} to {max(bad)} were asked for") as caught:
            tested.write(np.array(bad), ones)
        assert "numbers from 0 to 10 are allowed" in caught.value.why
    for bad in ([0, ROWS + 1], [-1, 0]):
        for read in (tested.read, lambda rows: gather(tested, rows)):
            with pytest.raises(ReplayError, match="were asked for") as caught:
                read(np.array(bad))
            assert "numbers from 0 to 11 are allowed" in caught.value.why
    assert not tested.read(np.arange(ROWS + 1)).any()


@pytest.mark.parametrize("kind", KINDS)
def test_a_closed_storage_refuses_everything(kind, tmp_path):
    tested = make(kind, tmp_path)
    tested.close()
    tested.close()
    rows = np.array([1])
    for call in (
        lambda: tested.write(rows, np.ones((1, 5), np.uint8)),
        lambda: tested.read(rows),
        lambda: gather(tested, rows),
    ):
        with pytest.raises(ReplayError, match="this storage is closed"):
            call()


def resident_bytes():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_memory_is_taken_as_it_is_written_and_given_back():
    gc.collect()
    before, rows = resident_bytes(), 40_000
    tested = RamStorage(rows, 7_056, np.uint8)  # 282 MB
    assert resident_bytes() - before < 20e6
    for start in range(0, rows, 1_000):
        tested.write(np.arange(start, start + 1_000), np.ones((1_000, 7_056), np.uint8))
    assert resident_bytes() - before > 250e6
    tested.close()
    assert resident_bytes() - before < 50e6


def mapped_files(directory):
    """Lines of this process's maps and open files that lie in `directory`."""
    maps = [line for line in Path("/proc/self/maps").read_text().splitlines() if str(directory) in line]
    files = [path for path in Path("/proc/self/fd").iterdir() if path.is_symlink() and _leads_to(path, directory)]
    return len(maps) + len(files)


def _leads_to(link, directory):
    try:
        return str(directory) in os.readlink(link)
    except FileNotFoundError:  # the listing's own
        return False


def test_a_file_has_no_name_takes_its_space_at_once_and_gives_it_back(tmp_path):
    tested = MemoryMapStorage(50, 100_000, np.uint8, tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert mapped_files(tmp_path) > 0
    (descriptor,) = [int(p.name) for p in Path("/proc/self/fd").iterdir() if _leads_to(p, tmp_path)]
    assert os.fstat(descriptor).st_blocks * 512 >= tested.nbytes == 5_100_000
    tested.write(np.array([0]), np.ones((1, 100_000), np.uint8))
    gather(tested, [0])
    tested.close()
    assert mapped_files(tmp_path) == 0


def test_a_disk_without_space_is_an_error_with_numbers(tmp_path, monkeypatch):
    with pytest.raises(ResourceError, match=r"need 100000\.01 GB of disk in .*, \d+\.\d\d GB are free") as caught:
        MemoryMapStorage(10_000_000, 10_000_000, np.uint8, tmp_path)
    assert caught.value.why == "there is too little space"

    def full(descriptor, offset, length):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(ResourceError, match=r"need 0\.00 GB of disk in .* GB are free") as caught:
        MemoryMapStorage(10, 10, np.uint8, tmp_path)
    assert caught.value.why == "No space left on device"
    assert mapped_files(tmp_path) == 0


def test_a_directory_that_is_not_there(tmp_path):
    with pytest.raises(ResourceError, match="missing") as caught:
        MemoryMapStorage(10, 10, np.uint8, tmp_path / "missing")
    assert caught.value.why == "No such file or directory"


def test_a_device_without_space_is_an_error_with_numbers(monkeypatch):
    def full(*shape, **settings):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(storage_module.torch, "zeros", full)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (3_000_000_000, 8_000_000_000))
    with pytest.raises(ResourceError, match=r"need 7\.06 GB on cpu, 3\.00 GB are free") as caught:
        DeviceStorage(1_000_000, 7_056, np.uint8, "cpu")
    assert caught.value.why == "1,000,000 rows of 7,056 bytes"


@pytest.mark.gpu
def test_a_gpu_without_space():
    with pytest.raises(ResourceError, match=r"need 10000\.00 GB on cuda"):
        DeviceStorage(1_000_000_000, 10_000, np.uint8, "cuda")


@pytest.mark.gpu
def test_many_writes_in_flight_do_not_mix_on_a_gpu():
    """Staging memory is reused while copies are under way: every row must get its own value."""
    tested = DeviceStorage(4_096, 7_056, np.uint8, "cuda")
    for start in range(0, 4_096, 8):
        values = np.arange(start, start + 8)[:, None] % 251 * np.ones((1, 7_056), np.int64)
        tested.write(np.arange(start, start + 8), values.astype(np.uint8))
    found = tested.read(np.arange(4_096))
    np.testing.assert_array_equal(found, (np.arange(4_096) % 251).astype(np.uint8)[:, None] * np.ones((1, 7_056)))


FULL_DISK = """
import sys
from pathlib import Path
import numpy as np
from rlkit.core.errors import ResourceError
from rlkit.replay import storage
from rlkit.replay.storage import MemoryMapStorage

directory = Path(sys.argv[1])
first = MemoryMapStorage(3_000, 1_000, np.uint8, directory)  # 3 of 4 MB
if sys.argv[2] == "unasked":  # as if another process took the space in between
    storage.shutil.disk_usage = lambda path: type("Usage", (), {"free": 10**9})
try:
    MemoryMapStorage(3_000, 1_000, np.uint8, directory)
except ResourceError as error:
    print(error.why)
for row in range(3_000):
    first.write(np.array([row]), np.full((1, 1_000), 7, np.uint8))  # no SIGBUS: its space is its own
first.close()
MemoryMapStorage(3_000, 1_000, np.uint8, directory)  # there is room again
print("done")
"""


@pytest.mark.slow
@pytest.mark.parametrize("asked", ["asked", "unasked"])
def test_a_really_full_disk(asked, tmp_path):
    """A file system of 4 MB of this test's own."""
    mount = f"mount -t tmpfs -o size=4m none {tmp_path}"
    if subprocess.run(["unshare", "-Urm", "sh", "-c", mount], check=False, capture_output=True).returncode:
        pytest.skip("needs a mount namespace of its own (unshare -Urm)")
    words = ["unshare", "-Urm", "sh", "-c", f'{mount} && exec "$@"', "sh"]
    words += [sys.executable, "-c", FULL_DISK, str(tmp_path), asked]
    found = subprocess.run(words, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    why = "there is too little space" if asked == "asked" else "No space left on device"
    assert found.stdout.splitlines() == [why, "done"]
