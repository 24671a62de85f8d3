"""The worker as its users meet it: real processes, real kills, a tiny model."""

import contextlib
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client
from pathlib import Path

import psutil
import pytest

from rlhf_engine.data.tokenization import encode_prompt
from rlhf_engine.errors import UserError
from rlhf_engine.files import read_json
from rlhf_engine.model.backbone import Backbone
from rlhf_engine.model.generation import Sampling, sample, seeded_generator, text_of
from rlhf_engine.rollout.reward_functions import score_all
from rlhf_engine.runs.folder import Run
from rlhf_engine.runs.resolve import locate, resolve_output
from rlhf_engine.worker.client import Worker
from rlhf_engine.worker.conversion_note import read_note
from rlhf_engine.worker.protocol import MAX_REQUEST_BYTES, WorkerError
from rlhf_engine.worker.server import MAX_CHATS, Server

GGUF = Path(__file__).parents[2] / "fixtures" / "gguf"
HELLO = [{"role": "user", "content": "once upon a time"}]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory, tiny_llama) -> dict:
    """Paths of a tiny model and of data for each stage."""
    folder = tmp_path_factory.mktemp("data")
    words = ["little", "dog", "cat", "bird", "girl", "boy", "park", "garden", "ball", "friend"]
    rows = {"sft": [{"prompt": f"a {w}", "completion": f"the {w} was very happy and liked to play with her {v}"}
                    for w in words for v in words[:4]],
            "reward": [{"prompt": f"a {w}", "chosen": f"happy {v}", "rejected": f"sad {v} tired"} for w in words for v in words[:2]],
            "ppo": [{"prompt": f"the {w} was"} for w in words]}
    for name, lines in rows.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in lines))
    return {"model": str(tiny_llama)} | {name: str(folder / f"{name}.jsonl") for name in rows}


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def worker(home):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PLAYGROUND_GGUF_CACHE", str(home / "gguf"))
        patch.setenv("OMP_NUM_THREADS", "1")  # a tiny model gains nothing from threads, and loses much where cores are shared
        handle = Worker(home)
        handle.ensure()
        yield handle
        handle.shutdown()


@pytest.fixture
def idle(worker):
    """The worker, with no run left over from a test that failed."""
    worker.ensure()
    yield worker
    if run := worker.status()["run"]:
        with contextlib.suppress(UserError):
            worker.control(run, "discard")
        wait_for(lambda: worker.status()["run"] is None)


def sft(tiny: dict, output: str = "", **changes) -> dict:
    return {"model": tiny["model"], "data": tiny["sft"], "output": output, "steps": 6, "batch_size": 4, "max_tokens": 64, "lora_rank": 4,
            "evaluate_every": 3, "checkpoint_every": 2} | changes


def ppo(tiny: dict, output: str, **changes) -> dict:
    return {"model": tiny["model"], "data": tiny["ppo"], "output": output, "steps": 3, "batch_size": 4, "max_tokens": 64, "lora_rank": 4,
            "max_new_tokens": 16, "reference_samples": 4, "reward": "judge", "gradient_checkpointing": True, "micro_batch": 1} | changes


def wait_for(condition, timeout: float = 600.0):
    """The first true value of `condition()`. The timeout only ends a test that would wait for ever."""
    deadline = time.monotonic() + timeout
    while not (value := condition()):
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)
    return value


def finish(worker: Worker, run: str, state: str = "done") -> Run:
    wait_for(lambda: worker.status()["run"] is None)
    assert Run(run).status()["state"] == state, Run(run).status()
    return Run(run)


def numbers(run: Run | str) -> list[dict]:
    """The metrics without the clock."""
    return [{k: v for k, v in row.items() if not k.startswith("time/")} for row in Run(getattr(run, "path", run)).metrics()]


def last(texts) -> list[str]:
    *_, answer = texts
    return answer


class Chatter(threading.Thread):
    """Chats without a pause until told to end; keeps the answers and how far training was when they came."""

    def __init__(self, worker: Worker, **details):
        super().__init__(daemon=True)
        self.worker, self.details, self.new_events, self.errors, self.over = worker, details, [], [], False
        self.start()

    def run(self):
        while not self.over:
            try:
                self.new_events.append((last(self.worker.chat(**self.details)), self.worker.status()["state"]))
            except UserError as error:
                self.errors.append(str(error))
                time.sleep(0.05)


