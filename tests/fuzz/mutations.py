"""Mutations of values, JSON, YAML, command lines and bytes. All are drawn from a `random.Random`, and each says in words what it did."""

import copy
import gzip
import json
import random
from typing import Any

import yaml

DEEP: Any = []
for _ in range(300):
    DEEP = [DEEP]
NUMBERS = (0, 1, -1, 2, 7, 10**9, -10**9, 2**31, 2**63, 2**64, 10**30, 10**400, 0.5, -0.5, 1.0, 2.5, 1e-30, 1e30, 1e308, -1e308, float("nan"), float("inf"), -float("inf"))
TEXTS = ("", " ", "a", "0", "1", "-1", "1e5", "0x10", "nan", "None", "null", "true", "é漢字🎉", "\u202eabc", "\x00", "a\x00b", "\x1b[31m", "\ud800", "a\nb", "a\r\nb", "\t",
         "x" * 20_000, "../../etc/passwd", "/dev/null", "/proc/nothing", "~", "~nobody/x", "a/b", "a/b/c", "./a", "model", "data/prompts.jsonl", "-", "--", "--steps", "=", "a=b", "<b>", "{{ 7 * 7 }}",
         "{% for %}", "%s%n", "$HOME", "a b", "a,b", "a:b", "file.py:function", "score.py:nothing", "judge=", "keyword=", "replay=", "all-linear", ".*", "(", "[", "\\", "'", '"')
CONTAINERS = ([], [[]], [None], [1, 2, 3], ["a", 1], {}, {"a": 1}, {"role": "user"}, [{"role": "user", "content": None}], DEEP)


def strange_value(rng: random.Random) -> Any:
    """A value that somebody may have put where another one belongs."""
    kind = rng.randrange(10)
    if kind < 1:
        return None
    if kind < 2:
        return rng.random() < 0.5
    if kind < 5:
        return rng.choice(NUMBERS)
    if kind < 8:
        return rng.choice(TEXTS)
    return copy.deepcopy(rng.choice(CONTAINERS))


