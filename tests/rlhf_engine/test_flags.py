"""Every flag that a message, a help text or the documentation names exists, for the command that it is about."""

import argparse
import ast
import json
import re
from pathlib import Path

import pytest

from rlhf_engine.arguments import make_parser
from rlhf_engine.commands import COMMANDS
from rlhf_engine.config import LARGEST_SEED, RunConfig
from rlhf_engine.spelling import FOREIGN, closest
from rlhf_engine.stages import STAGES
from tests.test_house import ROOT

FLAG = re.compile(r"(?<![\w-])--[a-z][a-z0-9]*(?:-[a-z0-9]+)*")
FLAGS_OF = {
    command: set(parser._option_string_actions)
    for action in make_parser(COMMANDS)._actions if isinstance(action, argparse._SubParsersAction) for command, parser in action.choices.items()}
TRAIN = tuple(STAGES)
ABOUT = {
    "rlhf_engine/data": (*TRAIN, "evaluate"), "rlhf_engine/runs/folder.py": TRAIN, "rlhf_engine/runs/start.py": ("sft", "ppo", "teach", "reward"),
    "rlhf_engine/trainers/failures.py": TRAIN, "rlhf_engine/trainers/policy.py": ("ppo", "teach"), "rlhf_engine/trainers/ppo.py": ("ppo", "teach"),
    "rlhf_engine/rollout": ("ppo", "teach"), "rlhf_engine/trainers/sft.py": ("sft",), "rlhf_engine/trainers/reward.py": ("reward",),
    "rlhf_engine/teach": ("teach",), "rlhf_engine/feedback/llm_judge.py": ("teach",), "rlhf_engine/feedback/scoring_functions.py": ("teach",),
    "rlhf_engine/export": ("export",), "rlhf_engine/model": (*TRAIN, "chat", "evaluate"), "rlhf_engine/files.py": (*TRAIN, "evaluate", "export"),
}
"""What the messages of a file or a folder are about: each flag in them exists for all of these commands."""
OTHER_COMMANDS = ("--max-new-tokens", "--reward", "--judge")
"""Flags that such a message may name although not all of its commands have them: SFT does not sample, and an export says what its folder is for."""
NOT_OURS = {"--outfile", "--help", "--private", "--format", "--mutations", "--local-dir", "--no-deps"}
"""Flags of other programs, in commands that we tell a user to run, of the fuzzer in tests/, and argparse's own."""


def texts(file: Path) -> list[str]:
    """All string constants of a Python file, those inside of f-strings, too; without the CSS and HTML in them."""
    nodes = ast.walk(ast.parse(file.read_text(encoding="utf-8")))
    return [node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)]


def commands_of(file: Path) -> tuple[str, ...]:
    name = file.relative_to(ROOT).as_posix()
    keys = [key for key in ABOUT if name == key or name.startswith(f"{key}/")]
    return ABOUT[max(keys, key=len)] if keys else ()


def is_css(text: str, flag: str) -> bool:
    return f"var({flag}" in text or re.search(rf"{flag}[\w-]*\s*:", text) is not None


@pytest.mark.parametrize("package", ["rlhf_engine", "playground"])
def test_every_flag_in_a_message_exists(package):
    known, wrong = set.union(*FLAGS_OF.values()) | NOT_OURS, []
    for file in sorted((ROOT / package).rglob("*.py")):
        for text in texts(file):
            for flag in FLAG.findall(text):
                if is_css(text, flag):
                    continue
                lacking = [command for command in commands_of(file) if flag not in FLAGS_OF[command] and flag not in OTHER_COMMANDS]
                if flag not in known or (lacking and flag not in NOT_OURS):
                    wrong.append(f"{file.relative_to(ROOT)}: {flag} ({', '.join(lacking) or 'no command'} has it not) in {text[:60]!r}")
    assert wrong == []


@pytest.mark.parametrize("package", ["rlhf_engine", "playground"])
def test_no_message_gives_a_switch_a_value(package):
    switches = {flag for options in FLAGS_OF.values() for flag in options if f"--no-{flag[2:]}" in options}
    pattern = re.compile(rf"({'|'.join(switches)})[ =](true|false|0|1|yes|no)\b", re.I)
    assert switches and [str(file) for file in (ROOT / package).rglob("*.py") for text in texts(file) if pattern.search(text)] == []


def command_lines(text: str) -> list[tuple[str, str]]:
    """(command, the rest of the line) of each call of the engine in a text."""
    return re.findall(r"python -m rlhf_engine +([a-z-]+)((?:[^\n\\#]|\\\n)*)", text)


def documents() -> list[Path]:
    return [ROOT / "README.md", ROOT / "benchmarks" / "README.md", ROOT / "assets" / "README.md", ROOT / "tests" / "RULES.md",
            *sorted((ROOT / "notebooks").glob("*.ipynb")), *sorted((ROOT / "playground").rglob("text.py"))]


