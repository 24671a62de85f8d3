"""The study of over-optimisation from the command line on a tiny model: end to end, resumed, stopped, refused."""

import json
import os
import shutil
import signal

import pytest

from rlhf_engine.studies import overoptimisation
from rlhf_engine.studies.pieces import Piece, plan, read_pieces
from rlhf_engine.studies.settings import StudySettings, parse_labels

SMALL = {"labels": "4,8", "seeds": 1, "steps": 4, "measurements": 2, "batch-size": 4, "prompts": 4, "per-prompt": 1, "samples": 4,
         "ensemble": 2, "proxy-steps": 2, "max-new-tokens": 8, "max-tokens": 100, "learning-rate": 0.01}


def flags(tiny_llama, inputs, output, **changes) -> list[str]:
    values = {"model": tiny_llama, "adapter": "none", "data": inputs / "prompts.jsonl", "gold": f"{inputs}/score.py:vowels",
              "output": output, **SMALL, **changes}
    return [part for name, value in values.items() if value is not None for part in (f"--{name}", value)]


def lines(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "pieces.jsonl").read_text().splitlines()]


def without_time(rows: list[dict]) -> list[dict]:
    return [{name: value for name, value in row.items() if "seconds" not in name} for row in rows]


@pytest.fixture(scope="module")
def study(tiny_llama, inputs, tmp_path_factory):
    """A finished study of two numbers of labels."""
    from rlhf_engine.cli import main
    folder = tmp_path_factory.mktemp("study") / "whole"
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    assert main(["overoptimisation", *map(str, flags(tiny_llama, inputs, folder))]) == 0
    for number, handler in handlers.items():
        signal.signal(number, handler)
    return folder


def test_a_study_measures_every_piece_and_reports_curves_fits_and_flags(study):
    report = json.loads((study / "report.json").read_text())
    assert report["study"] == "overoptimisation" and report["state"] == "done" and report["pieces"] == 6
    assert [(curve["kind"], curve["labels"]) for curve in report["curves"]] == [
        ("rl", 4), ("rl", 8), ("ensemble", 4), ("ensemble", 8), ("best_of", 4), ("best_of", 8)]
    for curve in report["curves"]:
        [run] = curve["runs"]
        assert run["points"][0]["kl"] == pytest.approx(0, abs=1e-4), "the first point is the start"
        assert curve["flags"] and curve["sentence"].endswith(".") and curve["rise_low"] <= curve["rise"] <= curve["rise_high"]
    rl, best = report["curves"][0], report["curves"][-1]
    assert [point["step"] for point in rl["runs"][0]["points"]] == [0, 1, 4], "denser at first"
    assert rl["runs"][0]["points"][-1]["kl"] > 0.01 and rl["runs"][0]["ended"] == "all steps"
    assert [point["n"] for point in best["runs"][0]["points"]] == [1, 2] and 0 <= best["proxy_accuracy"] <= 1
    assert all(point["kl"] <= point["kl_bound"] for point in best["runs"][0]["points"])
    assert best["runs"][0]["points"][1]["proxy"] >= best["runs"][0]["points"][0]["proxy"], "the best of two by the proxy"


def test_proxies_are_on_the_scale_of_the_start(study):
    """Best of one sample is the start, whose mean is 0; gold has deviation 1 on all samples."""
    for row in lines(study):
        if row["kind"] == "best_of":
            first = row["points"][0]
            assert abs(sum(first["gold"])) < 1e-2 and abs(sum(first["proxy"])) < 1e-2


def test_more_labels_begin_with_the_same_ones_and_compare_without_noise(study):
    rows = [json.loads(line) for line in (study / "labels" / "seed-0.jsonl").read_text().splitlines()]
    assert len(rows) == overoptimisation.LABEL_BLOCK, "whole blocks, whatever the number of labels"
    label = overoptimisation.Label(rows[0]["prompt"], tuple(rows[0]["responses"]), tuple(rows[0]["gold"]))
    assert label.ranking().ranks == ((1.0, 2.0) if label.gold[0] > label.gold[1] else (2.0, 1.0) if label.gold[0] < label.gold[1] else (1.0, 1.0))