# -- loading ---------------------------------------------------------------------------------------------------------

def test_a_base_is_loaded_when_asked_and_once(idle, tiny):
    seen = list(idle.load(tiny["model"], dtype="bf16"))
    assert seen[0] == {"state": "fetching", "done": 0, "total": 0} and {"state": "loading"} in seen
    assert seen[-1] == {"state": "loaded", "dtype": "bf16", "device": "cpu"}
    assert idle.status()["model"] == tiny["model"] and idle.status()["state"] == "idle"
    assert list(idle.load(tiny["model"], dtype="bf16"))[-1] == seen[-1]


def test_what_cannot_be_loaded_is_one_line_and_leaves_the_old_model(idle, tiny, tmp_path):
    list(idle.load(tiny["model"]))
    (tmp_path / "config.json").write_text("{}")
    for model, dtype, words in (("", "auto", "name of a model"), (tiny["model"], "int3", "dtype"), (str(tmp_path), "auto", "safetensors"),
                                ("nowhere", "auto", "no such model")):
        with pytest.raises(UserError, match=words) as caught:
            list(idle.load(model, dtype=dtype))
        assert "\n" not in str(caught.value)
    assert idle.status()["model"] == tiny["model"]


def test_a_live_run_keeps_its_model(idle, tiny):
    idle.start("sft", sft(tiny, "keeps", steps=10_000, checkpoint_every=10_000))
    with pytest.raises(UserError, match="a run is live, and has the model"):
        list(idle.load("bundled"))


# -- runs ------------------------------------------------------------------------------------------------------------

def test_run_to_its_end_and_status(idle, home, tiny):
    path = idle.start("sft", sft(tiny))
    assert Path(path).parent == home / "runs" and Path(path).name.startswith("sft-2")
    run = finish(idle, path)
    assert run.status()["step"] == run.status()["total_steps"] == 6 and len(run.metrics()) == 6
    assert idle.status() == {"run": None, "state": "idle", "model": tiny["model"], "error": ""}
    other = idle.start("sft", sft(tiny))
    assert other != path
    finish(idle, other)


def test_chats_leave_training_bit_equal(idle, tiny):
    """PPO with gradient checkpointing and micro-batches, its policy and other adapters answering all the while, one answer or the best of
    three."""
    first = finish(idle, idle.start("sft", sft(tiny, "starts", checkpoint_every=1, keep_checkpoints=0)))
    finish(idle, idle.start("reward", {"model": tiny["model"], "data": tiny["reward"], "output": "judge", "steps": 2, "batch_size": 4,
                                       "max_tokens": 64, "max_new_tokens": 8, "reference_samples": 4, "lora_rank": 4}))
    quiet = finish(idle, idle.start("ppo", ppo(tiny, "quiet", adapter="starts")))
    run = idle.start("ppo", ppo(tiny, "chatty", adapter=str(first.path)))
    details = {"messages": HELLO, "model": tiny["model"], "max_new_tokens": 6, "seed": 1}
    chatters = [Chatter(idle, adapters=["chatty", "none"], **details)]
    chatters += [Chatter(idle, adapters=[f"starts@step-{n:06d}", f"starts@step-{n + 3:06d}"], **details) for n in (1, 2, 3)]
    chatters.append(Chatter(idle, adapters=["chatty", "starts@step-000001"], best_of=3, reward="judge", **details))
    finish(idle, run)
    for chatter in chatters:
        chatter.over = True
        chatter.join()
        assert any(state == "running" for _, state in chatter.new_events), chatter.errors
    assert numbers(quiet) == numbers(run)
    assert len(numbers(run)) == 3
    assert {tuple(answer) for answer, _ in chatters[1].new_events} == {tuple(chatters[1].new_events[0][0])}, "chats were disturbed by training"


