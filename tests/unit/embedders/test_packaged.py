from __future__ import annotations

import hashlib
import importlib
import os
from pathlib import Path

import pytest

from embed_pipeline.embedders import packaged
from embed_pipeline.errors import ConfigurationError


@pytest.fixture
def distribution(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installed distribution `tiny-models` with two files of one name in two folders, and one of its own."""
    info = tmp_path / "tiny_models-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: tiny-models\nVersion: 1.2\n")
    files = ["tiny/a/model.onnx", "tiny/b/model.onnx", "tiny/tokenizer.json"]
    (info / "RECORD").write_text("".join(f"{name},,\n" for name in files))
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    return tmp_path


def test_a_path_is_itself_and_the_home_directory_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "m.onnx").write_bytes(b"x")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert packaged.resolve(str(tmp_path / "m.onnx")) == tmp_path / "m.onnx"
    assert packaged.resolve("~/m.onnx") == tmp_path / "m.onnx"


def test_a_file_of_a_distribution_is_found_by_its_name_or_the_end_of_its_path(distribution: Path) -> None:
    assert packaged.resolve("package://tiny-models/tokenizer.json").read_text() == "tiny/tokenizer.json"
    assert packaged.resolve("package://tiny_models/b/model.onnx").read_text() == "tiny/b/model.onnx"
    assert packaged.resolve("package://tiny-models/tiny/a/model.onnx").read_text() == "tiny/a/model.onnx"


@pytest.mark.parametrize(
    ("reference", "said"),
    [
        ("package://no-such-dist-xyz/m.onnx", r"no-such-dist-xyz.* is not installed.*pip install no-such-dist-xyz"),
        ("package://no-such-dist-xyz/m.onnx", r"pip install 'embed-pipeline\[demo\]'"),
        ("package://tiny-models/other.onnx", r"tiny-models 1.2 holds no single file other.onnx: no file of it ends so"),
        ("package://tiny-models/model.onnx", r"it fits tiny/a/model.onnx, tiny/b/model.onnx"),
        ("package://tiny-models/odel.onnx", r"no file of it ends so"),
        ("package://tiny-models", r"does not name a file.*package://DISTRIBUTION/FILE"),
        ("package://", r"does not name a file"),
        ("/no/such/file.onnx", r"The file /no/such/file.onnx does not exist"),
        ("/", r"is a directory"),
    ],
)
def test_what_cannot_be_found_is_said_in_one_sentence(distribution: Path, reference: str, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        packaged.resolve(reference)


def test_a_recorded_file_that_was_deleted_is_missed(distribution: Path) -> None:
    (distribution / "tiny/tokenizer.json").unlink()
    with pytest.raises(ConfigurationError, match="does not exist"):
        packaged.resolve("package://tiny-models/tokenizer.json")


def test_verify_names_the_file_and_both_hashes(tmp_path: Path) -> None:
    file = tmp_path / "m.onnx"
    file.write_bytes(b"weights")
    right = hashlib.sha256(b"weights").hexdigest()
    assert packaged.verify(file, None) == right
    assert packaged.verify(file, right.upper()) == right
    with pytest.raises(ConfigurationError) as caught:
        packaged.verify(file, "0" * 64)
    for part in (str(file), right, "0" * 64, "declare the other one as a new version"):
        assert part in str(caught.value)


def test_a_hash_is_remembered_until_the_file_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads = []
    digest = hashlib.file_digest

    def counted(*arguments: object) -> object:
        reads.append(1)
        return digest(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(hashlib, "file_digest", counted)
    file = tmp_path / "m.onnx"
    file.write_bytes(b"first")
    assert packaged.sha256_of(file) == packaged.sha256_of(file) == hashlib.sha256(b"first").hexdigest()
    assert len(reads) == 1
    file.write_bytes(b"later")  # the same size: only the time tells
    os.utime(file, ns=(1, 1))
    assert packaged.sha256_of(file) == hashlib.sha256(b"later").hexdigest()
    assert len(reads) == 2


def test_a_file_that_may_not_be_read_is_said_to_be_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    file = tmp_path / "m.onnx"
    file.touch()
    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(ConfigurationError, match=r"m.onnx cannot be read: Permission denied"):
        packaged.verify(file, None)