def test_a_finished_study_is_not_done_again_and_may_grow(cli, tiny_llama, inputs, study, tmp_path, monkeypatch):
    before = lines(study)
    code, out, err = cli("overoptimisation", "--output", study, "--resume")
    assert code == 0 and "1 of" not in out.split("labels")[0] and lines(study) == before, err
    code, _, err = cli("overoptimisation", "--output", study, "--resume", "--steps", 6)
    assert code == 2 and "--steps is 6" in err and "has 4" in err
    code, _, err = cli("overoptimisation", *flags(tiny_llama, inputs, study))
    assert code == 2 and "--resume" in err and "--overwrite" in err


def test_a_study_that_was_killed_goes_on_with_the_piece_that_was_running(cli, tiny_llama, inputs, study, tmp_path, monkeypatch):
    """Killed in its second piece; its file ends in half a line, and labels and a proxy were not whole yet."""
    folder, calls = tmp_path / "killed", []
    optimise = overoptimisation.Study.best_of

    def killed(self, *args):
        calls.append(1)
        raise KeyboardInterrupt
    monkeypatch.setattr(overoptimisation.Study, "best_of", killed)
    few = flags(tiny_llama, inputs, folder, labels="4", ensemble=0)
    assert cli("overoptimisation", *few)[0] == 130
    assert [row["kind"] for row in lines(folder)] == ["rl"]
    assert json.loads((folder / "report.json").read_text())["state"] == "failed"
    with (folder / "pieces.jsonl").open("a") as file:
        file.write('{"labels": 4, "se')
    labels = folder / "labels" / "seed-0.jsonl"
    whole_labels = labels.read_text()
    labels.write_text(whole_labels[:250])  # two labels and a half: fewer than it needs
    shutil.rmtree(next((folder / "proxies").iterdir()))
    monkeypatch.setattr(overoptimisation.Study, "best_of", optimise)
    monkeypatch.setattr(overoptimisation.Study, "optimise", killed)  # it is done, so nobody calls it
    code, out, err = cli("overoptimisation", "--output", folder, "--resume")
    assert code == 0 and len(calls) == 1, err
    assert labels.read_text() == whole_labels, "half a block of labels is made anew, and is the same"
    done, whole = read_pieces(folder), read_pieces(study)
    for piece in (Piece(4, 0, "rl"), Piece(4, 0, "best_of")):
        assert without_time([done[piece]]) == without_time([whole[piece]]), "as if nothing had happened"


def test_sigterm_leaves_a_readable_report_and_says_how_to_go_on(cli, tiny_llama, inputs, tmp_path, monkeypatch):
    folder = tmp_path / "stopped"
    best_of = overoptimisation.Study.best_of

    def stop(self, *args):
        os.kill(os.getpid(), signal.SIGTERM)
        return best_of(self, *args)
    monkeypatch.setattr(overoptimisation.Study, "best_of", stop)
    code, out, err = cli("overoptimisation", *flags(tiny_llama, inputs, folder, labels="4", ensemble=0))
    report = json.loads((folder / "report.json").read_text())
    assert code == 0 and "--resume" in out and report["state"] == "stopped" and report["pieces"] == 1, err


def test_a_group_learner_may_optimise_the_proxy_and_a_far_run_ends_early(cli, tiny_llama, inputs, tmp_path):
    """The gold is a reward model, the start an adapter, and the first steps pass the limit on the KL."""
    from rlhf_engine.model.backbone import Backbone
    backbone = Backbone.load(str(tiny_llama))
    backbone.new_role("policy", seed=3)
    backbone.save_role("policy", tmp_path / "start")
    assert cli("reward", "--model", tiny_llama, "--adapter", "none", "--data", inputs / "pairs.jsonl", "--output", tmp_path / "gold", "--steps", 2,
               "--batch-size", 4, "--max-tokens", 100, "--max-new-tokens", 8, "--reference-samples", 8)[0] == 0
    code, _, err = cli("overoptimisation", *flags(tiny_llama, inputs, tmp_path / "study", labels="4", ensemble=0, learner="rloo", gold=tmp_path / "gold",
                                                  adapter=tmp_path / "start", **{"batch-size": 16, "learning-rate": 0.3, "kl-limit": 1, "steps": 8}))
    assert code == 0, err
    [run] = json.loads((tmp_path / "study" / "report.json").read_text())["curves"][0]["runs"]
    assert run["ended"].startswith("a KL of ") and run["points"][-1]["step"] < 8 and run["points"][0]["kl"] == pytest.approx(0, abs=1e-4)


