"""Exports a checkpoint: a clean PEFT folder, or the adapter merged into its base, each with a model card; and to the
Hub.

Nothing is ever overwritten, and nothing is merged into a quantised base.
"""

import shlex
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from rlhf_engine.errors import UserError
from rlhf_engine.export.hub import check_repo, push
from rlhf_engine.export.merge import check_merge, write_merged
from rlhf_engine.export.model_card import Card, card
from rlhf_engine.export.output_folder import check_output, output_folder, save_tokenizer
from rlhf_engine.export.report_link import copy_report, read_report, sentences
from rlhf_engine.export.source import Source, find_source
from rlhf_engine.files import expand_user, write_json
from rlhf_engine.model.checks.tokenizer import load_tokenizer
from rlhf_engine.model.lora.options import lora_values, read_lora
from rlhf_engine.runs.adapter_folder import BASE_FILE, CONFIG_FILE, HEAD_FILE, WEIGHTS_FILE
from rlhf_engine.runs.folder import Run
from rlhf_engine.runs.resolve import fingerprint


def export(model: str, adapter: str, output: str | Path, *, merge: bool = False, dtype: str = "auto",
           push_to: str = "", public: bool = False, report: str | Path = "",
           say: Callable[[str], None] = print) -> None:
    """Write an adapter, or a whole model, into a new folder, and push it to the Hub if asked.

    Args:
        model: MODEL.
        adapter: ADAPTER: a policy, or a reward model with its head.
        output: the new folder.
        merge: write a whole model, with the adapter merged into its base.
        dtype: format of a merged model: "auto" (the base's own), "fp32" or "bf16".
        push_to: OWNER/NAME of a repository on the Hub; empty pushes nothing.
        public: whether the repository is public.
        report: the folder of a report about this adapter, which goes along; empty takes none.
        say: called with a line of text about each thing that is done.

    Raises UserError, and leaves nothing behind, for what cannot be exported or has no room. If only the push fails, the
    folder stays.
    """
    output = Path(expand_user(str(output)))
    check_output(output)
    source = find_source(model, adapter)
    if merge:
        check_merge(source, output, dtype)
    if push_to:
        check_push(source, merge, push_to, public)
    about = Path(expand_user(str(report))) if report else None
    flags = sentences(read_report(about, source.folder)) if about else None
    for note in notes(source, merge):
        say(note)
    with output_folder(output) as folder:
        if merge:
            say(f"merging into {source.model}")
            write_merged(source, folder, dtype)
        else:
            write_adapter(source, folder)
        if about:
            copy_report(about, folder)
        text = card(replace(card_facts(source, merge, push_to), flags=flags))
        (folder / "README.md").write_text(text, encoding="utf-8")
        for file in folder.iterdir():  # safetensors makes its files readable by the user alone
            shutil.copymode(folder / "README.md", file)
    kind = "a whole model" if merge else "a reward model" if source.reward else "an adapter"
    say(f"{output}: {kind}; its README.md says how to load it")
    if merge and source.model != "bundled":
        say(f"for llama.cpp: python convert_hf_to_gguf.py {shlex.quote(str(output))} "
            f"--outfile {shlex.quote(f'{output.name}.gguf')}")
    if push_to:
        say(f"pushing to {push_to} ({'public' if public else 'private'})")
        say(f"pushed: {push(output, push_to, public)}")


def check_push(source: Source, merge: bool, repo: str, public: bool) -> None:
    """Raises UserError if the export would be of no use on the Hub, or may not go to `repo`."""
    if not merge and not source.on_hub:
        raise UserError(f"--push: {source.model} is a base on this machine, without which nobody on the Hub can use "
                        "the adapter; add --merge, or train on a base from the Hub")
    check_repo(repo, public)


def notes(source: Source, merge: bool) -> list[str]:
    """What a user has to know about this export."""
    lines = []
    if source.reward:
        lines.append("a reward model is an adapter and its head: the folder is copied as it stands, for --reward and "
                     "--judge")
    if merge and trained_on_nf4(source.run):
        lines.append("trained on the base in 4 bits and merged into the full-precision one: it may answer slightly "
                     "differently")
    return lines


def trained_on_nf4(run: Run | None) -> bool:
    """Whether the run trained on a base in 4 bits."""
    return run is not None and run.config().get("dtype") == "nf4"


def card_facts(source: Source, merge: bool, repo: str) -> Card:
    """The contents of the model card. A report is that of the run's last step, so another checkpoint has none."""
    run = source.run
    report = (run.report() or {}) if run else {}
    if report.get("steps") != source.step:
        report = {}
    adapter = read_lora(source.folder)  # a run that began with somebody's adapter goes on with its rank and scale
    config = {**run.config(), "lora_rank": adapter.r, "lora_alpha": adapter.lora_alpha} if run else {}
    return Card(source.base_name, source.base, source.on_hub, merged=merge, reward=source.reward, repo=repo,
                four_bits=trained_on_nf4(run), step=source.step, config=config, report=report)


def write_adapter(source: Source, folder: Path) -> None:
    """Write a PEFT folder with the tokenizer, and for a reward model with the head."""
    config = lora_values(read_lora(source.folder))
    # What names a library to import has no place in a folder that others open.
    config.update({"base_model_name_or_path": source.base_name, "auto_mapping": None, "inference_mode": True})
    write_json(folder / CONFIG_FILE, config)
    shutil.copyfile(source.folder / WEIGHTS_FILE, folder / WEIGHTS_FILE)
    if source.reward:
        shutil.copyfile(source.folder / HEAD_FILE, folder / HEAD_FILE)
    write_json(folder / BASE_FILE, {"model": source.model, "fingerprint": fingerprint(source.base)})
    save_tokenizer(load_tokenizer(source.base, source.model), folder)