@pytest.mark.parametrize("file", documents(), ids=lambda file: file.relative_to(ROOT).as_posix())
def test_every_command_line_in_the_documentation_is_one(file):
    text = file.read_text(encoding="utf-8")
    if file.suffix == ".ipynb":
        text = "\n".join("".join(cell["source"]) for cell in json.loads(text)["cells"])
    for command, rest in command_lines(text):
        if command != "COMMAND":
            assert command in FLAGS_OF and set(FLAG.findall(rest)) <= FLAGS_OF[command], (command, rest)


def test_every_flag_in_the_readme_exists():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert set(FLAG.findall(text)) <= set.union(*FLAGS_OF.values()) | NOT_OURS


# -- flags that are spelled in another way ----------------------------------------------------------------------------

@pytest.mark.parametrize(("command", "args", "meant"), [
    ("sft", ["--batch_size", 8], "--batch-size"), ("sft", ["--max_tokens=64"], "--max-tokens"), ("sft", ["--lr", "1e-3"], "--learning-rate"),
    ("sft", ["--learnign-rate", "1e-3"], "--learning-rate"), ("sft", ["--BATCH-SIZE", 8], "--batch-size"), ("sft", ["\u2014steps", 3], "--steps"),
    ("sft", ["-steps", 3], "--steps"), ("sft", ["--num_train_epochs", 3], "--epochs"), ("sft", ["--output_dir", "x"], "--output"),
    ("ppo", ["--normalize-reward"], "--normalise-reward"), ("ppo", ["--no_guard"], "--no-guard"), ("ppo", ["--beta", 0.1], "--kl-coef"),
    ("reward", ["--lora_r", 8], "--lora-rank"), ("teach", ["--labeller", "short"], "--labeler"), ("chat", ["--promt", "x"], "--prompt"),
    ("evaluate", ["--againts", "none"], "--against"), ("export", ["--out", "x"], None), ("export", ["--model_name_or_path", "x"], "--model")])
def test_a_flag_that_is_spelled_in_another_way_is_told_the_right_one(cli, command, args, meant):
    code, _, err = cli(command, *args)
    assert code == 2 and err.count("\n") == 1 and "Traceback" not in err
    assert meant is None or f"did you mean {meant}?" in err


def test_a_flag_like_no_other_is_named_without_a_guess(cli):
    code, _, err = cli("sft", "--xyzzy", 3)
    assert code == 2 and "sft has no flag --xyzzy; see" in err


def test_a_switch_takes_no_value(cli):
    assert "takes no value" in cli("ppo", "--guard", "false")[2]
    assert "--guard or --no-guard is a switch" in cli("ppo", "--guard=false")[2]


@pytest.mark.parametrize("prompt", ["\u2014Hello", "-ok then", "a --batch_size b"])
def test_a_text_with_dashes_is_no_flag(cli, prompt):
    assert "has no flag" not in cli("chat", "--prompt", prompt, "--model", "./nowhere")[2]


def test_an_unknown_setting_in_a_file_is_told_the_right_one(cli, tmp_path):
    (tmp_path / "c.yaml").write_text("batch-size: 8\n")
    assert "did you mean batch_size?" in cli("sft", "--config", tmp_path / "c.yaml", "--output", tmp_path / "run")[2]


def test_names_of_other_tools_lead_to_names_that_exist():
    """`beta` is kl_coef to ppo and a setting of dpo's own: no command has both."""
    commands = [{flag.removeprefix("--").replace("-", "_") for flag in options} for options in FLAGS_OF.values()]
    assert set(FOREIGN.values()) <= set().union(*commands)
    assert not [pair for names in commands for pair in FOREIGN.items() if set(pair) <= names]
    assert closest("zebra", ["steps", "seed"]) is None


# -- seeds ------------------------------------------------------------------------------------------------------------

def test_seeds_of_64_bits(cli, tmp_path, tiny_llama, inputs):
    """Nanoseconds since 1970 are a usual seed, and twice the largest is more than torch takes."""
    for seed in (1_790_000_000_123_456_789, LARGEST_SEED):
        assert RunConfig(seed=seed).validate().seed == RunConfig(seed=str(seed)).validate().seed == seed
        model = ["--model", tiny_llama, "--seed", seed, "--max-new-tokens", 4, "--adapter", "none"]
        score = f"{inputs / 'score.py'}:length"
        small = ["--data", inputs / "prompts.jsonl", "--limit", 4, "--output", tmp_path / f"e{seed}"]
        assert cli("evaluate", *model, *small, "--against", "none", "--judge", score)[0] == 0
    code, _, err = cli("teach", *model, "--data", inputs / "prompts.jsonl", "--labeler", score, "--output", tmp_path / "run", "--steps", 1,
                       "--batch-size", 4, "--votes", 2, "--votes-first", 2, "--candidates", 4, "--reference-samples", 4)
    assert code == 0, err


@pytest.mark.parametrize("command", ["sft", "chat"])
@pytest.mark.parametrize("seed", [LARGEST_SEED + 1, -1])
def test_a_seed_out_of_range_is_told_the_range(cli, command, seed):
    code, _, err = cli(command, f"--seed={seed}", *(["--output", "x"] if command == "sft" else ["--prompt", "x"]))
    assert code == 2 and ("at least 0" in err or str(LARGEST_SEED) in err)
