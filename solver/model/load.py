"""Loads a base model from a folder, without network, pickles or code from the folder."""

from __future__ import annotations

import copy
import errno
import os
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from solver.arc.jsonfile import read_json
from solver.codec import GRID_VOCABULARY, Codec, grid_codec, text_codec, text_only_codec
from solver.config import ModelSettings
from solver.errors import InputError, one_line
from solver.model.cell_folder import describe_cell_decoder, read_cell_decoder
from solver.model.dtype import pick_device, pick_dtype
from solver.model.folder import CELL_DECODER, EMBEDDED, check_folder
from solver.model.memory import is_out_of_memory
from solver.model.support import folder_quantization, read_config
from solver.prompt_format import TEXT, format_of
from solver.textfile import is_plain, read_text

# set before transformers is imported, which reads them only then
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


@dataclass(frozen=True, eq=False)
class Base:
    """A base model ready for use, in eval mode with frozen weights. Its weights and modules are never changed; see `share`.

    A base without weights (`load_base(..., weights=False)`) describes a model: its modules have shapes, and no process computes
    with them.
    """

    model: Any  # a causal language model: `CellDecoderForCausalLM`, or one of transformers
    codec: Codec
    device: torch.device
    dtype: torch.dtype  # of activations; with NF4 the weights have 4 bits
    path: Path
    context: int  # tokens: the setting, or the model's limit if that is lower
    quantized: bool = False
    cache: Path | None = None  # a folder for these weights in other forms; None: other forms cannot be made
    format: str = "auto"  # the setting model.format, from which the codec was made
    load: Callable[[], Base] | None = None  # loads the same base with weights; None if they are loaded

    @property
    def parameters(self) -> int:
        """The number of weights."""
        return int(self.model.num_parameters())

    def with_weights(self) -> Base:
        """This base with its weights, which are loaded now if they are not loaded already. Raises InputError as `load_base`."""
        return self if self.load is None else self.load()


class _LazyBase:
    """Loads a base when it is called, once while anyone uses it. The reference is weak, so unused weights are freed."""

    def __init__(self, load: Callable[[], Base]) -> None:
        self._load = load
        self._loaded: Callable[[], Base | None] = lambda: None

    def __call__(self) -> Base:
        base = self._loaded()
        if base is None:
            base = self._load()
            self._loaded = weakref.ref(base)
        return base


def load_base(
    path: Path | None,
    settings: ModelSettings,
    weights: bool = True,
    cache: Path | None = None,
    codec: Codec | None = None,
) -> Base:
    """Load the model of a folder in Hugging Face format. `path` None: the embedded model `embedded-base`.

    A folder with `codec.json` uses the grid vocabulary. For any other, the text codec uses the folder's tokenizer, in the prompt
    format of `settings` or of the folder's `format.json`. Weights that are quantised in the folder are used as they are, whatever
    the settings say. With `weights=False` no weights are loaded, for a process that may not compute with the model; see
    `Base.with_weights`. `cache` is a folder for the weights in other forms. `codec` takes the place of the folder's.
    Raises InputError naming the folder if it is missing, holds pickles, is not a causal language model, lacks weights, or
    has a vocabulary that cannot represent grids.
    """
    folder = EMBEDDED if path is None else Path(path)
    check_folder(folder)
    quantized_in_advance = folder_quantization(read_config(folder)) != "none"
    device = pick_device(settings.device)
    dtype = pick_dtype(settings, device)
    own, codec = codec, codec or _read_grid_codec(folder)
    model = _load_model(folder, settings, device, dtype) if weights else _describe_model(folder, settings, dtype)
    embeddings = model.get_input_embeddings().num_embeddings
    if own is None and codec is not None and embeddings != len(GRID_VOCABULARY):
        raise InputError(
            f"{folder}: wrong vocabulary: codec.json asks for {len(GRID_VOCABULARY)} tokens, the model has {embeddings}"
        )
    if codec is None:
        codec = load_text_codec(folder, settings.format)
        if max(codec.vocabulary) >= embeddings:
            raise InputError(f"{folder}: wrong vocabulary: the tokenizer has more tokens than the model's {embeddings}")
    limit = getattr(model.config, "max_position_embeddings", None) or settings.context
    load = None if weights else _LazyBase(lambda: load_base(path, settings, cache=cache, codec=own))
    quantized, context = quantized_in_advance or settings.quantization != "none", min(settings.context, limit)
    return Base(model, codec, device, dtype, folder, context, quantized, cache, settings.format, load)