def shown(value: Any) -> str:
    """A value in few characters."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:60]}... ({len(text)} characters)"


# -- trees ---------------------------------------------------------------------------------------------------------------

def walk(rng: random.Random, tree: Any) -> tuple[Any, Any, str]:
    """(a container in the tree, a key of it, the path in words). The tree is a dict or a list that is not empty."""
    parent, path = tree, "$"
    while True:
        key = rng.choice(list(parent) if isinstance(parent, dict) else range(len(parent)))
        path += f".{shown(key)}"
        child = parent[key]
        if not isinstance(child, dict | list) or not child or rng.random() < 0.3:
            return parent, key, path
        parent = child


def mutate_tree(rng: random.Random, tree: Any) -> tuple[Any, str]:
    """The tree with one thing changed."""
    tree = copy.deepcopy(tree)
    if not isinstance(tree, dict | list) or not tree or rng.random() < 0.02:
        value = strange_value(rng)
        return value, f"all of it = {shown(value)}"
    parent, key, path = walk(rng, tree)
    old, what = parent[key], rng.randrange(9)
    if what == 0:
        del parent[key]
        return tree, f"without {path}"
    if what == 1 and isinstance(parent, dict):
        new = rng.choice([str(key) + "x", str(key).upper(), str(key).replace("_", "-"), " " + str(key), str(key) + "\u200b", ""])
        parent[new] = parent.pop(key)
        return tree, f"{path} renamed to {shown(new)}"
    if what == 2:
        parent[key] = rng.choice([[old], {"a": old}, [old, old], str(old), json.dumps(old, default=str)])
        return tree, f"{path} = {shown(parent[key])}"
    if what == 3 and len(parent) > 1:
        other = rng.choice(list(parent) if isinstance(parent, dict) else range(len(parent)))
        parent[key], parent[other] = parent[other], parent[key]
        return tree, f"{path} swapped with {shown(other)}"
    if what == 4 and isinstance(parent, dict):
        name, value = rng.choice(["extra", "auto_map", "__class__", "stage", "data", "prompt", "type", "version", ""]), strange_value(rng)
        parent[name] = value
        return tree, f"{path} has beside it {name!r} = {shown(value)}"
    if what == 5 and isinstance(old, int | float) and not isinstance(old, bool):
        parent[key] = rng.choice([-old, old * 2, old + 1, old * 1000, float(old), old / 3, str(old), 0])
        return tree, f"{path} = {shown(parent[key])}"
    parent[key] = strange_value(rng)
    return tree, f"{path} = {shown(parent[key])}"


def json_bytes(value: Any) -> bytes:
    """JSON as a careless program writes it, with NaN and with halves of characters."""
    return json.dumps(value, default=str).encode()


def mutate_json(rng: random.Random, data: bytes) -> tuple[bytes, str]:
    """A JSON file with one to three things changed, or its bytes."""
    if rng.random() < 0.15:
        return mutate_bytes(rng, data)
    tree, words = json.loads(data), []
    if isinstance(tree, dict) and tree and rng.random() < 0.05:
        key, value = rng.choice(list(tree)), strange_value(rng)
        return b"{" + json_bytes(key) + b": " + json_bytes(value) + b"," + data.strip()[1:], f"{key!r} twice, first as {shown(value)}"
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        tree, what = mutate_tree(rng, tree)
        words.append(what)
    return json_bytes(tree), "; ".join(words)


def mutate_bytes(rng: random.Random, data: bytes) -> tuple[bytes, str]:
    """Bytes that were damaged on their way."""
    what = rng.randrange(12)
    place = rng.randrange(len(data) + 1)
    if what == 0:
        return b"", "empty"
    if what == 1:
        return data[:place], f"cut off after {place} bytes"
    if what == 2:
        return data[place:], f"without its first {place} bytes"
    if what in (3, 4, 5) and data:
        changed = bytearray(data)
        for _ in range(rng.choice([1, 3, 20])):
            changed[rng.randrange(min(len(data), rng.choice([16, 200, len(data)])))] ^= 1 << rng.randrange(8)
        return bytes(changed), "bits turned over"
    if what == 6:
        rest = rng.choice([b"\x00", b"\xff\xfe", b"}{", b"\n\n", b"garbage", b"\x1a"])
        return data[:place] + rest + data[place:], f"{rest!r} after {place} bytes"
    if what == 7:
        return data + data, "twice"
    if what == 8:
        return b"\xef\xbb\xbf" + data, "with a byte order mark"
    if what == 9:
        encoding = rng.choice(["utf-16", "utf-32", "latin-1", "cp1252"])
        return data.decode("utf-8", "replace").encode(encoding, "replace"), f"as {encoding}"
    if what == 10:
        return data.replace(b"\n", rng.choice([b"\r\n", b"\r", b""])), "other line ends"
    return rng.choice([gzip.compress(data), b"<html>404</html>", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", bytes(rng.randrange(256) for _ in range(200))]), "another file"


# -- safetensors -----------------------------------------------------------------------------------------------------------

def mutate_safetensors(rng: random.Random, data: bytes) -> tuple[bytes, str]:
    """A safetensors file with another header, or with damaged bytes."""
    if rng.random() < 0.3:
        return mutate_bytes(rng, data)
    size = int.from_bytes(data[:8], "little")
    header, body = json.loads(data[8:8 + size]), data[8 + size:]
    if rng.random() < 0.3:
        length = rng.choice([0, 1, size - 1, size + 1, 2**31, 2**63, 2**64 - 1])
        return length.to_bytes(8, "little") + data[8:], f"header of {length} bytes, it says"
    if rng.random() < 0.2:  # weights of another size or another type
        name = rng.choice([name for name in header if name != "__metadata__"])
        count = rng.choice([b"\x00\x00\xc0\x7f", b"\x00\x00\x80\x7f", b"\xff\xff\x7f\x7f"])
        start, end = header[name]["data_offsets"]
        return data[:8 + size] + body[:start] + count * ((end - start) // 4) + body[end:], f"{name} is all {count!r}"
    header, what = mutate_tree(rng, header)
    text = json_bytes(header)
    return len(text).to_bytes(8, "little") + text + body, what


# -- YAML ------------------------------------------------------------------------------------------------------------------

BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(f"{b}: &{b} [{','.join(['*' + a] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi"))
YAML_TEXTS = (
    BOMB, "steps: &a [*a]\n", "<<: *nothing\n", "steps: !!python/object/apply:os.system [\"true\"]\n", "steps: !!python/name:os.system\n", "!!python/object:object {}\n", "- sft\n- 1\n", "just text\n", "5\n", "null\n",
    "---\n", "---\nsteps: 1\n---\nsteps: 2\n", "steps: 1\nsteps: 2\n", "steps:\t1\n", "\tsteps: 1\n", "steps: 2024-13-45\n", "steps: 1:30\n", "steps: 0o17\n", "steps: 1_000\n", "steps: .inf\n", "steps: !!binary aGk=\n",
    "steps: !!set {a, b}\n", "? [1, 2]\n: 3\n", "? {a: 1}\n: 3\n", "1: 2\n", "null: 2\n", "true: 2\n", "1.5: 2\n", "2020-01-01: 2\n", "steps: [1\n", "steps: \"1\n", "steps: @1\n", "%YAML 9.9\n---\nsteps: 1\n", "{" * 3000, "a: " * 50 + "1\n",
    "[" * 2000 + "]" * 2000, "steps: yes\n", "gradient_checkpointing: yes\n", "batch_size: 2.0\n", "learning_rate: 1e-3\n", "model:\n  name: bundled\n", "data: [a, b]\n", "output: {a: 1}\n", "stage: ppo\n", "stage: [1]\n", "lam: 0.5\ngae_lambda: 0.6\n",
    "batch-size: 2\n", "Steps: 1\n", "steps: 1 # ok\n\x00", "steps: \u202e1\n", "seed: 99999999999999999999999999\n", "seed: -.inf\n", "<<: {steps: 1}\n", "base: &b {steps: 1}\n<<: *b\n", "output:\n", "output: ''\n", "output: 5\n", "output: 2020-01-01\n", "\ufeffsteps: 1\n")


def mutate_yaml(rng: random.Random, values: dict) -> tuple[bytes, str]:
    """A YAML file of settings with something changed."""
    what = rng.randrange(4)
    if what == 0:
        text = rng.choice(YAML_TEXTS)
        return text.encode("utf-8", "surrogatepass"), f"is {shown(text)}"
    if what == 1:
        text = rng.choice(YAML_TEXTS)
        return (yaml.safe_dump(values) + text).encode("utf-8", "surrogatepass"), f"ends with {shown(text)}"
    if what == 2:
        return mutate_bytes(rng, yaml.safe_dump(values).encode())
    tree, words = mutate_tree(rng, values)
    try:
        text = yaml.safe_dump(tree, allow_unicode=rng.random() < 0.5)
    except RecursionError:
        text = str(tree)
    return text.encode("utf-8", "surrogatepass"), words


# -- command lines ---------------------------------------------------------------------------------------------------------

def as_argument(value: Any) -> str:
    """A value as a shell would hand it over: without a zero byte, which no argument can hold, and short enough."""
    text = value if isinstance(value, str) else str(value) if not isinstance(value, int) else f"{value:d}" if abs(value) < 10**300 else "1" + "0" * 400
    return text.replace("\x00", "").encode("utf-8", "replace").decode()[:30_000]


def mutate_arguments(rng: random.Random, argv: list[str], flags: list[str]) -> tuple[list[str], str]:
    """A command line with one thing changed. `flags` are those of all commands."""
    argv, what = list(argv), rng.randrange(14)
    at = rng.randrange(len(argv))
    value = as_argument(strange_value(rng))
    places = [i for i, word in enumerate(argv) if word.startswith("--") and i + 1 < len(argv) and not argv[i + 1].startswith("--")]
    if what == 0:
        return argv[:at] + argv[at + 1:], f"without {shown(argv[at])}"
    if what == 1:
        return argv[:at] + [value] + argv[at:], f"{shown(value)} at {at}"
    if what == 2:
        return argv[:at] + [argv[at].replace("-", "_")] + argv[at + 1:], f"{shown(argv[at])} with underscores"
    if what == 3:
        return argv[:at], f"ends before {shown(argv[at])}"
    if what == 4:
        place = rng.choice(places)
        return argv + [argv[place], value], f"{argv[place]} again as {shown(value)}"
    if what == 5:
        one, other = rng.sample(range(len(argv)), 2)
        argv[one], argv[other] = argv[other], argv[one]
        return argv, f"{shown(argv[one])} and {shown(argv[other])} swapped"
    if what == 6:
        extra = rng.choice([["--resume"], ["--overwrite"], ["--resume", "--overwrite"], ["--merge"], ["--public"], ["--push", "a/b"], ["-h"], ["--config", "sft.yaml"], ["--config", "score.py"], ["--config", "model"], ["--config", "ppo.yaml"]])
        return argv + extra, f"with {' '.join(extra)}"
    if what == 7:
        argv[0] = rng.choice(["sft", "reward", "ppo", "teach", "chat", "evaluate", "best-of", "export", "dpo", "", "SFT", "-"])
        return argv, f"command {argv[0]!r}"
    if what in (8, 9):
        name = rng.choice(flags)
        return argv + ([name, value] if rng.random() < 0.8 else [f"{name}={value}"]), f"with {name} {shown(value)}"
    place = rng.choice(places)
    argv[place + 1] = value
    return argv, f"{argv[place]} {shown(value)}"
