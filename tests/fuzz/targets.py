"""What can be spoiled: each target spoils one good input of a case's folder and names the command line that reads it."""

import contextlib
import csv
import gzip
import io
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

from rlhf_engine import config as configs
from rlhf_engine.stages import STAGES
from tests.fuzz import mutations
from tests.fuzz.inputs import COMMANDS, SETTINGS, command, data_rows, flags_of

Target = Callable[[random.Random, Path], tuple[list[str], str]]
"""(random numbers, a folder of good inputs to spoil) -> (command line, what was done)."""
ALL_FLAGS = sorted({configs.flag(name) for stage in STAGES.values() for name in configs.field_types(stage.config)}
                   | {"--judge", "--against", "--prompt", "--limit", "--per-prompt", "--merge", "--push", "--nonsense"})


def reader(rng: random.Random, names: list[str]) -> list[str]:
    """One of several commands."""
    name = rng.choice(names)
    return list(COMMANDS[name]) if name in COMMANDS else command(name)


def spoil(rng: random.Random, path: Path, mutate: Callable[[random.Random, bytes], tuple[bytes, str]]) -> str:
    """Change the content of a file, or now and then what it is."""
    name = "/".join(path.parts[-2:])
    what = rng.randrange(60)
    if what == 0:
        path.unlink()
        return f"{name}: is missing"
    if what == 1:
        path.unlink()
        path.mkdir()
        return f"{name}: is a folder"
    if what == 2:
        path.unlink()
        path.symlink_to(path.name)
        return f"{name}: is a link to itself"
    if what == 3:
        others = [other for other in sorted(path.parent.iterdir()) if other.is_file() and other != path]
        if others:
            other = rng.choice(others)
            shutil.copyfile(other, path)
            return f"{name}: is a copy of {other.name}"
    data, words = mutate(rng, path.read_bytes())
    path.unlink()
    path.write_bytes(data)
    return f"{name}: {words}"


# -- the model and the adapter ---------------------------------------------------------------------------------------------

def model_config(rng: random.Random, folder: Path) -> tuple[list[str], str]:
    return reader(rng, ["sft", "chat", "ppo", "reward", "evaluate", "merge"]), spoil(rng, folder / "model" / "config.json", mutations.mutate_json)


def generation_config(rng: random.Random, folder: Path) -> tuple[list[str], str]:
    return reader(rng, ["sft", "chat", "merge"]), spoil(rng, folder / "model" / "generation_config.json", mutations.mutate_json)


def tokenizer(rng: random.Random, folder: Path) -> tuple[list[str], str]:
    name = rng.choice(["tokenizer.json", "tokenizer_config.json", "tokenizer_config.json", "chat_template.jinja"])
    mutate = mutations.mutate_json if name.endswith("json") else mutate_template
    return reader(rng, ["sft", "chat", "reward", "export"]), spoil(rng, folder / "model" / name, mutate)


TEMPLATES = ("", "{{ messages }}", "{% for m in messages %}{{ m.nothing }}{% endfor %}", "{{ 1 / 0 }}", "{% for %}", "{{ raise_exception('only users') }}", "{{ messages[0]['content'] | nothing }}", "{% include 'x' %}",
             "{{ ''.__class__.__mro__ }}", "{% for i in range(10 ** 9) %}{% endfor %}", "{{ messages[5]['content'] }}", "static", "{% if messages[-1]['role'] != 'user' %}{{ raise_exception('last must be user') }}{% endif %}{{ messages[-1]['content'] }}",
             "{% for m in messages %}{{ m['content'][0]['text'] }}{% endfor %}", "{% for m in messages %}{{ m['content'] | upper }}{% endfor %}", "{{ bos_token }}{{ eos_token * 100000 }}")


def mutate_template(rng: random.Random, data: bytes) -> tuple[bytes, str]:
    if rng.random() < 0.5:
        return mutations.mutate_bytes(rng, data)
    text = rng.choice(TEMPLATES)
    return text.encode(), f"is {text!r}"


def weights(rng: random.Random, folder: Path) -> tuple[list[str], str]:
    return reader(rng, ["sft", "chat", "merge"]), spoil(rng, folder / "model" / "model.safetensors", mutations.mutate_safetensors)