# -- refusals ----------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("change, words", [
    ({"gold": "nothing.py:gold"}, "nothing.py: there is no such file"),
    ({"gold": "happiness"}, "--gold"),
    ({"labels": "50,many"}, "--labels is 'many'"),
    ({"labels": "1"}, "--labels has 1"),
    ({"labels": ","}, "--labels is ','"),
    ({"learner": "dpo"}, "--learner is 'dpo', but must be one of ppo, grpo, rloo"),
    ({"learner": "grpo"}, "--batch-size is 4, but grpo compares groups of 8"),
    ({"measurements": 9}, "--measurements is 9, more than the --steps (4)"),
    ({"samples": 1}, "--samples is 1, but must be at least 4"),
    ({"ensemble": -1}, "--ensemble is -1"),
    ({"spread-cost": "nan"}, "--spread-cost is 'nan'"),
    ({"kl-limit": 0}, "--kl-limit is 0"),
    ({"adapter": "nowhere"}, "nowhere"),
    ({"data": "nowhere.jsonl"}, "nowhere.jsonl"),
    ({"max-new-tokens": 100}, "--max-new-tokens"),
    ({"resume": None}, ""),
])
def test_bad_input_is_refused_before_anything_is_written(cli, tiny_llama, inputs, tmp_path, change, words):
    code, out, err = cli("overoptimisation", *flags(tiny_llama, inputs, tmp_path / "study", **change), *(["--resume"] if "resume" in change else []))
    assert code == 2 and err.count("\n") == 1 and words in err, (out, err)
    assert not (tmp_path / "study").exists()


def test_a_gold_that_tells_nothing_apart_is_refused_and_leaves_nothing(cli, tiny_llama, inputs, tmp_path):
    (tmp_path / "gold.py").write_text("def same(prompt, response):\n    return 3\n")
    code, _, err = cli("overoptimisation", *flags(tiny_llama, inputs, tmp_path / "study", gold=f"{tmp_path}/gold.py:same"))
    assert code == 2 and "same score (3)" in err and not (tmp_path / "study").exists(), err


def test_a_gold_that_has_changed_is_refused_by_name(cli, tiny_llama, inputs, tmp_path, study):
    stored = json.loads((study / "study.json").read_text())
    folder = tmp_path / "study"
    folder.mkdir()
    stored["inputs"]["gold"]["content"] = "another"
    (folder / "study.json").write_text(json.dumps(stored))
    code, _, err = cli("overoptimisation", "--output", folder, "--resume")
    assert code == 2 and "--gold" in err and "has changed" in err
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("mine")
    code, _, err = cli("overoptimisation", *flags(tiny_llama, inputs, tmp_path / "other"))
    assert code == 2 and "something else than a study" in err


# -- the plan ----------------------------------------------------------------------------------------------------------

def test_the_plan_does_whole_seeds_and_each_kind_for_all_labels():
    pieces = plan(StudySettings(labels=(50, 200), seeds=2, ensemble=0))
    assert pieces == [Piece(labels, seed, kind) for seed in (0, 1) for kind in ("rl", "best_of") for labels in (50, 200)]
    assert len(plan(StudySettings(labels=(50,), seeds=1, ensemble=3))) == 3


def test_labels_are_read_in_any_order_and_once():
    assert parse_labels("1000, 50 50,200") == (50, 200, 1000)