def share(model: Any) -> Any:
    """A second tree of modules over the same weight tensors. Its modules may be replaced without changing `model`."""
    from itertools import chain

    memo: dict[int, Any] = {id(tensor): tensor for tensor in chain(model.parameters(), model.buffers())}
    for module in model.modules():  # the scales of bitsandbytes' 4-bit weights are shared, too
        state = getattr(module, "quant_state", None)
        if state is not None:
            memo[id(state)] = state
    return copy.deepcopy(model, memo)


def load_codec(folder: Path, format: str = "auto") -> Codec:
    """The codec of a model folder: the grid codec if the folder has a codec.json, else the text codec. Raises InputError."""
    return _read_grid_codec(folder) or load_text_codec(folder, format)


def _read_grid_codec(folder: Path) -> Codec | None:
    """The grid codec if the folder has a codec.json, else None. Raises InputError if that names another version."""
    file = folder / "codec.json"
    if not file.exists():
        return None
    try:
        name = read_json(file, "codec version")["codec"]
    except (KeyError, TypeError):
        raise InputError(f"{file}: does not name a codec") from None
    codec = grid_codec()
    if name != codec.name:
        raise InputError(f"{file}: the model was trained with codec {name!r}, this package writes {codec.name!r}")
    return codec


def load_text_codec(folder: Path, format: str = "auto") -> Codec:
    """The text codec of the tokenizer in a folder, in the prompt format `format` ("auto": the folder's, else the text format).

    Raises InputError if there is no tokenizer, or none that can write grids.
    """
    return prove_tokenizer(load_tokenizer(folder), folder, format)[1]


def text_only_codec_of(tokenizer: Any, source: str) -> Codec:
    """The codec of a tokenizer for text without grids. `source` names it in errors. Raises InputError if it has no end token."""
    if tokenizer.eos_token_id is None:
        raise InputError(f"{source}: the tokenizer has no end-of-sequence token")
    end = int(tokenizer.eos_token_id)
    return text_only_codec(end, end if tokenizer.pad_token_id is None else int(tokenizer.pad_token_id))


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer of a model folder, as transformers reads it. Raises InputError if there is none."""
    from transformers import AutoTokenizer

    try:
        config = {} if is_plain(folder / "config.json") else {"config": transformers_config(folder)}
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False, **config)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise InputError(f"{folder}: cannot load the tokenizer: {one_line(error)}") from None


def prove_tokenizer(tokenizer: Any, folder: Path, format: str = "auto") -> tuple[Any, Codec]:
    """A tokenizer of the folder that can write grids, and its text codec. It is `tokenizer`, or tokenizer.json read unchanged.

    transformers rebuilds some tokenizers by the rules of their class, which loses changes made for a smaller vocabulary. Raises
    InputError if neither can write grids.
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
        unchanged = PreTrainedTokenizerFast(tokenizer_file=str(file), **special)
        return unchanged, text_codec(unchanged, chosen)
    except ValueError as error:
        hint = "; if the model has a prompt format of its own, name it (model.format) or describe it (format.json)" * (
            chosen is TEXT
        )
        raise InputError(f"{folder}: wrong vocabulary: {error}{hint}") from None


def needs_transformers(folder: Path, settings: ModelSettings) -> bool:
    """Whether transformers is used for the model of a checked folder: it is not for this package's own, unless in 4 bits."""
    config = read_config(folder)
    return config.get("model_type") != CELL_DECODER or settings.quantization != "none" or folder_quantization(config) != "none"