def adapter_config(rng: random.Random, folder: Path) -> tuple[list[str], str]:
    argv = reader(rng, ["chat", "evaluate", "export", "merge", "sft", "ppo"])
    if argv[0] in STAGES:
        argv += ["--adapter", "adapter"]
    return argv, spoil(rng, folder / "adapter" / "adapter_config.json", mutations.mutate_json)


def adapter_files(rng: random.Random, folder: Path) -> tuple[list[str], str]:
    argv = reader(rng, ["chat", "evaluate", "export", "merge", "sft", "ppo"])
    if argv[0] in STAGES:
        argv += ["--adapter", "adapter"]
    if rng.random() < 0.3:
        return argv, spoil(rng, folder / "adapter" / "base.json", mutations.mutate_json)
    return argv, spoil(rng, folder / "adapter" / "adapter_model.safetensors", mutations.mutate_safetensors)


def reward_run(rng: random.Random, folder: Path) -> tuple[list[str], str]:
    """A reward run of which something is spoiled, as the reward of PPO or the judge of an evaluation."""
    argv = command("ppo", reward="runs-reward")
    if rng.random() < 0.4:
        argv = list(COMMANDS["evaluate"])
        argv[argv.index("--judge") + 1] = "runs-reward"
    return argv, spoil_run(rng, folder / "runs-reward")


def resume(rng: random.Random, folder: Path) -> tuple[list[str], str]:
    """A run of which something is spoiled, and that is to go on, to be replaced or to be exported."""
    more = rng.choice([["--resume", "--steps", "2"], ["--resume", "--steps", "2"], ["--resume"], ["--overwrite"]])
    argv = ["sft", "--output", "runs-sft", *more]
    if more == ["--overwrite"]:
        argv = command("sft", output="runs-sft") + more
    if rng.random() < 0.15:
        argv = ["export", "--model", "model", "--adapter", "runs-sft", "--output", "out"]
    return argv, spoil_run(rng, folder / "runs-sft")


def spoil_run(rng: random.Random, run: Path) -> str:
    """Spoil one file of a run folder."""
    files = [file for file in sorted(run.rglob("*")) if file.is_file() and not file.is_symlink()]
    weight = {".safetensors": 1, ".json": 2, ".jsonl": 2, ".yaml": 4}
    file = rng.choices(files, [weight.get(file.suffix, 1) for file in files])[0]
    if rng.random() < 0.08:
        last = run / "checkpoints" / "last"
        last.unlink()
        with contextlib.suppress(IndexError):
            last.symlink_to(rng.choice(["step-000009", ".", "last", "../..", "/"]))
        return f"{run.name}/checkpoints/last leads elsewhere"
    mutate = {".safetensors": mutations.mutate_safetensors, ".json": mutations.mutate_json, ".yaml": mutate_yaml_bytes}.get(file.suffix, mutate_lines)
    return spoil(rng, file, mutate)


def mutate_yaml_bytes(rng: random.Random, data: bytes) -> tuple[bytes, str]:
    import yaml
    return mutations.mutate_yaml(rng, yaml.safe_load(data))


def mutate_lines(rng: random.Random, data: bytes) -> tuple[bytes, str]:
    """One line of a .jsonl file, or its bytes."""
    lines = [line for line in data.split(b"\n") if line]
    if rng.random() < 0.3 or not lines:
        return mutations.mutate_bytes(rng, data)
    at = rng.randrange(len(lines))
    lines[at], words = mutations.mutate_json(rng, lines[at])
    return b"\n".join(lines) + b"\n", f"row {at + 1}: {words}"


# -- data --------------------------------------------------------------------------------------------------------------------

def data(rng: random.Random, folder: Path) -> tuple[list[str], str]:
    """Rows of a format in some kind of file: one row, every row, or the file is spoiled."""
    name, (stage, rows) = rng.choice(list(data_rows().items()))
    if rng.random() < 0.1:
        stage = rng.choice(["sft", "reward", "ppo", "teach"])
    words = "rows"
    what = rng.random()
    if what < 0.45:
        at = rng.randrange(len(rows))
        rows[at], words = mutations.mutate_tree(rng, rows[at])
        words = f"row {at + 1}: {words}"
    elif what < 0.75:
        seed = rng.random()
        spoiled = [mutations.mutate_tree(random.Random(seed), row) for row in rows]
        rows, words = [row for row, _ in spoiled], f"every row: {spoiled[0][1]}"
    ending = rng.choice([".jsonl", ".jsonl", ".json", ".csv", ".parquet", ".jsonl.gz", ".txt", ".JSONL", ""])
    content, ending = rows_as(rows, ending)
    if what >= 0.75:
        content, words = mutations.mutate_bytes(rng, content)
    path = folder / "data" / f"mine{ending}"
    path.write_bytes(content)
    argv = command(stage, data=f"data/mine{ending}")
    if rng.random() < 0.1:
        argv += rng.choice([["--subset", "x"], ["--split", "test"], ["--limit", "1"], ["--limit", "100000000000000000000"]])
    return argv, f"{name}{ending}: {words}"


