"""Load a base model from a folder: without network, without pickles, without code from the folder."""

from __future__ import annotations

import copy
import errno
import json
import os
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import torch

from solver.codec import GRID_VOCABULARY, Codec, grid_codec, text_codec
from solver.config import ModelSettings
from solver.errors import InputError
from solver.model.dtype import pick_device, pick_dtype
from solver.model.folder import EMBEDDED, check_folder
from solver.model.memory import is_out_of_memory
from solver.model.support import folder_quantization, read_config
from solver.prompt_format import TEXT, format_of
from solver.textfile import is_plain, read_text

# before transformers is imported: it reads them once
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True, eq=False)
class Base:
    """A base model ready for use: eval mode, every weight frozen. Nobody changes its weights or modules; see `share`."""

    model: PreTrainedModel
    codec: Codec
    device: torch.device
    dtype: torch.dtype  # of activations; under NF4 the weights are 4 bits
    path: Path
    context: int  # tokens: the setting, or less if the model has less
    quantized: bool = False
    cache: Path | None = None  # a folder for these weights in other forms; none: there are none of them
    format: str = "auto"  # the setting by which the codec was made
    load: Callable[[], Base] | None = None  # of a description: the model has no weights; gives the same base with them

    @property
    def parameters(self) -> int:
        """Number of weights."""
        return int(self.model.num_parameters())

    def with_weights(self) -> Base:
        """Itself, or what it describes: loaded now unless somebody has it already. Raises InputError as `load_base`."""
        return self if self.load is None else self.load()


class _Later:
    """Loads what nobody has: weights that are of no more use are not kept."""

    def __init__(self, load: Callable[[], Base]) -> None:
        self._load = load
        self._made: Callable[[], Base | None] = lambda: None

    def __call__(self) -> Base:
        base = self._made()
        if base is None:
            base = self._load()
            self._made = weakref.ref(base)
        return base


def load_base(path: Path | None, settings: ModelSettings, weights: bool = True, cache: Path | None = None) -> Base:
    """The model of a folder in Hugging Face format; None: the embedded one.

    A folder with `codec.json` speaks the grid vocabulary, any other goes through the text codec with its own tokenizer, in the
    format of `settings` or of its `format.json`. Weights quantised in advance count as if the settings had asked for that.
    Without `weights` it is a description, for a process in which nobody computes with the model: its modules have shapes and
    hold nothing, and whoever does compute asks `with_weights`. `cache` is for those who need the weights in another form.
    Raises InputError naming the folder if it is missing, holds pickles, is not a causal language model, lacks weights, or
    has a vocabulary that grids cannot be written in.
    """
    folder = EMBEDDED if path is None else Path(path)
    check_folder(folder)
    quantized_in_advance = folder_quantization(read_config(folder)) != "none"
    device = pick_device(settings.device)
    dtype = pick_dtype(settings, device)
    codec = _read_grid_codec(folder)
    model = _load_model(folder, settings, device, dtype, quantized_in_advance) if weights else _describe_model(folder, dtype)
    embeddings = model.get_input_embeddings().num_embeddings
    if codec is not None and embeddings != len(GRID_VOCABULARY):
        raise InputError(
            f"{folder}: wrong vocabulary: codec.json asks for {len(GRID_VOCABULARY)} tokens, the model has {embeddings}"
        )
    if codec is None:
        codec = load_text_codec(folder, settings.format)
        if max(codec.vocabulary) >= embeddings:
            raise InputError(f"{folder}: wrong vocabulary: the tokenizer has more tokens than the model's {embeddings}")
    limit = getattr(model.config, "max_position_embeddings", None) or settings.context
    load = None if weights else _Later(lambda: load_base(path, settings, cache=cache))
    quantized, context = quantized_in_advance or settings.quantization != "none", min(settings.context, limit)
    return Base(model, codec, device, dtype, folder, context, quantized, cache, settings.format, load)


def share(model: Any) -> Any:
    """A second tree of modules over the same weight tensors: modules may be replaced or wrapped without touching `model`."""
    from itertools import chain

    memo: dict[int, Any] = {id(tensor): tensor for tensor in chain(model.parameters(), model.buffers())}
    for module in model.modules():  # bitsandbytes keeps the scales of a 4-bit weight beside it
        state = getattr(module, "quant_state", None)
        if state is not None:
            memo[id(state)] = state
    return copy.deepcopy(model, memo)


def load_codec(folder: Path, format: str = "auto") -> Codec:
    """The codec of a model folder: that of the grid vocabulary if it is marked so, else the text codec. Raises InputError."""
    return _read_grid_codec(folder) or load_text_codec(folder, format)


def _read_grid_codec(folder: Path) -> Codec | None:
    """The grid codec if the folder is marked as a grid model, else None."""
    file = folder / "codec.json"
    if not file.exists():
        return None
    try:
        name = json.loads(read_text(file, "codec version"))["codec"]
    except (json.JSONDecodeError, KeyError, TypeError):
        raise InputError(f"{file}: does not name a codec") from None
    codec = grid_codec()
    if name != codec.name:
        raise InputError(f"{file}: the model was trained with codec {name!r}, this package writes {codec.name!r}")
    return codec