def _load_model(folder: Path, settings: ModelSettings, device: torch.device, dtype: torch.dtype) -> Any:
    with _refusing(folder):
        if not needs_transformers(folder, settings):
            model: Any = read_cell_decoder(folder, dtype, device)
        else:
            model = _load_by_transformers(folder, settings, device, dtype)
    model.requires_grad_(False)
    return model.eval()


def _load_by_transformers(folder: Path, settings: ModelSettings, device: torch.device, dtype: torch.dtype) -> Any:
    import transformers

    import solver.model.transformers_registration  # noqa: F401

    options: dict[str, Any] = {}
    if folder_quantization(read_config(folder)) != "none":
        options["device_map"] = {"": device}
    elif settings.quantization == "nf4":
        options["quantization_config"] = transformers.BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
        )
        options["device_map"] = {"": device}
    with quiet(transformers):
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
    check_loaded(info, folder, "config.json")
    if not options:
        model.to(device)
    elif device.type == "cpu":
        _keep_four_bits(model)
    if options:
        for module in model.modules():
            if hasattr(module, "compute_dtype"):
                module.compute_dtype = dtype  # the folder names the dtype of the device that it was made on
    return model


@contextmanager
def _refusing(folder: Path) -> Iterator[None]:
    """Turns any error into an InputError that names the folder, which is the user's, unless the machine is at fault."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # transformers may raise anything for a bad folder
        if is_out_of_memory(error) or getattr(error, "errno", None) in (errno.ENOMEM, errno.EIO):
            raise
        raise InputError(f"{folder}: cannot load the model: {one_line(error)}") from None


def check_loaded(info: Mapping[str, Any], source: Path, configuration: str) -> None:
    """Raises InputError if weights were missing or had other shapes, by the loading info that transformers gives."""
    for kind in ("missing_keys", "mismatched_keys"):
        if info[kind]:
            problem = f"{kind.replace('_', ' ')}: {min(map(str, info[kind]))}"
            raise InputError(f"{source}: weights do not fit {configuration}: {problem}")


def _keep_four_bits(model: Any) -> None:
    """Make bitsandbytes compute the same on every CPU.

    On CPUs with bf16 units it would repack the weights at the first pass without gradients, and then multiply in bf16. That
    gives other numbers than the fit saw, and a layout that no other code can read. It fails for layers narrower than a block.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def _describe_model(folder: Path, settings: ModelSettings, dtype: torch.dtype) -> Any:
    """The modules of a model on the meta device, without weights."""
    with _refusing(folder):
        if not needs_transformers(folder, settings):
            model: Any = describe_cell_decoder(folder, dtype)
        else:
            model = _describe_by_transformers(folder, dtype)
    model.requires_grad_(False)
    return model.eval()


def _describe_by_transformers(folder: Path, dtype: torch.dtype) -> Any:
    import transformers

    import solver.model.transformers_registration  # noqa: F401

    with quiet(transformers), torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(
            transformers_config(folder), dtype=dtype, trust_remote_code=False, attn_implementation="sdpa"
        )
    model.tie_weights()  # transformers 5.0 leaves that to whoever loads weights
    return model


def transformers_config(folder: Path) -> Any:
    """The transformers configuration of config.json, with a byte order mark or without. Raises InputError, or what they raise."""
    from transformers import AutoConfig

    file = folder / "config.json"
    if is_plain(file):
        return AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    with TemporaryDirectory() as place:  # transformers cannot read a byte order mark
        (Path(place) / file.name).write_text(read_text(file, "model configuration"), encoding="utf-8")
        config = AutoConfig.from_pretrained(place, local_files_only=True, trust_remote_code=False)
    config.name_or_path = str(folder)
    return config


@contextmanager
def quiet(transformers: Any) -> Iterator[None]:
    """A block in which transformers shows no progress bars, and logs errors only."""
    logging = transformers.utils.logging
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