def test_the_best_of_several_answers_is_the_one_that_the_reward_likes(idle, tiny, home):
    details = {"model": tiny["model"], "max_new_tokens": 10, "seed": 3}
    growing = list(idle.chat(["starts", "none"], HELLO, best_of=5, reward="judge", **details))
    backbone = Backbone.load(tiny["model"])
    for role in ("policy", "reward"):
        backbone.load_role(role, home / "runs" / {"policy": "starts", "reward": "judge"}[role] / "checkpoints" / "last" / role)
    prompt = encode_prompt(backbone.tokenizer, HELLO).ids
    for position, role in enumerate(("policy", None)):
        with backbone.use(role):
            answers = sample(backbone, [prompt] * 5, Sampling(10), seeded_generator(3))
        scores = score_all(backbone, [prompt + ids for ids in answers], batch=4)
        assert growing[-1][position] == text_of(backbone, answers[int(scores.argmax())])
        assert text_of(backbone, answers[0]).startswith(growing[0][position].rstrip("\ufffd")), "the first is shown as it grows"
    assert growing[-1] == last(idle.chat(["starts", "none"], HELLO, best_of=5, reward=str(home / "runs" / "judge"), **details))
    assert last(idle.chat(["starts"], HELLO, best_of=1, reward="judge", **details)) == last(idle.chat(["starts"], HELLO, **details))


@pytest.mark.parametrize(("changes", "message"), [
    ({"best_of": 0}, "best_of is 0"), ({"best_of": 99}, "from 1 to 16"), ({"best_of": 2.5}, "whole number"), ({"best_of": 3}, "no reward"),
    ({"best_of": 3, "reward": "judge", "temperature": 0}, "at temperature 0"), ({"best_of": 3, "reward": "score.py:f"}, "command line only"),
    ({"best_of": 3, "reward": "nowhere"}, "reward is nowhere: name a reward run folder"), ({"best_of": 3, "reward": "starts"}, "holds no reward adapter")])
def test_a_bad_best_of_is_one_line(idle, tiny, changes, message):
    with pytest.raises(UserError, match=message) as caught:
        last(idle.chat(**{"adapters": ["none"], "messages": HELLO, "model": tiny["model"]} | changes))
    assert "\n" not in str(caught.value)


def test_chats_answer_alike_when_idle(idle, tiny):
    details = {"model": tiny["model"], "max_new_tokens": 12}
    growing = list(idle.chat(["none", "starts"], HELLO, seed=3, **details))
    assert all(len(texts) == 2 for texts in growing)
    assert all(b.startswith(a) for before, after in zip(growing, growing[1:]) for a, b in zip(before, after))
    assert growing[-1] == last(idle.chat(["none", "starts"], HELLO, seed=3, **details))
    assert growing[-1][0] == last(idle.chat(["none"], HELLO, seed=3, **details))[0]
    assert last(idle.chat(["none"], HELLO, temperature=0, **details)) == last(idle.chat(["none"], HELLO, top_p=1e-6, **details))


def test_pause_step_resume_stop_and_resume_equals_uninterrupted(idle, tiny):
    whole = finish(idle, idle.start("sft", sft(tiny, "whole", steps=40)))
    path = idle.start("sft", sft(tiny, "parts", steps=40))
    idle.control("parts", "pause")
    run = Run(path)
    wait_for(lambda: run.status()["state"] == "paused")
    at = run.status()["step"]
    time.sleep(0.3)
    assert run.status()["step"] == at and idle.status()["state"] == "paused"
    assert last(idle.chat(["parts"], HELLO, model=tiny["model"], max_new_tokens=5, temperature=0))[0]
    idle.control(path, "step")
    wait_for(lambda: run.status()["step"] == at + 1 and run.status()["state"] == "paused")
    with pytest.raises(UserError, match="live"):
        idle.start("sft", sft(tiny))
    with pytest.raises(UserError, match="no command 'dance'"):
        idle.control(path, "dance")
    with pytest.raises(UserError, match="not the live run"):
        idle.control("whole", "stop")
    idle.control(path, "resume")
    wait_for(lambda: run.status()["step"] > at + 1)
    idle.control(path, "stop")
    finish(idle, path, "stopped")
    assert 0 < len(run.metrics()) < 40
    with pytest.raises(UserError, match="other settings"):
        idle.start("sft", {"output": "parts", "seed": 7}, resume=True)
    assert idle.start("sft", {"output": "parts"}, resume=True) == path
    finish(idle, path)
    assert numbers(run) == numbers(whole)
    with pytest.raises(UserError, match="done already"):
        idle.start("sft", {"output": "parts"}, resume=True)