def load_text_codec(folder: Path, format: str = "auto") -> Codec:
    """The text codec of the tokenizer in a folder, in the format of this name or of the folder.

    Raises InputError if there is no tokenizer that grids can be written with.
    """
    from transformers import AutoTokenizer

    try:
        known = {} if is_plain(folder / "config.json") else {"config": transformers_config(folder)}
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False, **known)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise InputError(f"{folder}: cannot load the tokenizer: {one_line(error)}") from None
    return prove_tokenizer(tokenizer, folder, format)[1]


def prove_tokenizer(tokenizer: Any, folder: Path, format: str = "auto") -> tuple[Any, Codec]:
    """The text codec of a folder's tokenizer, and the tokenizer that it goes with: this one, or tokenizer.json as it stands.

    transformers makes some tokenizers anew by the rules of their class, and loses what a shrunken vocabulary has changed.
    Raises InputError if grids can be written with neither.
    """
    from transformers import PreTrainedTokenizerFast

    chosen, file = format_of(folder, format), folder / "tokenizer.json"
    try:
        try:
            return tokenizer, text_codec(tokenizer, chosen)
        except ValueError:
            if not file.is_file():
                raise
        special = {role: getattr(tokenizer, role) for role in ("bos_token", "eos_token", "pad_token")}
        as_it_stands = PreTrainedTokenizerFast(tokenizer_file=str(file), **special)
        return as_it_stands, text_codec(as_it_stands, chosen)
    except ValueError as error:
        hint = "; if the model has a prompt format of its own, name it (model.format) or describe it (format.json)" * (
            chosen is TEXT
        )
        raise InputError(f"{folder}: wrong vocabulary: {error}{hint}") from None


def _load_model(
    folder: Path, settings: ModelSettings, device: torch.device, dtype: torch.dtype, quantized_in_advance: bool
) -> PreTrainedModel:
    import transformers

    import solver.model.cell_decoder  # noqa: F401  # makes the Auto classes know it

    options: dict[str, Any] = {}
    if quantized_in_advance:
        options["device_map"] = {"": device}
    elif settings.quantization == "nf4":
        options["quantization_config"] = transformers.BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
        )
        options["device_map"] = {"": device}
    with quiet(transformers):
        try:
            model, info = transformers.AutoModelForCausalLM.from_pretrained(
                folder,
                config=transformers_config(folder),
                dtype=dtype,
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=True,
                attn_implementation="sdpa",
                output_loading_info=True,
                **options,
            )
        except Exception as error:  # a folder of any content may raise anything; all of it is the user's input, ...
            if is_out_of_memory(error) or getattr(error, "errno", None) in (errno.ENOMEM, errno.EIO):
                raise  # ... but not the machine's trouble
            raise InputError(f"{folder}: cannot load the model: {one_line(error)}") from None
    for kind in ("missing_keys", "mismatched_keys"):
        if info[kind]:
            raise InputError(f"{folder}: weights do not fit config.json: {kind.replace('_', ' ')}: {min(map(str, info[kind]))}")
    if not options:
        model.to(device)
    elif device.type == "cpu":
        _keep_four_bits(model)
    if options:
        for module in model.modules():
            if hasattr(module, "compute_dtype"):
                module.compute_dtype = dtype  # a folder's own is that of the device it was made on
    model.requires_grad_(False)
    return model.eval()


def _keep_four_bits(model: PreTrainedModel) -> None:
    """Have bitsandbytes compute the same on every processor.

    On those with bf16 units it would repack the weights at the first pass without gradients, and from then on multiply in bf16:
    other numbers than a fit saw, in a layout that nobody else can read, and not at all for layers narrower than a block.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def _describe_model(folder: Path, dtype: torch.dtype) -> PreTrainedModel:
    """The modules of a model on the meta device."""
    import transformers

    import solver.model.cell_decoder  # noqa: F401  # as above

    with quiet(transformers):
        try:
            with torch.device("meta"):
                model = transformers.AutoModelForCausalLM.from_config(
                    transformers_config(folder), dtype=dtype, trust_remote_code=False, attn_implementation="sdpa"
                )
        except Exception as error:  # as above
            raise InputError(f"{folder}: cannot load the model: {one_line(error)}") from None
    model.tie_weights()  # transformers 5.0 leaves that to whoever loads weights
    model.requires_grad_(False)
    return model.eval()


def transformers_config(folder: Path) -> Any:
    """What transformers makes of config.json, with a byte order mark or without. Raises whatever it raises, and InputError."""
    from transformers import AutoConfig

    file = folder / "config.json"
    if is_plain(file):
        return AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    with TemporaryDirectory() as place:  # transformers refuses the mark
        (Path(place) / file.name).write_text(read_text(file, "model configuration"), encoding="utf-8")
        config = AutoConfig.from_pretrained(place, local_files_only=True, trust_remote_code=False)
    config.name_or_path = str(folder)
    return config


class quiet:
    """transformers without progress bars and below-error log lines, for the length of a block."""

    def __init__(self, transformers: Any) -> None:
        self._logging = transformers.utils.logging

    def __enter__(self) -> None:
        self._level, self._bars = self._logging.get_verbosity(), self._logging.is_progress_bar_enabled()
        self._logging.set_verbosity_error()
        self._logging.disable_progress_bar()

    def __exit__(self, *exc: object) -> None:
        self._logging.set_verbosity(self._level)
        if self._bars:
            self._logging.enable_progress_bar()


def one_line(error: BaseException) -> str:
    """The first line of what an error says, or its name."""
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:300]
