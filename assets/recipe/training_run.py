"""A pre-training run: its data, its steps, its saved state."""

import copy
import json
import random
import time
from datetime import UTC, datetime
from pathlib import Path

import stories as data_files
import storyteller
import torch
import training_state
from tokenizers import Tokenizer
from training_state import DECAY, Refused
from transformers import LlamaConfig, LlamaForCausalLM

HELD_OUT = 100
SHAPE = ("vocabulary", "hidden", "layers", "heads", "intermediate", "context")
SETTINGS = (*SHAPE, "seed", "limit", "weights", "tokens", "decay", "batch_tokens", "dropout", "wrong", "swap", "ema",
            "muon_lr", "adam_lr", "weight_decay")


def encode(tokenizer, texts: list[str], context: int) -> list[list[int]]:
    """`<|story|> text <|end|>`; a story longer than the context keeps its start and loses its end token."""
    end = tokenizer.eos_token_id
    return [(ids + [end])[:context + 1] for ids in tokenizer(texts)["input_ids"]]


def group_rows(rows: list[list[int]], tokens: int, rng: random.Random) -> list[list[int]]:
    """The batches of an epoch as lists of row numbers: similar lengths, at most `tokens` each, in random order."""
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]) + rng.uniform(0, 16))
    groups, group = [], []
    for i in order:
        if group and (len(group) + 1) * len(rows[i]) > tokens:
            groups.append(group)
            group = []
        group.append(i)
    groups.append(group)
    rng.shuffle(groups)
    return groups


def wrong_tokens(ids: torch.Tensor, most: float, vocabulary: int) -> torch.Tensor:
    """Input ids of which a share of each row, drawn from [0, `most`], is replaced by random ones. Position 0 stays."""
    wrong = torch.rand(ids.shape) < most * torch.rand(len(ids), 1)
    wrong[:, 0] = False
    return torch.where(wrong, torch.randint(vocabulary, ids.shape), ids)


def rate_at(tokens: int, warmup: int, decay: dict | None) -> float:
    """The factor of the learning rate: it rises from zero over `warmup` tokens, is 1, and falls linearly to zero."""
    up = min(1.0, tokens / max(1, warmup))
    return up * max(0.0, 1 - (tokens - decay["from"]) / decay["tokens"]) if decay else up


def source_weights(given: list[str]) -> dict[str | None, float]:
    """`["SOURCE=NUMBER", ...]` as a table. Raises Refused for what is not of that form."""
    weights: dict[str | None, float] = {}
    for entry in given:
        source, _, number = entry.rpartition("=")
        try:
            weights[source] = float(number)
        except ValueError:
            weights[source] = -1.0
        if not source or not 0 <= weights[source] < 100:
            raise Refused(f"--weights takes SOURCE=NUMBER with a number from 0 to below 100, not {entry!r}.")
    return weights


class Data:
    """Stories to train on, those held out, and the batches of an epoch."""

    def __init__(self, args):
        for name in (*args.data, *args.exclude, args.validation or ""):
            if name.endswith((".json", ".jsonl", ".gz")) and not Path(name).exists():
                raise Refused(f"There is no file {name}.")
        files = [data_files.read_clean_rows(name, args.limit) for name in args.data]
        forbidden = data_files.read_rows(args.validation, split="validation") if args.validation else []
        for name in args.exclude:
            forbidden += data_files.read_rows(name)
        files = [data_files.without_copies(rows, forbidden) for rows in files]
        self.fingerprints = [data_files.fingerprint(name, rows) for name, rows in zip(args.data, files)]
        held_out = data_files.choose_held_out(files[-1], HELD_OUT)
        self.held_out = [story.text for story in held_out]
        self.stories = [story for rows in files for story in data_files.without_copies(rows, held_out)]
        if not self.stories:
            raise Refused(f"{', '.join(args.data)} holds no more stories than the {HELD_OUT} that are held out.")
        self.swap = data_files.NameSwap([story.text for story in self.stories])

    def epoch(self, tokenizer, settings: dict, rng: random.Random) -> tuple[list[list[int]], list[list[int]]]:
        """The token rows of an epoch and its batches, both as the generator decides."""
        weights = source_weights(settings["weights"])
        chosen = [story.text for story in self.stories
                  for _ in range(int(weights.get(story.source, 1) + rng.random()))]
        texts = [self.swap(text, rng) if rng.random() < settings["swap"] else text for text in chosen]
        rows = encode(tokenizer, texts, settings["context"])
        return rows, group_rows(rows, settings["batch_tokens"], rng)