def test_a_run_is_made_longer_live_and_when_it_is_done(idle, tiny):
    path = idle.start("sft", sft(tiny, "longer", steps=400))
    idle.control(path, "pause")
    run = Run(path)
    wait_for(lambda: run.status()["state"] == "paused")
    at = run.status()["step"]
    for steps, words in ((at, f"would end with step {at}, and has taken {at}"), (-1, "at least 0"), (at + 0.5, "a whole number"), (None, "needs a value")):
        with pytest.raises(UserError, match=words):
            idle.control(path, "steps", steps)
    idle.control(path, "steps", at + 2)
    wait_for(lambda: run.status()["total_steps"] == at + 2)
    idle.control(path, "resume")
    assert finish(idle, path).status()["step"] == at + 2
    for more, words in (({"steps": at + 2}, "done already"), ({"steps": at}, "would end with step"), ({"epochs": 50}, "set in steps")):
        with pytest.raises(UserError, match=words):
            idle.start("sft", {"output": "longer", **more}, resume=True)
        assert run.status()["state"] == "done" and idle.status()["run"] is None
    assert idle.start("sft", {"output": "longer", "steps": at + 5}, resume=True) == path
    assert finish(idle, path).status()["step"] == run.status()["total_steps"] == at + 5 == run.report()["steps"]
    assert [row["new"] for row in run.journal() if row["event"] == "changed"] == [at + 2, at + 5] and run.config()["steps"] == 400


def test_discard_removes_the_folder(idle, tiny):
    path = idle.start("sft", sft(tiny, "unwanted", steps=500))
    idle.control(path, "discard")
    wait_for(lambda: idle.status()["run"] is None)
    assert not Path(path).exists()


def test_failure_is_told_and_the_worker_lives(idle, tiny):
    path = idle.start("sft", sft(tiny, "broken", steps=500))
    idle.control(path, "pause")
    wait_for(lambda: Run(path).status()["state"] == "paused")
    (Path(path) / "metrics.jsonl").unlink(missing_ok=True)
    (Path(path) / "metrics.jsonl").mkdir()  # the next line cannot be written
    idle.control(path, "resume")
    status = finish(idle, path, "failed").status()
    assert "IsADirectoryError" in status["error"] and status["advice"]
    assert "IsADirectoryError" in idle.status()["error"]
    assert last(idle.chat(["none"], HELLO, model=tiny["model"], max_new_tokens=3))


# -- bad input -------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize(("changes", "message"), [
    ({"steps": -1}, "--steps is -1"), ({"no_such": 1}, "no setting 'no_such'"), ({"data": "missing.jsonl"}, "missing.jsonl"),
    ({"model": "/nowhere"}, "no such model"), ({"adapter": "nothing"}, "no such adapter"), ({"output": "/tmp/elsewhere"}, "not in"),
    ({"output": "../elsewhere"}, "not in"), ({"output": "runs/../../elsewhere"}, "not in"), ({"output": ".."}, "not in"),
    ({"output": ".hidden"}, "begin with a letter"), ({"output": "a\nb"}, "begin with a letter"),
])
def test_bad_settings_are_one_line(idle, home, tiny, changes, message):
    before = sorted(home.rglob("*"))
    with pytest.raises(UserError, match=message) as caught:
        idle.start("sft", sft(tiny, "bad") | changes)
    assert "\n" not in str(caught.value)
    assert sorted(home.rglob("*")) == before and idle.status()["run"] is None


def test_existing_output_symlinks_and_functions_are_refused(idle, home, tiny, tmp_path):
    (home / "runs" / "taken").mkdir(parents=True)
    (home / "runs" / "taken" / "letter.txt").write_text("mine")
    (home / "runs" / "way-out").symlink_to(tmp_path)
    (tmp_path / "score.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\ndef score(prompt, response): return 1.0\n")
    for output, message in (("taken", "not a run folder"), ("way-out", "not in")):
        with pytest.raises(UserError, match=message):
            idle.start("sft", sft(tiny, output), overwrite=True)
    with pytest.raises(UserError, match="command line only"):
        idle.start("ppo", ppo(tiny, "scored", reward=f"{tmp_path / 'score.py'}:score"))
    with pytest.raises(UserError, match="command line only"):
        idle.start("teach", {"model": str(tiny), "labeler": f"{tmp_path / 'score.py'}:score"})
    assert not (tmp_path / "ran").exists()
    with pytest.raises(UserError, match="no stage"):
        idle.start("dance", {})


