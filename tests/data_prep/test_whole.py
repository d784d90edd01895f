"""Files and folders appear whole or not at all."""

import errno
import os
from pathlib import Path

import pytest

from data_prep.errors import UserError
from data_prep.whole import new_folder, refuse_to_replace, whole_file, whole_folder, write_json, write_text


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_appears_when_the_block_ends(tmp_path):
    path = tmp_path / "é and space"
    with whole_file(path) as file:
        file.write("a\n\u2028")
        assert not path.exists()
    assert path.read_bytes() == "a\n\u2028".encode()
    assert names(tmp_path) == [path.name]


def test_an_exception_leaves_the_earlier_file_and_no_other(tmp_path):
    write_text(tmp_path / "file", "first")
    with pytest.raises(KeyboardInterrupt), whole_file(tmp_path / "file") as file:
        file.write("second")
        raise KeyboardInterrupt
    assert (tmp_path / "file").read_text() == "first"
    assert names(tmp_path) == ["file"]


def test_what_a_killed_process_wrote_is_not_at_the_files_place(tmp_path, monkeypatch):
    write_text(tmp_path / "file", "first")
    monkeypatch.setattr(os, "replace", lambda *_: None)  # the process ends before
    write_json(tmp_path / "file", {"a": 1})
    assert (tmp_path / "file").read_text() == "first"


def test_a_link_stays_and_its_file_is_replaced(tmp_path):
    (tmp_path / "target").write_text("first")
    (tmp_path / "link").symlink_to("target")
    write_text(tmp_path / "link", "second")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "target").read_text() == "second"


def test_a_file_has_the_permissions_of_any_new_file(tmp_path):
    (tmp_path / "plain").touch()
    write_text(tmp_path / "whole", "")
    assert (tmp_path / "whole").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_pipe_without_a_name_is_written_to():
    """What /dev/stdout is in a pipeline."""
    read, write = os.pipe()
    write_text(f"/dev/fd/{write}", "text")
    os.close(write)
    with open(read) as file:
        assert file.read() == "text"


def test_a_pipe_is_written_to(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    write_text(tmp_path / "pipe", "text")
    assert os.read(reader, 10) == b"text"
    os.close(reader)


@pytest.mark.parametrize("place", ["folder", "absent/file"])
def test_an_error_names_the_file_that_was_asked_for(place, tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError) as error:
        write_text(tmp_path / place, "text")
    assert error.value.filename == str(tmp_path / place)
    assert names(tmp_path) == ["folder"]


def test_a_folder_that_cannot_be_written_is_not_hidden_by_the_clearing_up(tmp_path, monkeypatch):
    """As on a file system that is read-only, where nothing can be removed either."""

    def refuse(*args, **kwargs):
        raise OSError(errno.EROFS, "Read-only file system", "another name")

    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.raises(FileNotFoundError) as error:
        write_text(tmp_path / "absent" / "file", "text")
    assert error.value.filename == str(tmp_path / "absent" / "file")


def test_a_full_disk_is_said_with_the_files_name(tmp_path, full_disk):
    with full_disk(10), pytest.raises(OSError, match="File too large") as error:
        write_text(tmp_path / "file", "text " * 100)
    assert error.value.filename == str(tmp_path / "file")
    assert names(tmp_path) == []


def test_a_folder_that_cannot_be_made_is_named(tmp_path, monkeypatch):
    make = Path.mkdir

    def refuse(self, *args, **kwargs):
        if self.name.startswith("."):
            raise OSError(errno.EROFS, "Read-only file system", str(self))
        make(self, *args, **kwargs)

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(OSError) as error, new_folder(tmp_path / "out"):
        pytest.fail("made")
    assert (error.value.errno, error.value.filename) == (errno.EROFS, str(tmp_path / "out"))


def test_what_is_read_is_not_replaced(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("file")
    for out, inputs in (("file", ["other", "link"]), ("link", ["file"]), ("", [""]), ("../" + tmp_path.name, [""])):
        with pytest.raises(UserError, match="OUT .* is read as well, and would be replaced"):
            refuse_to_replace("OUT", tmp_path / out, [tmp_path / name for name in inputs])
    refuse_to_replace("OUT", tmp_path / "new", [tmp_path / "file", tmp_path / "new"])
    refuse_to_replace("OUT", os.devnull, [os.devnull])


def test_a_folder_has_its_manifest_last(tmp_path):
    with whole_folder(tmp_path / "out") as folder:
        (folder / "z").write_text("z")
        (folder / "manifest.json").write_text('{"sha256": {"z": ""}}')
        assert names(tmp_path / "out") == [".partial"]
    assert names(tmp_path / "out") == ["manifest.json", "z"]
    with whole_folder(tmp_path / "out") as folder:
        (folder / "a").write_text("a")
    assert names(tmp_path / "out") == ["a"]  # nothing of the earlier run


def test_a_new_folder_replaces_only_what_it_may(tmp_path):
    out = tmp_path / "new" / "out"
    with new_folder(out) as folder:
        (folder / "a").write_text("first")
    with pytest.raises(UserError, match="exists; --force"), new_folder(out):
        pass
    with pytest.raises(UserError, match="also holds a"), new_folder(out, {"b"}):
        pass
    with pytest.raises(KeyboardInterrupt), new_folder(out, {"a"}):
        raise KeyboardInterrupt
    assert (out / "a").read_text() == "first"
    with new_folder(out, {"a"}) as folder:
        (folder / "a").write_text("second")
    assert (out / "a").read_text() == "second"
    assert names(out.parent) == ["out"]