class Run:
    """A training run: model, average, optimisers, and the facts that a state keeps about them."""

    def __init__(self, args):
        self.args, self.folder = args, Path(args.state)
        self.lock = training_state.lock_folder(self.folder)
        self.settings = {name: getattr(args, name) for name in SETTINGS}
        self.path, facts = training_state.choose_state(self.folder, self.settings, args.finish)
        self.data = Data(args)
        torch.manual_seed(args.seed)
        if facts:
            training_state.apply_changes(facts, self.settings, self.data.fingerprints, args.allow_change)
            self.facts, self.model = facts, LlamaForCausalLM(LlamaConfig(**facts["config"]))
        else:
            self.facts, self.model = self.begin()
        self.tokenizer = storyteller.wrap_tokenizer(Tokenizer.from_str(self.facts["tokenizer"]), args.context)
        self.average = copy.deepcopy(self.model)
        self.average.requires_grad_(False)
        # Compiled, eager attention is faster on short rows than the fused kernel on a CPU.
        self.model.set_attn_implementation("eager")
        storyteller.add_dropout(self.model, args.dropout)
        self.make_optimizers()
        if facts:
            training_state.unpack_tensors(training_state.read_tensors(self.path), self.model, self.average,
                                          self.optimizers)
        if args.finish and not self.facts["decay"]:
            self.begin_decay(args.finish)
        self.begin_session()

    def begin(self) -> tuple[dict, LlamaForCausalLM]:
        """The facts of a new run, and its model."""
        args, start = self.args, None
        if args.init:
            tokenizer, model, start = storyteller.load_start(args.init, args.layers, args.context)
        else:
            tokenizer = storyteller.train_tokenizer([story.text for story in self.data.stories], args.vocabulary)
            tokenizer = storyteller.wrap_tokenizer(tokenizer, args.context)
            model = LlamaForCausalLM(storyteller.make_config(
                tokenizer, args.hidden, args.layers, args.heads, args.intermediate, args.context))
        return {"settings": self.settings, "data": self.data.fingerprints, "init": start,
                "tokenizer": tokenizer.backend_tokenizer.to_str(), "config": model.config.to_dict(),
                "parameters": sum(p.numel() for p in model.parameters()),
                "warmup": round(args.tokens * 0.01), "decay": None, "step": 0, "tokens": 0, "epoch": 1, "position": 0,
                "generator": None, "history": [], "sessions": [], "evaluations": []}, model

    def begin_decay(self, tokens: int) -> None:
        """Branch off the constant phase, whose state stays as it is."""
        self.facts["decay"] = {"from": self.facts["tokens"], "tokens": tokens}
        if self.args.finish:
            training_state.record_change(self.facts, "finish", None, tokens)
        self.path = self.folder / DECAY

    def begin_session(self) -> None:
        facts = self.facts
        self.started = time.time(), time.process_time()
        facts["sessions"].append({
            "began": datetime.now(UTC).isoformat(timespec="seconds"), "processor": training_state.processor_name(),
            "threads": torch.get_num_threads(), "torch": torch.__version__, "compiled": not self.args.no_compile,
            "step": facts["step"], "tokens": facts["tokens"]})

    def make_optimizers(self) -> None:
        args, named = self.args, list(self.model.named_parameters())
        matrices = [p for name, p in named if p.ndim == 2 and "embed" not in name]
        others = [p for name, p in named if p.ndim != 2 or "embed" in name]
        self.optimizers = [
            torch.optim.Muon(matrices, lr=args.muon_lr, weight_decay=args.weight_decay, momentum=0.95),
            torch.optim.AdamW(others, lr=args.adam_lr, betas=(0.9, 0.95), weight_decay=0.0)]
        self.loss_of = storyteller.nll if args.no_compile else torch.compile(storyteller.nll, dynamic=True)

    def save(self) -> None:
        """Write the state, and beside the model a record of its training."""
        facts, (wall, processor) = self.facts, self.started
        facts["sessions"][-1] |= {"seconds": round(time.time() - wall), "to_step": facts["step"],
                                  "processor_seconds": round(time.process_time() - processor),
                                  "to_tokens": facts["tokens"]}
        tensors = training_state.pack_tensors(self.model, self.average, self.optimizers)
        training_state.write_state(self.path, tensors, facts)
        shown = {key: value for key, value in facts.items() if key not in ("tokenizer", "config", "generator")}
        output = Path(self.args.output)
        output.mkdir(parents=True, exist_ok=True)
        (output / "training.json").write_text(json.dumps(shown, indent=2) + "\n")

    def ended(self) -> bool:
        """Whether the decay is over. At the end of the constant phase the planned decay begins."""
        facts, settings = self.facts, self.settings
        end = training_state.constant_end(settings)
        if not facts["decay"] and facts["tokens"] >= end:
            self.save()
            self.begin_decay(settings["tokens"] - end)
        decay = facts["decay"]
        return bool(decay) and facts["tokens"] >= decay["from"] + decay["tokens"]

    def step(self, ids: torch.Tensor, mask: torch.Tensor) -> float:
        """Make one update. Returns the loss per token, in nats."""
        facts, args = self.facts, self.args
        scale = rate_at(facts["tokens"], facts["warmup"], facts["decay"])
        for optimizer, rate in zip(self.optimizers, (args.muon_lr, args.adam_lr)):
            for group in optimizer.param_groups:
                group["lr"] = rate * scale
        self.model.train()
        inputs = wrong_tokens(ids, args.wrong * scale, len(self.tokenizer))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = self.loss_of(self.model, inputs, ids, mask) / mask[:, 1:].sum()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad()
        facts["tokens"] += int(mask[:, 1:].sum())
        facts["step"] += 1
        facts["position"] += 1
        keep = min(args.ema, (1 + facts["step"]) / (10 + facts["step"]))  # the first steps are soon forgotten
        with torch.no_grad():
            for average, parameter in zip(self.average.parameters(), self.model.parameters()):
                average.lerp_(parameter, 1 - keep)
        return loss.item()

    def batches(self):
        """Batch after batch, epoch after epoch, from the position in the facts."""
        facts = self.facts
        rng = random.Random(self.args.seed)
        while True:
            if facts["generator"]:
                rng.setstate(training_state.generator_from_json(facts["generator"]))
            else:
                rng.seed(f"{self.args.seed} {facts['epoch']}")
                facts["generator"] = training_state.generator_to_json(rng.getstate())
            rows, groups = self.data.epoch(self.tokenizer, self.settings, rng)
            while facts["position"] < len(groups):
                yield storyteller.padded([(rows[i], 0) for i in groups[facts["position"]]])
            facts["epoch"], facts["position"], facts["generator"] = facts["epoch"] + 1, 0, None

    def train(self) -> bool:
        """Train until the end or a signal. Return whether the end was reached."""
        facts, args, stop, saved = self.facts, self.args, training_state.StopSignal(), time.time()
        batches, count, first = self.batches(), 0, facts["tokens"]
        while not self.ended():
            loss = self.step(*next(batches))
            count += 1
            if count % args.log_every == 0:
                speed = (facts["tokens"] - first) / (time.time() - self.started[0])
                print(f"step {facts['step']} epoch {facts['epoch']} tokens {facts['tokens'] / 1e6:.2f}M "
                      f"loss {loss:.3f} {speed:.0f} tokens/s", flush=True)
            if facts["step"] % args.evaluate_every == 0:
                self.evaluate()
            if time.time() - saved >= args.save_minutes * 60 or stop.received:
                self.save()
                saved = time.time()
            if stop.received:
                print(f"stopped at step {facts['step']}; the same line goes on from {self.path}", flush=True)
                return False
        self.save()
        stop.restore()
        return True

    def evaluate(self) -> None:
        facts, args = self.facts, self.args
        bits = storyteller.bits_per_character(self.average, self.tokenizer, self.data.held_out, args.context)
        facts["evaluations"].append({"step": facts["step"], "tokens": facts["tokens"], "held_out_bits": round(bits, 4)})
        print(f"step {facts['step']} held-out bits per character {bits:.4f}", flush=True)
        storyteller.save_model(self.average, self.tokenizer, args.output)

    def finish(self) -> None:
        """Calibrate, write and measure the average of the weights."""
        facts, args, tokenizer = self.facts, self.args, self.tokenizer
        factor = storyteller.calibrate(self.average, tokenizer, self.data.held_out, args.context)
        storyteller.save_model(self.average, tokenizer, args.output)
        epoch = sum(map(len, encode(tokenizer, [story.text for story in self.data.stories], args.context)))
        result = {"parameters": facts["parameters"], "tokens": facts["tokens"],
                  "epochs": round(facts["tokens"] / epoch, 2), "calibration": factor,
                  "minutes": round(sum(session["seconds"] for session in facts["sessions"]) / 60, 1),
                  "processor_minutes": round(sum(s["processor_seconds"] for s in facts["sessions"]) / 60, 1),
                  "data": facts["data"], "changes": facts["history"], "sessions": facts["sessions"]}
        if args.validation:
            saved = LlamaForCausalLM.from_pretrained(args.output, dtype=torch.float32)
            texts = [story.text for story in data_files.read_rows(args.validation, split="validation")]
            result["bits_per_character"] = round(
                storyteller.bits_per_character(saved, tokenizer, texts, args.context), 4)
        print(json.dumps(result), flush=True)
        Path(args.output, "measured.json").write_text(json.dumps(result, indent=2) + "\n")
