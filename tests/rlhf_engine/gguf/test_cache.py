"""The cache: a file is converted once, by one process at a time, and no reader ever sees half of a folder."""

import errno
import multiprocessing
import os
import shutil
import time

import pytest

from rlhf_engine.errors import UserError
from rlhf_engine.gguf import cache as caching
from rlhf_engine.gguf import conversion, progress
from rlhf_engine.gguf.cache import cache_home, cached_folder
from rlhf_engine.runs.model_files import read_files
from tests.rlhf_engine.gguf.rewrite import FILES, rewrite

SOURCE = FILES / "qwen3.gguf"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv(caching.VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"


def convert(path=SOURCE) -> tuple[object, list[str]]:
    said: list[str] = []
    return cached_folder(path, "m.gguf", said.append), said


def test_a_file_is_converted_once_and_says_so(cache, tmp_path):
    folder, said = convert()
    assert len(said) == 1 and said[0].startswith(f"m.gguf: is converted once into {folder} (")
    copy = tmp_path / "copy.gguf"
    shutil.copy(SOURCE, copy)
    link = tmp_path / "link"
    link.symlink_to(copy)
    assert convert() == convert(copy) == convert(link) == (folder, [])
    assert read_files(folder, "m.gguf").config["model_type"] == "qwen3"
    assert [path.name for path in cache.iterdir() if not path.name.startswith(".")] == [folder.name]


def test_another_content_is_another_folder_even_under_the_same_name_size_and_time(tmp_path):
    path = tmp_path / "x.gguf"
    shutil.copy(SOURCE, path)
    first, _ = convert(path)
    state, data = path.stat(), bytearray(SOURCE.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert convert(path)[0] != first


def test_a_folder_that_lost_a_file_is_made_anew(cache):
    folder, _ = convert()
    (folder / "tokenizer.json").unlink()
    again, said = convert()
    assert again == folder and len(said) == 1 and (folder / "tokenizer.json").exists()
    (cache / f".{folder.name}").mkdir()  # what a killed process leaves
    (cache / f".{folder.name}" / "model.safetensors").write_bytes(b"half")
    (folder / "config.json").unlink()
    assert convert()[0] == folder and not (cache / f".{folder.name}").exists()


def test_an_error_on_the_way_leaves_nothing(cache, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")
    monkeypatch.setattr(conversion, "write_weights", full)
    with pytest.raises(UserError, match=r"^m.gguf: takes 0\.\d GB as a folder, and .* GB are free in .*; make room, or set PLAYGROUND_GGUF_CACHE"):
        convert()
    assert [path.name for path in cache.iterdir() if not path.name.endswith(".lock")] == []


def test_a_disk_without_room_is_refused_before_anything_is_written(cache, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(100, 90, 10))
    with pytest.raises(UserError, match="takes 0.1 GB as a folder, and 0.0 GB are free"):
        convert()
    assert [path.name for path in cache.iterdir() if not path.name.endswith(".lock")] == []


def test_a_cache_that_cannot_be_written_is_one_line(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("x")
    monkeypatch.setenv(caching.VARIABLE, str(tmp_path / "file" / "cache"))
    with pytest.raises(UserError, match=r"^m.gguf: its folder .* cannot be written \(.*\); set PLAYGROUND_GGUF_CACHE to a folder in which you may write$"):
        convert()


def test_a_folder_that_is_there_is_read_from_a_cache_that_cannot_be_written(cache, monkeypatch):
    folder, _ = convert()
    caching._FOLDERS.clear()
    monkeypatch.setattr(caching, "FileLock", None)
    assert convert() == (folder, [])


def slow_conversion(cache: str, results) -> None:
    os.environ[caching.VARIABLE] = cache
    write = conversion.write_weights

    def slowly(*arguments):
        results.put("writes")
        time.sleep(0.5)
        write(*arguments)
    conversion.write_weights = slowly
    results.put(convert()[0])


def test_two_processes_at_once_convert_once(cache):
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    processes = [context.Process(target=slow_conversion, args=(str(cache), results)) for _ in range(3)]
    for process in processes:
        process.start()
    said = [results.get(timeout=60) for _ in range(4)]
    for process in processes:
        process.join()
    assert said.count("writes") == 1 and len({path for path in said if path != "writes"}) == 1


def test_where_the_cache_is(monkeypatch, tmp_path):
    monkeypatch.setenv(caching.VARIABLE, "~/models")
    assert cache_home() == type(tmp_path)(os.path.expanduser("~/models"))
    monkeypatch.delenv(caching.VARIABLE)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    assert cache_home() == tmp_path / "hf" / "gguf-as-safetensors"
    monkeypatch.delenv("HF_HOME")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_home() == tmp_path / "huggingface" / "gguf-as-safetensors"


def test_a_name_in_a_file_is_no_path(tmp_path, cache):
    folder, _ = convert(rewrite("qwen3", tmp_path / "x.gguf", keys={"general.name": "../../EVIL <b> \u0000名"}))
    assert folder.parent == cache and folder.name.startswith("evil-b-")


def test_whoever_waits_for_a_conversion_can_see_how_far_it_is(monkeypatch, cache):
    seen: list[list] = []
    monkeypatch.setattr(progress, "WATCHERS", [lambda: seen.append(list(progress.CONVERSIONS))])
    write, during = conversion.write_weights, []

    def watched(path, *rest):
        one = progress.progress_of("m.gguf")
        during.append(one.done)
        write(path, *rest)
        during.append(one.done)
    monkeypatch.setattr(conversion, "write_weights", watched)
    folder, _ = convert()
    [[one], after] = seen
    assert after == [] and one.done == 0 and progress.progress_of("m.gguf") is None  # the folder has its final name now
    assert during == [0, one.total] and one.total <= (folder / "model.safetensors").stat().st_size
    convert()
    assert len(seen) == 2  # one that is in the cache is nothing to wait for


def test_a_conversion_that_fails_is_no_longer_waited_for(monkeypatch):
    def fails(*_):
        assert progress.progress_of("m.gguf")
        raise OSError(errno.ENOSPC, "no space")
    monkeypatch.setattr(conversion, "write_weights", fails)
    with pytest.raises(UserError, match="takes"):
        convert()
    assert progress.CONVERSIONS == []
