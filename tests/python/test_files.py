"""Files appear whole or not at all."""

import os

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
