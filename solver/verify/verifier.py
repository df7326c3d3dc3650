"""Verifiers on disk and in memory: a language model with a value head, and what it was made from.

The folder of a verifier whose weights were all trained is a model folder. That of a LoRA verifier holds an adapter, and is loaded
together with the model that it started from. `verifier.json` has the rest, gain and bias included.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from solver.arc.jsonfile import read_json
from solver.config import ModelSettings
from solver.errors import InputError
from solver.infer.forward import Forward
from solver.infer.trial import check_model
from solver.infer.values import LogitReader
from solver.model.adapter_folder import adapter_identity
from solver.model.adapters import apply_adapter
from solver.model.folder import check_folder, folder_identity
from solver.model.load import Base, load_base, load_codec, load_tokenizer, share, text_only_codec_of
from solver.model.value_head import Loss, ValueHead, with_mean_row
from solver.types import AdapterRef, Deadline, TokenIds

FORMAT = "solver-verifier-1"
FILE = "verifier.json"
POSITIONS = 32768  # keys and values that scoring holds in memory at most

Level = Literal["token", "solution"]


@dataclass(frozen=True)
class VerifierFacts:
    """What `verifier.json` says."""

    generator: str  # fingerprint of the model whose samples it was trained on, and whose samples alone it may judge
    start: str  # fingerprint of the model that it was initialised from
    kind: Literal["full", "lora"]
    token: int  # id of the reserved token
    loss: Loss
    level: Level  # where it was trained to predict: after every token of a solution, or after the last one
    gain: float
    bias: float
    training: dict[str, Any] = field(default_factory=dict)  # options and counts, for people


def write_facts(folder: Path, facts: VerifierFacts) -> None:
    """Write `verifier.json` to an existing folder."""
    (folder / FILE).write_text(json.dumps({"format": FORMAT, **asdict(facts)}, indent=1) + "\n", encoding="utf-8")


def read_facts(folder: Path) -> VerifierFacts:
    """Read `verifier.json`. Raises InputError if it is missing, damaged, or of another version."""
    file = folder / FILE
    if not file.is_file():
        raise InputError(f"{folder}: not a verifier: {FILE} is missing")
    value = read_json(file, "verifier")
    if not isinstance(value, dict) or value.get("format") != FORMAT:
        raise InputError(f"{file}: not a verifier of format {FORMAT!r}")
    known = {one.name for one in fields(VerifierFacts)}
    given = {key: entry for key, entry in value.items() if key != "format"}
    if given.keys() != known:
        raise InputError(f"{file}: field {min(given.keys() ^ known)!r} is missing or unknown")
    numbers = [given["gain"], given["bias"]]
    sound = all(isinstance(n, int | float) and math.isfinite(n) for n in numbers) and type(given["token"]) is int
    if not sound or given["loss"] not in ("mse", "bce") or given["kind"] not in ("full", "lora"):
        raise InputError(f"{file}: token, loss, kind, gain or bias has no valid value")
    return VerifierFacts(**given)


def load_model(folder: Path, settings: ModelSettings) -> Base:
    """The model of a folder: with the codec of grids if it can write any, else with one for text alone. Raises InputError."""
    check_folder(folder)
    try:
        codec = load_codec(folder)
    except InputError:
        codec = text_only_codec_of(load_tokenizer(folder), str(folder))
    return load_base(folder, settings, codec=codec)


class Verifier:
    """Gives values to the tokens of solutions."""

    def __init__(self, base: Base, head: ValueHead, facts: VerifierFacts, identity: str = "") -> None:
        """`base` has the verifier's weights. `identity` is a digest of the verifier's files."""
        check_model(base)
        self.base, self.head, self.facts, self.identity = base, head, facts, identity
        self._reader = LogitReader(Forward(share(base.model), base.device), head.token, POSITIONS)

    def values(
        self, prompt: TokenIds, solutions: Sequence[TokenIds], deadline: Deadline
    ) -> tuple[NDArray[np.float32], ...] | None:
        """For each solution the values (tokens,) after each of its tokens, given the prompt. None: the deadline came first.

        A solution with the reserved token, which a generator may sample by mistake, is read like any other. Raises InputError if
        a solution does not fit the context.
        """
        longest = len(prompt) + max(map(len, solutions), default=0)
        if longest > self.base.context:
            raise InputError(
                f"a solution needs {longest} tokens with its question, the verifier's context has {self.base.context}"
            )
        logits = self._reader.read(prompt, solutions, deadline)
        if logits is None:
            return None
        with torch.no_grad():
            return tuple(self.head.values(torch.from_numpy(one).to(self.base.device)).cpu().numpy() for one in logits)


def load_verifier(folder: Path, settings: ModelSettings, generator: str | None = None, start: Path | None = None) -> Verifier:
    """Load a verifier. `generator`: the fingerprint of the model whose samples it will judge; None: any.

    `start` is the folder of the model that a LoRA verifier was initialised from. Raises InputError if the folder holds no sound
    verifier, if it is a verifier of another generator, and if `start` is missing or another model.
    """
    facts = read_facts(folder)
    if generator is not None and facts.generator != generator:
        raise InputError(f"{folder}: a verifier of another generator: it judges samples of {facts.generator}, not of {generator}")
    if facts.kind == "full":
        base = load_model(folder, settings)
        _check_token(folder, facts, base)
        return _verifier(base, facts, folder_identity(folder))
    if start is None:
        raise InputError(f"{folder}: a LoRA verifier: give the folder of the model that it was made from, {facts.start}")
    if folder_identity(start) != facts.start:
        raise InputError(f"{start}: not the model that the verifier {folder} was made from, {facts.start}")
    base = load_model(start, settings)
    _check_token(folder, facts, base)
    base = with_mean_row(base, facts.token)
    base = replace(base, model=apply_adapter(base, AdapterRef("verifier", folder, "lora")))
    return _verifier(base, facts, adapter_identity(folder))


def _check_token(folder: Path, facts: VerifierFacts, base: Base) -> None:
    rows = int(base.model.get_output_embeddings().weight.shape[0])
    if not 0 <= facts.token < rows:
        raise InputError(f"{folder / FILE}: token {facts.token} is outside the vocabulary of {rows}")


def _verifier(base: Base, facts: VerifierFacts, identity: str) -> Verifier:
    head = ValueHead(facts.token, facts.loss, facts.gain, facts.bias).to(base.device).requires_grad_(False)
    return Verifier(base, head, facts, identity)
