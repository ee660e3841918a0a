"""Files appear whole or not at all."""

import os
import stat

import pytest

from flashonnx.files import replacing, write_text


def test_new_file_and_replaced_file(tmp_path):
    path = tmp_path / "a.txt"
    write_text(path, "one")
    assert path.read_text() == "one"
    write_text(path, "two")
    assert path.read_text() == "two"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_a_failure_leaves_what_was_there(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def write_half():
        with replacing(path) as temporary:
            temporary.write_text("new, but")
            raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        write_half()
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_a_failure_makes_no_file(tmp_path):
    with pytest.raises(RuntimeError), replacing(tmp_path / "a.txt"):
        raise RuntimeError
    assert os.listdir(tmp_path) == []


def test_permissions_follow_the_umask(tmp_path):
    write_text(tmp_path / "a.txt", "")
    mask = os.umask(0)
    os.umask(mask)
    assert (tmp_path / "a.txt").stat().st_mode & 0o777 == 0o666 & ~mask


def test_missing_folder(tmp_path):
    with pytest.raises(FileNotFoundError):
        write_text(tmp_path / "no" / "a.txt", "")


def test_a_pipe_is_written_to_and_stays_one(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    write_text(pipe, "text")
    assert os.read(reader, 10) == b"text"
    os.close(reader)
    with pytest.raises(OSError, match="a device or a pipe"), replacing(pipe):
        pass
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def test_a_folder_is_not_replaced(tmp_path):
    with pytest.raises(IsADirectoryError, match="it is a folder"):
        write_text(tmp_path, "text")


def test_file_names_that_are_no_utf_8(tmp_path):
    name = os.fsdecode(b"m\xff.onnx")
    write_text(tmp_path / "a.txt", f"from {name}")
    assert (tmp_path / "a.txt").read_text() == "from m?.onnx"