def rows_as(rows: list, ending: str) -> tuple[bytes, str]:
    """Rows as the content of a file with this ending. What cannot be such a file becomes JSON lines."""
    lines = b"".join(mutations.json_bytes(row) + b"\n" for row in rows)
    if ending == ".json":
        return mutations.json_bytes(rows), ending
    if ending == ".jsonl.gz":
        return gzip.compress(lines), ending
    if ending == ".csv" and all(isinstance(row, dict) for row in rows):
        text = io.StringIO(newline="")
        names = list(dict.fromkeys(str(name) for row in rows for name in row))
        writer = csv.writer(text)
        writer.writerow(names)
        writer.writerows([[cell if isinstance(cell := row.get(name), str) else json.dumps(cell) for name in names] for row in rows])
        return text.getvalue().encode("utf-8", "surrogatepass"), ending
    if ending == ".parquet":
        with contextlib.suppress(Exception):  # not every row fits into a table
            import pyarrow
            from pyarrow import parquet
            sink = io.BytesIO()
            parquet.write_table(pyarrow.Table.from_pylist(rows), sink)
            return sink.getvalue(), ending
    return lines, ".jsonl" if ending in (".csv", ".parquet") else ending


SCORES = ("", "import nothing\n", "def length(prompt, response): return None\n", "def length(prompt, response): return float('nan')\n", "def length(prompt, response): return 'good'\n", "def length(prompt, response): return 1\n",
          "def length(prompt, response): raise KeyError(response)\n", "def length(prompt): return 1.0\n", "length = 5\n", "class length: pass\n", "def length(prompt, response): return 10 ** 400\n",
          "def length(prompt, response): return 1e308 * len(response)\n", "def length(prompt, response):\n  import sys\n  sys.exit(3)\n", "raise SystemExit(4)\n", "def length(prompt, response): return [1]\n", "def length(p, r): return len(r) % 3\n",
          "def length(*, prompt, response): return 1.0\n", "async def length(prompt, response): return 1.0\n", "def length(prompt, response): raise MemoryError\n",
          "import random\nrandom.seed(0)\ndef length(prompt, response): return 1e300 * len(response)\n", "def length(prompt, response): return complex(1, 2)\n", "def length(prompt, response): return True\n", "def length(prompt, response): return -float('inf') if response else 0.0\n")


def scoring_function(rng: random.Random, folder: Path) -> tuple[list[str], str]:
    argv = rng.choice([command("ppo"), command("teach", labeler="score.py:length"), list(COMMANDS["evaluate"])])
    if rng.random() < 0.3:
        return argv, spoil(rng, folder / "score.py", mutations.mutate_bytes)
    text = rng.choice(SCORES)
    (folder / "score.py").write_text(text)
    return argv, f"score.py: is {text!r}"


# -- settings ------------------------------------------------------------------------------------------------------------------

def yaml_file(rng: random.Random, folder: Path) -> tuple[list[str], str]:
    stage = rng.choice(list(SETTINGS))
    content, words = mutations.mutate_yaml(rng, {"stage": stage, **SETTINGS[stage]})
    (folder / "mine.yaml").write_bytes(content)
    more = flags_of(SETTINGS[stage])  # a file without these settings would start a long run on the bundled model
    if rng.random() < 0.2:
        del more[more.index("--output"):more.index("--output") + 2]
    return [stage, "--config", "mine.yaml", *more], f"{stage}.yaml {words}"