def test_votes_are_replayed_from_runs_of_the_workspace_alone(idle, home, tiny, tmp_path):
    small = {"model": tiny["model"], "data": tiny["ppo"], "steps": 2, "batch_size": 4, "minibatches": 1, "max_tokens": 64,
             "max_new_tokens": 12, "lora_rank": 4, "reference_samples": 8, "votes": 4, "votes_first": 3, "candidates": 4, "ensemble": 2}
    first = finish(idle, idle.start("teach", {**small, "labeler": "long", "output": "voted"}))
    again = finish(idle, idle.start("teach", {**small, "labeler": "replay=voted", "learner": "dpo", "output": "again"}))
    learned = [[row["consumed"] for row in run.journal() if row["event"] == "reward"] for run in (first, again)]
    assert learned[0] == learned[1] and "win_rate" in again.report()
    shutil.copytree(first.path, tmp_path / "outside", symlinks=True)
    (home / "runs" / "link").symlink_to(tmp_path / "outside")
    for name in (str(tmp_path / "outside"), "link", "../runs/voted/../../outside", "nothing"):
        with pytest.raises(UserError, match="the workspace has no run of that name"):
            idle.start("teach", {**small, "labeler": f"replay={name}"})


@pytest.mark.parametrize(("changes", "message"), [
    ({"adapters": []}, "one to eight"), ({"messages": [{"role": "user"}]}, "messages"), ({"max_new_tokens": 0}, "max_new_tokens"),
    ({"temperature": -1}, "temperature"), ({"temperature": float("nan")}, "temperature"), ({"top_p": 0}, "top_p"), ({"seed": "x"}, "seed"),
    ({"adapters": ["nothing"]}, "no such adapter"), ({"adapters": ["bundled"]}, "belongs to"), ({"model": "/nowhere"}, "no such model"),
])
def test_bad_chats_are_one_line(idle, tiny, changes, message):
    with pytest.raises(UserError, match=message):
        last(idle.chat(**{"adapters": ["none"], "messages": HELLO, "model": tiny["model"]} | changes))


def test_damaged_adapter_is_refused_and_forgotten(idle, home, tiny):
    run = finish(idle, idle.start("sft", sft(tiny, "damaged", steps=1)))
    weights = run.path / "checkpoints" / "last" / "policy" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    for _ in range(2):
        with pytest.raises(UserError, match="invalid header length"):
            last(idle.chat(["damaged"], HELLO, model=tiny["model"]))


def test_another_model_waits_for_the_run(idle, tiny, tiny_gpt2):
    path = idle.start("sft", sft(tiny, "long", steps=500))
    with pytest.raises(UserError, match="the live run holds"):
        last(idle.chat(["none"], HELLO, model=str(tiny_gpt2)))
    idle.control(path, "discard")
    wait_for(lambda: idle.status()["run"] is None)
    assert last(idle.chat(["none"], HELLO, model=str(tiny_gpt2), max_new_tokens=4))
    assert idle.status()["model"] == str(tiny_gpt2)


def test_a_gguf_file_is_loaded_trained_and_chatted_with(idle, tiny, home):
    file = str(GGUF / "llama.gguf")
    *_, loaded = idle.load(file)
    assert loaded["state"] == "loaded" and loaded["base"].startswith(f"{file}: llama.gguf, unpacked in {home / 'gguf'}")
    run = finish(idle, idle.start("sft", sft(tiny, "from-gguf", model=file, steps=2)))
    assert run.journal()[0]["event"] == "base" and read_note(home) is None
    assert len(last(idle.chat(["none", "from-gguf"], HELLO, model=file, max_new_tokens=4))) == 2
    assert len(list((home / "gguf").glob("[!.]*"))) == 1  # converted once


def test_too_many_chats_are_told_and_those_hung_up_are_dropped(tmp_path):
    server = Server(tmp_path)  # a listener without a model behind it: nothing is ever answered
    server.announce()
    place = read_json(tmp_path / "worker.json")
    request = json.dumps({"do": "chat", "adapters": ["none"], "messages": HELLO}).encode()
    connections = [Client((place["host"], place["port"]), authkey=bytes.fromhex(place["authkey"])) for _ in range(MAX_CHATS)]
    for connection in connections:
        connection.send_bytes(request)
    wait_for(lambda: len(server.chats) == MAX_CHATS)
    with pytest.raises(UserError, match="busy"):
        last(Worker(tmp_path).chat(["none"], HELLO))
    for connection in connections:
        connection.close()
    wait_for(lambda: all(chat.abandoned for chat in server.chats))
    with Client((place["host"], place["port"]), authkey=bytes.fromhex(place["authkey"])) as connection:
        connection.send_bytes(request)
        wait_for(lambda: len(server.chats) == MAX_CHATS + 1)


