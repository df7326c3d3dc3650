"""The value head of verifiers: a gain and a bias on the logit of one token that no text uses.

The row of that token in the output matrix begins as the mean of all other rows, so its logit begins as their mean logit. No text
has the token, so the row serves the values alone.

Sources: Cobbe et al. 2021 (arXiv 2110.14168), section 4.1 and appendix E, for gain and bias on a reserved token; Yu et al. 2023
(OVM, arXiv 2311.09724) for the mean of the output embeddings.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from solver.codec import grid_codec
from solver.errors import InputError
from solver.model.head import OutputHead
from solver.model.load import Base, load_tokenizer, share

Loss = Literal["mse", "bce"]

_RESERVED = ("reserved", "unused", "verifier")  # parts of the names of tokens that are kept free on purpose


class ValueHead(nn.Module):
    """Values from final states. `loss` is what it is trained with, and decides what a value is.

    mse: value = gain * logit + bias, which is not bounded. bce: value = sigmoid(gain * logit + bias).
    """

    def __init__(self, token: int, loss: Loss, gain: float = 1.0, bias: float = 0.0) -> None:
        super().__init__()
        self.token, self.loss = token, loss
        self._start = gain, bias
        self.gain = nn.Parameter(torch.tensor(gain))
        self.bias = nn.Parameter(torch.tensor(bias))

    def reset(self) -> None:
        """Set gain and bias to what they began as."""
        with torch.no_grad():
            self.gain.fill_(self._start[0])
            self.bias.fill_(self._start[1])

    def losses(self, head: OutputHead, states: Tensor, targets: Tensor) -> Tensor:
        """(values,) fp32: squared errors, or binary cross-entropies, for final states (values, hidden) and `targets` 0 to 1."""
        predicted = self._scaled(head.logit(states, self.token).float())
        if self.loss == "mse":
            return (predicted - targets).square()
        return functional.binary_cross_entropy_with_logits(predicted, targets, reduction="none")

    def values(self, logits: Tensor) -> Tensor:
        """Values in fp32 from logits of the token, of any shape."""
        scaled = self._scaled(logits.float())
        return scaled if self.loss == "mse" else scaled.sigmoid()

    def _scaled(self, logits: Tensor) -> Tensor:
        return self.gain.to(logits.device) * logits + self.bias.to(logits.device)


def with_mean_row(base: Base, token: int) -> Base:
    """The base with an output matrix of its own in which the row of `token` is the mean of the others.

    If input and output embeddings are one matrix, they stay one.
    """
    model = share(base.model)
    head, embeddings = model.get_output_embeddings(), model.get_input_embeddings()
    weight = head.weight.detach().clone()
    others = torch.arange(len(weight), device=weight.device) != token
    weight[token] = weight[others].float().mean(0).to(weight.dtype)
    tied = embeddings.weight is head.weight
    head.weight = nn.Parameter(weight, requires_grad=False)
    if tied:
        embeddings.weight = head.weight
    return replace(base, model=model)


def reserved_token(base: Base) -> int:
    """The id of a token that no text has: one that is reserved by its name, a row beyond the tokenizer's tokens, the padding, or
    the last special token without a role.

    Padding counts only if it is neither the end of a text nor a stand-in for unknown text. Raises InputError if there is none.
    """
    if base.codec == grid_codec():
        return base.codec.pad
    tokenizer = load_tokenizer(base.path)
    rows = int(base.model.get_output_embeddings().weight.shape[0])
    named = {id_ for name, id_ in tokenizer.get_added_vocab().items() if any(word in name.lower() for word in _RESERVED)}
    used = set(base.codec.vocabulary) - {base.codec.pad}
    if free := sorted(id_ for id_ in named if id_ < rows and id_ not in used):
        return free[0]
    highest = max(tokenizer.get_vocab().values())
    if highest + 1 < rows:
        return highest + 1
    pad = tokenizer.pad_token_id
    taken = {tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id, base.codec.end}
    if pad is not None and pad not in taken:
        return int(pad)
    # special tokens mark other kinds of text, such as the names of files in code; samples that have one are not learnt from
    special = {int(id_) for id_, token in tokenizer.added_tokens_decoder.items() if token.special}
    if free := sorted(special - taken - used - {pad}):
        return free[-1]
    raise InputError(
        f"{base.path}: the model has no reserved token: none of its {rows} tokens is named reserved or unused, is beyond the "
        f"tokenizer's vocabulary, is only padding, or is a special token without a role"
    )


def check_same_tokens(one: Path, other: Path) -> None:
    """Raises InputError unless the models in two folders give every token the same id."""
    if one.resolve() == other.resolve():
        return
    first, second = (load_tokenizer(folder).get_vocab() for folder in (one, other))
    if first != second:
        different = min(first.items() ^ second.items())[0]
        raise InputError(f"{one}: its tokens are not those of {other}, the first difference is {different!r}")