def command_line(rng: random.Random, folder: Path) -> tuple[list[str], str]:
    name = rng.choice([*SETTINGS, *COMMANDS])
    argv = list(COMMANDS[name]) if name in COMMANDS else command(name)
    words = []
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        argv, what = mutations.mutate_arguments(rng, argv, ALL_FLAGS)
        words.append(what)
        if len(argv) < 3:
            break
    return argv, f"{name}: {'; '.join(words)}"


EDGES = (0, 1, -1, 2, 3, 10**9, 2**31, 2**53, 2**63 - 1, 2**63, 2**64, 10**20, 10**30, -10**9, 0.0, -0.0, 0.5, 1.5, 1e-8, 1e-45, 1e6, 1e30, 1e308, -1e308, "nan", "inf", "-inf", "1e400", "1_0", " 1 ", "１", "٣", "0x1", "1.0", "1e0", "", "true")


def setting(rng: random.Random, folder: Path) -> tuple[list[str], str]:
    """One setting of a stage, or one number of another command, at a strange edge; now and then two settings."""
    if rng.random() < 0.2:
        argv = list(COMMANDS[rng.choice(["chat", "evaluate"])])
        name = rng.choice([word for word in argv if word in ("--max-new-tokens", "--seed", "--limit", "--per-prompt")] + ["--temperature"])
        value = str(rng.choice(EDGES))
        argv += ["--temperature", value] if name not in argv else []
        argv[argv.index(name) + 1] = value
        return argv, f"{argv[0]}: {name} {value}"
    stage = rng.choice(list(SETTINGS))
    changes = {}
    for _ in range(rng.choice([1, 1, 2])):
        name = rng.choice([name for name, kind in configs.field_types(STAGES[stage].config).items() if kind is not bool and name != "output"])
        numeric = configs.field_types(STAGES[stage].config)[name] in (int, float)
        changes[name] = rng.choice(EDGES) if numeric or rng.random() < 0.3 else mutations.as_argument(rng.choice(mutations.TEXTS))
    return command(stage, **changes), f"{stage}: {changes}"


def places(rng: random.Random, folder: Path) -> tuple[list[str], str]:
    """Paths that are not what they should be."""
    stage = rng.choice(list(SETTINGS))
    name = rng.choice(["output", "model", "adapter", "data", "config", "reward"])
    value = rng.choice(["model", "data", "data/pairs.jsonl", "score.py", "sft.yaml", "runs-sft", "runs-reward", "runs-sft/checkpoints/last", "runs-sft/checkpoints", "runs-sft/config.yaml", "adapter/adapter_config.json", "/dev/null", "/dev/null/x",
                        "/proc/self", ".", "..", "", " ", "a/b", "a/b/c", "~/x", "~root/x", "out/deep/er", "x" * 300, "x/" * 3000, "é漢字", "\ud800", "-x", "out\n", "loop", "nowhere", "empty", "bundled", "none", "auto", "https://example.com/x",
                        "file:///etc/passwd", "hf://a/b", "C:\\models\\x", "model/", "./model", "model/config.json", "model/model.safetensors"])
    (folder / "loop").symlink_to("loop")
    (folder / "nowhere").symlink_to("gone")
    (folder / "empty").mkdir()
    argv = command(stage)
    if rng.random() < 0.3:
        argv = list(COMMANDS[rng.choice(list(COMMANDS))])
        name = rng.choice(["output", "model", "adapter", "data", "judge", "against"])
    value = mutations.as_argument(value)
    if f"--{name}" in argv:
        argv[argv.index(f"--{name}") + 1] = value
    else:
        argv += [f"--{name}", value]
    if rng.random() < 0.15:
        argv += [rng.choice(["--overwrite", "--resume"])]
    return argv, f"{argv[0]}: --{name} {mutations.shown(value)} {argv[-1] if argv[-1] in ('--overwrite', '--resume') else ''}"


TARGETS: dict[str, tuple[Target, int]] = {
    "config.json": (model_config, 12), "generation_config.json": (generation_config, 3), "tokenizer": (tokenizer, 10), "model.safetensors": (weights, 6),
    "adapter_config.json": (adapter_config, 10), "adapter files": (adapter_files, 6), "reward run": (reward_run, 5), "resume": (resume, 10),
    "data": (data, 20), "scoring function": (scoring_function, 3), "yaml": (yaml_file, 12), "command line": (command_line, 12), "setting": (setting, 14), "places": (places, 8)}
"""Name -> (target, how often it is drawn)."""