def test_names_become_paths(tmp_path):
    (tmp_path / "runs" / "mine").mkdir(parents=True)
    mine = str(tmp_path / "runs" / "mine")
    for name, path in (("none", "none"), ("bundled", "bundled"), ("unknown", "unknown"), ("mine", mine), (mine, mine),
                       ("mine@step-000050", f"{mine}/checkpoints/step-000050"), ("../mine", "../mine"),
                       (f"{mine}@step-000050", f"{mine}/checkpoints/step-000050")):
        assert locate(tmp_path, name) == path
    names = [Path(resolve_output(tmp_path, "sft", "")) for _ in range(2)]
    names[0].mkdir()
    assert Path(resolve_output(tmp_path, "sft", "")) not in names[:1]


# -- connection ------------------------------------------------------------------------------------------------------

def test_key_is_required_and_private(idle, home):
    place = read_json(home / "worker.json")
    assert stat.S_IMODE((home / "worker.json").stat().st_mode) == 0o600
    with pytest.raises(AuthenticationError):
        Client((place["host"], place["port"]), authkey=b"a guess")
    with Client((place["host"], place["port"])) as silent:  # no handshake: our request is taken for an answer to the challenge
        silent.send_bytes(b'{"do": "shutdown"}')
        silent.recv_bytes()
        with pytest.raises(EOFError):
            while True:
                silent.recv_bytes()
    assert idle.status()["state"] == "idle"


@pytest.mark.parametrize("text", [b"not json", b"[]", b"{}", b'{"do": "dance"}', b'{"do": ["status"]}', b'{"do": "start"}', b"\xff\xfe",
                                  b'{"do": "chat", "adapters": 3, "messages": 4}', b'{"do": "control", "run": 1, "command": 2}',
                                  b'{"do": "status", "extra": 1}', b"[" * 100_000, b'{"do": "start", "stage": [], "config": {}}'])
def test_bad_requests_are_answered(idle, home, text):
    place = read_json(home / "worker.json")
    with Client((place["host"], place["port"]), authkey=bytes.fromhex(place["authkey"])) as connection:
        connection.send_bytes(text)
        assert "error" in json.loads(connection.recv_bytes())
    assert idle.status()["state"] == "idle"


def test_request_too_long(idle, home):
    with pytest.raises(UserError, match="bytes"):
        last(idle.chat(["none"], [{"role": "user", "content": "x" * MAX_REQUEST_BYTES}]))
    place = read_json(home / "worker.json")
    key = bytes.fromhex(place["authkey"])
    with contextlib.suppress(EOFError, OSError), Client((place["host"], place["port"]), authkey=key) as connection:
        connection.send_bytes(b"x" * (MAX_REQUEST_BYTES + 1))
        connection.recv_bytes()
    assert idle.status()["state"] == "idle"


# -- the process -----------------------------------------------------------------------------------------------------

def test_other_handles_find_the_same_worker(idle, home):
    pid = read_json(home / "worker.json")["pid"]
    second = Worker(home)
    second.ensure()
    assert second.alive() and second.status()["state"] == "idle"
    code = f"from rlhf_engine.worker.client import Worker; w = Worker({str(home)!r}); w.ensure(); print(w.status()['state'])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "idle"
    assert read_json(home / "worker.json")["pid"] == pid
    assert os.getsid(pid) == pid, "the worker would die with its page"


def test_kill_is_told_and_the_run_goes_on(idle, home, tiny):
    """kill -9 in mid-run: nobody shows it as running, and a new worker ends it as if nothing had been."""
    whole = finish(idle, idle.start("sft", sft(tiny, "unbroken", steps=60)))
    path = idle.start("sft", sft(tiny, "killed", steps=60))
    run = Run(path)
    wait_for(lambda: run.last_step() >= 4)
    pid = read_json(home / "worker.json")["pid"]
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: not idle.alive())
    assert run.status()["state"] == "failed" and "killed" in run.status()["error"] and run.status()["advice"]
    assert "no worker is running" in idle.status()["error"] and idle.status()["state"] == "idle"
    with pytest.raises(WorkerError, match="no worker is running"):
        idle.control(path, "stop")

    # Two pages find it dead at the same moment: one worker comes of it.
    handles = [Worker(home), Worker(home)]
    threads = [threading.Thread(target=handle.ensure) for handle in handles]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    assert all(handle.alive() for handle in handles)
    wait_for(lambda: len(workers(home)) == 1)

    assert handles[0].start("sft", {"output": "killed"}, resume=True) == path
    finish(handles[1], path)
    assert numbers(run) == numbers(whole)


