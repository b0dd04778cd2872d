"""Downloads, tried on a server on this machine."""

import hashlib
import time
from pathlib import Path

import pytest

from imagegen.data import DataError, cifar10, download, mnist


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def test_download_falls_back_to_the_next_mirror(tmp_path: Path, server: tuple[Path, str]) -> None:
    folder, address = server
    for name, content in (("wrong", b"something else"), ("right", b"content")):
        (folder / name).mkdir()
        (folder / name / "file.bin").write_bytes(content)
    target = tmp_path / "new" / "folder" / "file.bin"
    urls = [f"{address}{name}/file.bin" for name in ("absent", "wrong", "right")]
    download.download(target, urls, sha256(b"content"))
    assert target.read_bytes() == b"content"
    assert list(target.parent.iterdir()) == [target]  # no temporary file is left


def test_failed_download_leaves_nothing_and_says_why(tmp_path: Path, server: tuple[Path, str]) -> None:
    folder, address = server
    (folder / "file.bin").write_bytes(b"something else")
    target = tmp_path / "new" / "file.bin"
    urls = [address + "absent/file.bin", address + "file.bin", "http://127.0.0.1:1/file.bin"]
    start = time.monotonic()
    with pytest.raises(DataError) as error:
        download.download(target, urls, sha256(b"content"))
    assert time.monotonic() - start < 10
    host = address.split("/")[2]
    assert str(error.value) == (
        f"Cannot download file.bin ({host}: HTTP status 404; {host}: wrong SHA-256; 127.0.0.1:1: no connection).\n"
        f"Put the file into {target.parent} yourself, or choose data=digits, which needs no download."
    )
    assert list(target.parent.iterdir()) == []


@pytest.mark.parametrize("module", [mnist, cifar10], ids=["mnist", "cifar10"])
def test_absent_data_without_network(tmp_path: Path, module: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mnist, "MIRRORS", ("http://127.0.0.1:1/", "http://127.0.0.1:2/"))
    monkeypatch.setattr(cifar10, "URL", "http://127.0.0.1:1/cifar-10-binary.tar.gz")
    with pytest.raises(DataError, match="data=digits") as error:
        module.read(tmp_path)
    assert str(tmp_path) in str(error.value)
    assert str(error.value).count("\n") == 1


def test_data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMAGEGEN_DATA_DIR", str(tmp_path))
    assert download.resolve_data_dir(Path("given")) == Path("given")
    assert download.resolve_data_dir(None) == tmp_path
    assert download.resolve_data_dir(Path("~/given")) == Path.home() / "given"
    for unset in (lambda: monkeypatch.setenv("IMAGEGEN_DATA_DIR", ""), lambda: monkeypatch.delenv("IMAGEGEN_DATA_DIR")):
        unset()
        assert download.resolve_data_dir(None).name == "imagegen"
