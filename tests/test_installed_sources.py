"""The standard library and installed distributions as sources."""

import pytest
from source_fixtures import CODE, outcomes, raw_files

from data_prep import installed_python
from hugcoder.refusal import Refusal


def test_installed_distributions_are_repositories():
    source = {"type": "python", "distributions": ["PyYAML", "tqdm"], "stdlib": False}
    found = raw_files(source)
    assert {raw.repo for raw in found} == {"pyyaml", "tqdm"}
    assert all(raw.license != "unknown" for raw in found)
    assert "import" in outcomes(source)["yaml/__init__.py"]
    assert not any("__pycache__" in raw.path or raw.path.startswith("..") for raw in found)


def test_a_damaged_distribution_is_passed_over(tmp_path, monkeypatch, caplog):
    metadata = "Metadata-Version: 2.1\nName: {}\nVersion: 1\n"
    for name in ("good", "torn", "latin", "nothing"):
        (tmp_path / f"{name}-1.dist-info").mkdir()
        if name != "nothing":
            (tmp_path / f"{name}-1.dist-info" / "METADATA").write_text(metadata.format(name))
    (tmp_path / "good-1.dist-info" / "RECORD").write_text("good.py,,\n")
    (tmp_path / "torn-1.dist-info" / "RECORD").write_bytes(b"caf\xe9.py,,\n")
    (tmp_path / "latin-1.dist-info" / "METADATA").write_bytes(b"Name: caf\xe9\n")
    (tmp_path / "good.py").write_text(CODE)
    places = dict.fromkeys(("purelib", "platlib"), str(tmp_path))
    monkeypatch.setattr(installed_python.sysconfig, "get_paths", lambda: places)
    found = outcomes({"type": "python", "stdlib": False})
    assert found == {"good.py": CODE, "RECORD": "<unreadable>"}
    assert caplog.text.count("a distribution without a name is passed over") == 2


def test_the_standard_library_comes_without_installed_packages():
    found = raw_files({"type": "python", "distributions": [], "stdlib_tests": False})
    paths = {raw.path for raw in found}
    assert {raw.repo for raw in found} == {"cpython"}
    assert "json/decoder.py" in paths
    assert not any(path.startswith(("site-packages/", "test/")) for path in paths)


def test_a_distribution_that_is_not_there_is_refused():
    with pytest.raises(Refusal, match="'no-such-thing' is not installed"):
        raw_files({"type": "python", "distributions": ["no-such-thing"]})