def workers(home: Path) -> list[int]:
    found = []
    for process in psutil.process_iter(["pid", "cmdline", "status"]):
        if process.info["status"] != psutil.STATUS_ZOMBIE and str(home) in (process.info["cmdline"] or []):
            found.append(process.info["pid"])
    return found


def test_sigterm_saves_and_shutdown_leaves_nothing(idle, home, tiny):
    path = idle.start("sft", sft(tiny, "ended", steps=2000, checkpoint_every=1000))
    run = Run(path)
    wait_for(lambda: run.status()["step"] >= 3)
    pid = read_json(home / "worker.json")["pid"]
    os.kill(pid, signal.SIGTERM)
    wait_for(lambda: not idle.alive() and not psutil.pid_exists(pid))
    assert run.status()["state"] == "stopped" and run.last_step() == run.status()["step"] >= 3
    assert not (home / "worker.json").exists()

    idle.ensure()
    idle.start("sft", {"output": "ended"}, resume=True)
    pid = read_json(home / "worker.json")["pid"]
    idle.shutdown()
    assert run.status()["state"] == "stopped"
    assert not idle.alive() and not psutil.pid_exists(pid) and not workers(home)
    idle.shutdown()


def test_shutdown_kills_what_does_not_listen(idle, home):
    idle.ensure()
    pid = read_json(home / "worker.json")["pid"]
    wait_for(lambda: idle.status()["state"] == "idle")
    (child,) = [process for process in psutil.Process().children() if process.pid == pid]
    child.suspend()  # so it can neither obey nor end by itself
    idle.shutdown(timeout=0.5)
    assert not psutil.pid_exists(pid)


def test_stale_file_is_ignored(tmp_path):
    (tmp_path / "worker.json").write_text(json.dumps({"host": "127.0.0.1", "port": 1, "authkey": "00", "pid": os.getpid(), "born": 0.0}))
    assert not Worker(tmp_path).alive()
    (tmp_path / "worker.json").write_text("{")
    assert not Worker(tmp_path).alive()


# -- reports ---------------------------------------------------------------------------------------------------------

def test_a_report_is_made_between_runs_and_chats_go_on(idle, home, tiny):
    path = Path(finish(idle, idle.start("ppo", ppo(tiny, "reported", reward="long"))).path)
    states, answer = [], ""
    for status in idle.report(path.name):
        states.append(status["state"])
        if status["state"] == "measuring" and not answer:
            with pytest.raises(UserError, match="the report about reported is being made"):
                idle.start("sft", sft(tiny))
            answer = last(idle.chat(["reported"], HELLO, model=tiny["model"], max_new_tokens=4, seed=1))[0]
    assert states[0] == "waiting" and states[-1] == "done" and status["report"] == str(home / "reports" / "reported")
    report = read_json(home / "reports" / "reported" / "report.json")
    assert [row["name"] for row in report["judges"]] == ["long"] and (home / "reports" / "reported" / "report.html").exists()
    assert not answer or answer == last(idle.chat(["reported"], HELLO, model=tiny["model"], max_new_tokens=4, seed=1))[0]
    finish(idle, idle.start("sft", sft(tiny)))  # and the next run starts


@pytest.mark.parametrize(("details", "message"), [
    ({"adapter": ""}, "name of a run"), ({"adapter": "nowhere"}, "neither a run of the workspace"), ({"adapter": "/etc"}, "neither a run"),
    ({"adapter": "../data"}, "neither a run"), ({"adapter": "animals", "judges": ["x.py:f"]}, "command line only"),
    ({"adapter": "animals", "judges": ["judge=smollm2"]}, "command line only"), ({"adapter": "animals", "judges": ["nobody"]}, "--judge is nobody"),
    ({"adapter": "animals", "judges": list("abcde")}, "at most 4 judges")])
def test_bad_reports_are_one_line(idle, home, details, message):
    with pytest.raises(UserError, match=message) as caught:
        list(idle.report(**details))
    assert "\n" not in str(caught.value) and not (home / "reports" / "animals").exists()
